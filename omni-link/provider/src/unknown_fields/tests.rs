use super::*;
use crate::private::WipeStatusSpec;

/// As a newer version writes it.
#[derive(Clone, PartialEq, prost::Message)]
struct Newer {
    #[prost(string, tag = "1")]
    last_wipe_id: String,
    #[prost(bool, tag = "3")]
    initial_wipe_done: bool,
    #[prost(string, tag = "900")]
    news: String,
    #[prost(uint64, repeated, tag = "901")]
    numbers: Vec<u64>,
}

fn newer() -> Newer {
    Newer {
        last_wipe_id: "a".to_owned(),
        initial_wipe_done: true,
        news: "kept".to_owned(),
        numbers: vec![1, 2, 3],
    }
}

#[test]
fn fields_that_we_do_not_know_survive_our_write() {
    let old = Bytes::from(newer().encode_to_vec());
    let ours = WipeStatusSpec { last_wipe_id: "b".to_owned(), ..WipeStatusSpec::default() };
    let written = encode_keeping(&old, &ours);
    let read = Newer::decode(written.clone()).unwrap();
    let expected = Newer { last_wipe_id: "b".to_owned(), initial_wipe_done: false, ..newer() };
    assert_eq!(read, expected);
    assert_eq!(encode_keeping(&written, &ours), written, "nothing is kept twice");
}

#[test]
fn an_explicit_zero_does_not_win_over_our_value() {
    // Field 3 (bool) written out as false.
    let old = Bytes::from_static(&[0x18, 0x00]);
    let ours = WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() };
    assert_eq!(WipeStatusSpec::decode(encode_keeping(&old, &ours)).unwrap(), ours);
}

#[test]
fn bytes_that_are_no_message_are_dropped() {
    let ours = WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() };
    for old in [&[0xff_u8; 12][..], &[0x0a, 0x7f], &[0x03], &[0x04]] {
        let written = encode_keeping(&Bytes::copy_from_slice(old), &ours);
        assert_eq!(WipeStatusSpec::decode(written).unwrap(), ours);
    }
}
