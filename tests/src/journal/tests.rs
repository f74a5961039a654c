use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[test]
fn an_entry_reads_as_one_line_and_keeps_its_details() {
    let line =
        r#"{"at_ms":5,"mac":"52:54:00:88:00:01","uuid":null,"step":"dhcp_offer","file":"snp.efi","port":67}"#;
    let entry = Entry::parse(line).unwrap();
    assert_eq!(entry.to_string(), "was offered snp.efi (port 67)");
    assert_eq!(entry.detail("file"), "snp.efi");
    assert_eq!(entry.detail("reason"), "");
}

#[test]
fn a_step_of_another_version_is_shown_as_it_is() {
    let entry = Entry::parse(r#"{"at_ms":5,"step":"tea_served","cups":2,"seq":7}"#).unwrap();
    assert_eq!(entry.to_string(), "tea served cups=2");
    assert_eq!(entry.seq(), Some(7));
}

#[test]
fn a_follower_that_ends_is_started_again_and_repeated_entries_count_once() {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    let journal = Journal::follow(|| {
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        let script =
            format!(r#"echo '{{"at_ms":1,"step":"pending"}}'; echo '{{"at_ms":2,"step":"s{start}"}}'"#);
        Ok(Command::new("sh").arg("-c").arg(script).stdout(Stdio::piped()).spawn()?)
    })
    .unwrap();
    journal.wait(Duration::from_secs(10), "third start", |entry| entry.step == "s2").unwrap();
    let pending = journal.entries().iter().filter(|entry| entry.step == "pending").count();
    assert_eq!(pending, 1);
}
