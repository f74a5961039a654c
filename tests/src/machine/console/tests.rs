use super::*;

#[test]
fn escape_sequences_and_empty_lines_go_and_a_cursor_jump_ends_a_line() {
    let mut terminal = Terminal::default();
    let lines = terminal.feed(b"\x1b[2J\x1b[01;01HSeaBIOS\x1b[0m (version)\r\n\r\n\x1b[3;1Hnext \x1b[4;1Hla");
    assert_eq!(lines, ["SeaBIOS (version)", "next"]);
    assert_eq!(terminal.partial().as_deref(), Some("la"));
    assert_eq!(terminal.feed(b"st\n"), ["last"]);
}

#[test]
fn a_terminal_reset_ends_a_line() {
    let mut terminal = Terminal::default();
    assert_eq!(terminal.feed(b"starting exec\x1bc\x1b[?7lSeaBIOS\n"), ["starting exec", "SeaBIOS"]);
}

#[test]
fn a_sequence_cut_in_two_reads_is_still_one() {
    let mut terminal = Terminal::default();
    assert!(terminal.feed(b"a\x1b").is_empty());
    assert!(terminal.feed(b"[3").is_empty());
    assert_eq!(terminal.feed(b"1mb\n"), ["ab"]);
}

#[test]
fn a_wait_sees_text_that_has_no_line_end_yet_and_the_file_has_it_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let console = Console::new(dir.path().join("console.log"));
    let (output, mut machine) = io::pipe().unwrap();
    console.follow(1, Instant::now(), output).unwrap();
    machine.write_all(b"one\nConfiguring...").unwrap();
    let line = console.wait(Duration::from_secs(5), "Configuring").unwrap();
    assert_eq!((line.cycle, line.text.as_str()), (1, "Configuring..."));
    machine.write_all(b" ok").unwrap();
    drop(machine);
    console.wait_for(Duration::from_secs(5), "the end", |line| line.text == "Configuring... ok").unwrap();
    let log = crate::wait::wait_until(Duration::from_secs(5), "the log", || {
        std::fs::read_to_string(console.path()).ok().filter(|log| log.ends_with("ok\n"))
    });
    assert_eq!(log.unwrap().lines().count(), 2);
}
