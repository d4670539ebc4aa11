//! The program as its users call it.

use assert_cmd::Command;
use predicates::prelude::*;

/// The program in an empty home, with no variables of ours.
fn program(home: &tempfile::TempDir) -> Command {
    let mut program = Command::cargo_bin("esdb-gater").unwrap();
    program.env_clear().env("HOME", home.path()).timeout(std::time::Duration::from_secs(60));
    program
}

#[test]
fn help_and_version_are_answered_on_standard_output() {
    let home = tempfile::tempdir().unwrap();
    let usage = predicate::str::contains("Usage: esdb-gater");
    program(&home).arg("help").assert().code(0).stdout(usage.clone()).stderr("");
    program(&home).arg("--help").assert().code(0).stdout(usage).stderr("");
    let version = format!("esdb-gater {}\n", env!("CARGO_PKG_VERSION"));
    program(&home).arg("--version").assert().code(0).stdout(version);
    let start = predicate::str::contains("--data-dir").and(predicate::str::contains("--embedded"));
    program(&home).args(["help", "start"]).assert().code(0).stdout(start);
}

#[test]
fn a_command_line_that_cannot_be_understood_exits_64() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, complaint) in [
        (&[][..], "Usage"),
        (&["serve"], "serve"),
        (&["start", "--nmae", "a@h"], "--nmae"),
        (&["start", "--name"], "--name"),
        (&["start", "--cookie", "a", "--cookie-file", "b"], "--cookie-file"),
    ] {
        let complains = predicate::str::contains(complaint);
        program(&home).args(arguments).assert().code(64).stdout("").stderr(complains);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_exits_64_and_names_the_key() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("gater.toml");
    std::fs::write(&file, "[security]\nmessage_ttl_seconds = 'long'\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, key) in [
        (&["start"][..], "name is missing"),
        (&["start", "--name", "gater"], "name (from --name)"),
        (&["start", "--name", "g@h"], "cookie is missing"),
        (&["start", "--name", "g@h", "--cookie", "c", "--listen", "x"], "listen (from --listen)"),
        (&["start", "--name", "g@h", "--cookie", "c", "--join", "x"], "join (from --join)"),
        (
            &["start", "--name", "g@h", "--cookie", "c", "--config", file],
            "security.message_ttl_seconds (from ",
        ),
    ] {
        let names = predicate::str::contains(format!("esdb-gater: {key}"));
        program(&home).args(arguments).assert().code(64).stdout("").stderr(names);
    }
}

#[test]
fn a_log_filter_that_cannot_be_understood_exits_64_and_names_the_variable() {
    let home = tempfile::tempdir().unwrap();
    let names = predicate::str::contains("ESDB_GATER_LOG");
    program(&home)
        .args(["start", "--name", "g@h", "--cookie", "c"])
        .env("ESDB_GATER_LOG", "=[=")
        .assert()
        .code(64)
        .stderr(names);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_and_exits_1() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let names = predicate::str::contains("a-file");
    program(&home)
        .args(["start", "--name", "store-cli@127.0.0.1", "--cookie", "c", "--data-dir"])
        .arg(file.join("data"))
        .assert()
        .code(1)
        .stdout("")
        .stderr(names);
}

#[test]
fn logs_off_a_terminal_are_json_lines() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let output = program(&home)
        .args(["start", "--name", "store-cli@127.0.0.1", "--cookie", "c", "--data-dir"])
        .arg(file.join("data"))
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let warning = log.lines().find(|line| line.contains("no secret is configured")).unwrap();
    assert!(warning.starts_with('{') && warning.ends_with('}'), "{warning}");
    assert!(warning.contains("\"level\":\"WARN\""), "{warning}");
}
