use super::*;

#[test]
fn only_numbers_of_vlans_are_vlans() {
    for (number, is) in [(0, false), (1, true), (4094, true), (4095, false), (4096, false)] {
        assert_eq!(VlanId::new(number).is_some(), is, "{number}");
    }
    assert_eq!(VlanId::new(20).unwrap().tag(), [0x81, 0, 0, 20]);
    // Priority and the drop bit are no part of the number.
    assert_eq!(VlanId::of_tag(0xf014), VlanId::new(20));
    assert_eq!(VlanId::of_tag(0xe000), None, "a priority tag is of no VLAN");
}

#[test]
fn what_is_shorter_than_a_header_is_no_frame() {
    let mut outbox = Outbox::new();
    outbox.push(None, &[0; HEADER - 1]);
    assert!(outbox.is_empty());
    assert_eq!(outbox.dropped(), 1);
    outbox.push(VlanId::new(7), &[0; HEADER]);
    assert_eq!(outbox.len(), 1);
}
