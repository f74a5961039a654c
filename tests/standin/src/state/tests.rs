use std::io::Cursor;

use super::*;

fn sample() -> State {
    State {
        cmdline: "talos.config=http://10.0.0.1/config?u=${uuid}".to_owned(),
        unique_token: "{}".to_owned(),
    }
}

fn disk() -> Cursor<Vec<u8>> {
    Cursor::new(vec![0; 3 * 1024 * 1024])
}

#[test]
fn what_was_written_is_read_back() {
    let mut disk = disk();
    sample().write(&mut disk).unwrap();
    assert_eq!(State::read(&mut disk).unwrap(), Some(sample()));
}

#[test]
fn an_empty_or_short_disk_has_no_state() {
    assert_eq!(State::read(&mut disk()).unwrap(), None);
    assert_eq!(State::read(&mut Cursor::new(Vec::new())).unwrap(), None);
}

#[test]
fn a_damaged_state_is_an_error_and_no_panic() {
    let mut disk = disk();
    sample().write(&mut disk).unwrap();
    let at = usize::try_from(OFFSET).unwrap();
    disk.get_mut()[at + 13] = 0xff;
    assert!(State::read(&mut disk).is_err());
    disk.get_mut()[at + 8..at + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(State::read(&mut disk).is_err());
    sample().write(&mut disk).unwrap();
    disk.get_mut().truncate(at + 20);
    assert!(State::read(&mut disk).is_err());
}
