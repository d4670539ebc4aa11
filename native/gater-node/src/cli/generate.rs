//! What is made of the program itself: a configuration, completions, manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::CommandLine;
use super::error::CommandError;
use super::output::Output;
use crate::config::documented;

/// `generate-config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  esdb-gater generate-config > esdb-gater.toml
  esdb-gater generate-config --bare")]
pub struct GenerateConfig {
    /// Leave out the comments, and what is not set
    #[arg(long)]
    bare: bool,
}

/// `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  esdb-gater completions bash > /etc/bash_completion.d/esdb-gater
  source <(esdb-gater completions zsh)")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  esdb-gater man | man -l -
  esdb-gater man --out /usr/local/share/man/man1")]
pub struct Man {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl GenerateConfig {
    /// Prints a configuration with every key.
    pub fn run(self) -> Result<u8, CommandError> {
        let text = match self.bare {
            false => documented::EXAMPLE.to_owned(),
            true => documented::bare(),
        };
        Output::new(false).text(&text);
        Ok(0)
    }
}

impl Completions {
    /// Prints what a shell needs.
    pub fn run(self) -> Result<u8, CommandError> {
        let mut out = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "esdb-gater", &mut out);
        Output::new(false).text(&String::from_utf8_lossy(&out));
        Ok(0)
    }
}

impl Man {
    /// Prints the manual page, or writes all of them.
    pub fn run(self) -> Result<u8, CommandError> {
        match &self.out {
            Some(directory) => {
                std::fs::create_dir_all(directory)?;
                clap_mangen::generate_to(CommandLine::command(), directory)?;
                std::fs::write(directory.join("esdb-gater.1"), page()?)?;
                let shown = directory.display();
                Output::new(false).text(&format!("manual pages are in {shown}\n"));
            }
            None => Output::new(false).text(&page()?),
        }
        Ok(0)
    }
}

/// The manual page of the program, with all keys of its configuration.
fn page() -> Result<String, CommandError> {
    let man = clap_mangen::Man::new(CommandLine::command());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    man.render_subcommands_section(&mut out)?;
    let mut text = String::from_utf8_lossy(&out).into_owned();
    text += ".SH CONFIGURATION\nFlags go before variables, variables before the file, the file \
             before defaults.\n";
    for key in documented::keys() {
        text += &format!(".TP\n\\fB{}\\fR\n", escaped(&key.path));
        for (name, value) in [("variable", &key.variable), ("example", &key.example)] {
            if let Some(value) = value {
                text += &format!("{name} {}\n.br\n", escaped(value));
            }
        }
        text += &format!("{}\n", escaped(&key.help));
    }
    Ok(text)
}

/// Text that roff takes as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_has_every_command_and_every_key() {
        let page = page().unwrap();
        for command in CommandLine::command().get_subcommands() {
            let name = escaped(command.get_name());
            assert!(page.contains(&name), "{name}");
        }
        for key in documented::keys() {
            let path = escaped(&key.path);
            assert!(page.contains(&format!("\\fB{path}\\fR")), "{path}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
        for command in CommandLine::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
