//! The binary as a user meets it: wrong input first.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn bootlace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootlace"))
        .args(args)
        .env_remove("BOOTLACE_CONFIG")
        .env_remove("BOOTLACE_SOCKET")
        .output()
        .expect("the binary was built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(dir: &Path, text: &str) -> String {
    let path = dir.join("appliance.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_wrong_configuration_is_named_by_file_line_and_key_and_nothing_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let text = format!("state_dir = \"{}\"\n\n[boot]\nfrom_disk_method = \"magic\"\n", state.display());
    let path = config(dir.path(), &text);
    let output = bootlace(&["run", "-c", &path]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains(&format!("{path}:4: boot.from_disk_method")), "{}", stderr(&output));
    assert!(!state.exists(), "nothing is made for a wrong configuration");
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_configuration() {
    let output = bootlace(&["run", "-c", "/nonexistent/appliance.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("/nonexistent/appliance.toml"), "{}", stderr(&output));
}

#[test]
fn a_valid_configuration_can_be_checked_without_running_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let path = config(dir.path(), &format!("state_dir = \"{}\"\n", state.display()));
    let output = bootlace(&["run", "--check", "-c", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!state.exists());
}

#[test]
fn a_command_without_an_appliance_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock").display().to_string();
    for args in [&["machines", "list"][..], &["machines", "accept", "x"], &["journal"]] {
        let output = bootlace(&[args, &["--socket", &socket]].concat());
        assert_eq!(output.status.code(), Some(69), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("bootlace run"), "{}", stderr(&output));
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [&["machines", "accept"][..], &["dance"], &["machines", "list", "-o", "xml"]] {
        assert_eq!(bootlace(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = bootlace(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("Examples:") && stdout(&output).contains("Exit codes:"));
    for command in ["run", "machines", "journal", "completion"] {
        assert_eq!(bootlace(&[command, "--help"]).status.code(), Some(0), "{command}");
    }
}

#[test]
fn version_and_completion_are_printed() {
    assert!(stdout(&bootlace(&["version"])).starts_with("bootlace "));
    for shell in ["bash", "zsh", "fish"] {
        let output = bootlace(&["completion", shell]);
        assert!(stdout(&output).contains("machines"), "{shell}");
    }
}
