//! How answers are printed: tables and colours for people, JSON for programs.

use std::io::{self, IsTerminal, Write, stdout};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// What a piece of text says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// All is well.
    Good,
    /// Something should be looked at.
    Warning,
    /// Something is wrong.
    Bad,
    /// Less important.
    Dim,
    /// More important.
    Strong,
}

/// Where answers go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    colour: bool,
    terminal: bool,
}

impl Output {
    /// Standard output, as JSON or as text. Colours need a terminal, and that neither `NO_COLOR`
    /// nor `TERM=dumb` forbids them.
    pub fn new(json: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, terminal, colour: terminal && !json && !dumb && !set("NO_COLOR") }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints text. That nobody reads it is no error.
    pub fn text(&self, text: &str) {
        let mut out = stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Prints a value as one line of JSON.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string(value).map_err(io::Error::other)?;
        text.push('\n');
        self.text(&text);
        Ok(())
    }

    /// `text` in the colour that says `paint`, where there are colours.
    pub fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "1;31",
            Paint::Dim => "2",
            Paint::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A table: with lines and as wide as the terminal, or plain columns elsewhere. Numbers are
    /// aligned to the right.
    pub fn table(&self, header: &[&str], rows: &[Vec<Value>]) -> String {
        let mut table = Table::new();
        if !self.colour {
            table.force_no_tty();
        }
        match self.terminal {
            true => {
                table.load_style(presets::UTF8_HORIZONTAL_ONLY);
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
            false => {
                table.load_style(presets::NOTHING);
            }
        }
        let strong = |text: &&str| match self.colour {
            true => Cell::new(text).add_attribute(Attribute::Bold),
            false => Cell::new(text),
        };
        table.set_header(header.iter().map(strong).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.iter().map(|value| self.cell(value)).collect::<Vec<_>>());
        }
        let text = table.trim_fmt();
        // Plain columns begin with the padding of their cells.
        let lines = text.lines().map(|line| match self.terminal {
            true => line.to_owned(),
            false => line.strip_prefix(' ').unwrap_or(line).to_owned(),
        });
        lines.map(|line| line + "\n").collect()
    }

    fn cell(&self, value: &Value) -> Cell {
        let cell = match value {
            Value::Text(text) | Value::Painted(_, text) => Cell::new(printable(text)),
            Value::Number(text) => Cell::new(text).set_alignment(CellAlignment::Right),
        };
        match value {
            Value::Painted(paint, _) if self.colour => match paint {
                Paint::Good => cell.fg(Color::Green),
                Paint::Warning => cell.fg(Color::Yellow),
                Paint::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
                Paint::Dim => cell.add_attribute(Attribute::Dim),
                Paint::Strong => cell.add_attribute(Attribute::Bold),
            },
            _ => cell,
        }
    }
}

/// What stands in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Text that says something about itself.
    Painted(Paint, String),
    /// A number as it is printed.
    Number(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number.to_string())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(number.to_string())
    }
}

impl Value {
    /// A number of bytes for people.
    pub fn bytes(number: u64) -> Self {
        Self::Number(bytes(number))
    }

    /// What happens in a second.
    pub fn rate(rate: f64) -> Self {
        Self::Number(format!("{rate:.1}/s"))
    }

    /// `yes` or `no`; a no is painted.
    pub fn yes(yes: bool, paint: Paint) -> Self {
        if yes { Self::Text("yes".into()) } else { Self::Painted(paint, "no".into()) }
    }

    /// A count of what should not be.
    pub fn bad(number: u64) -> Self {
        match number {
            0 => Self::Number("0".into()),
            number => Self::Painted(Paint::Bad, number.to_string()),
        }
    }
}

/// `text` without what would command a terminal: names of topics and nodes come from others.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// A number of bytes for people.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A time for people: the two largest units.
pub fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, minutes) => format!("{minutes} min {rest} s"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { json: false, colour: false, terminal: false };

    #[test]
    fn off_a_terminal_a_table_is_plain_columns() {
        let rows = [vec!["a@h".into(), 5_u64.into()], vec!["longer@h".into(), 12_345_u64.into()]];
        let table = PLAIN.table(&["node", "count"], &rows);
        assert_eq!(table, "node      count\na@h           5\nlonger@h  12345\n");
        assert_eq!(PLAIN.paint(Paint::Bad, "x"), "x");
    }

    #[test]
    fn names_of_others_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        let table = PLAIN.table(&["topic"], &[vec!["\x1b]0;owned\x07".into()]]);
        assert!(!table.contains('\x1b'), "{table:?}");
    }

    #[test]
    fn bytes_and_times_have_the_unit_that_fits() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(3 * 3600), "3 h 0 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }
}
