use std::net::Ipv4Addr;

use super::*;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

fn at(secs: u64) -> Time {
    Time::from_millis(secs * 1_000)
}

fn uuid(number: usize) -> Uuid {
    Uuid::from_u128(number as u128)
}

fn peer(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

#[test]
fn who_just_asked_what_to_boot_may_fetch_its_configuration() {
    let mut vouchers = Vouchers::new();
    assert_eq!(vouchers.check(at(0), uuid(1), peer(1)), Err(Reason::NeverAsked));
    vouchers.vouch(at(0), uuid(1), Some(MAC), peer(1));
    assert_eq!(vouchers.check(at(1), uuid(1), peer(1)), Ok(()));
    assert_eq!(vouchers.check(at(1), uuid(2), peer(1)), Err(Reason::NeverAsked));
    assert_eq!(vouchers.check(at(1), uuid(1), peer(2)), Err(Reason::OtherAddress));
    assert_eq!(vouchers.mac(uuid(1)), Some(MAC));
}

#[test]
fn it_holds_for_ten_minutes_and_asking_again_renews_it() {
    let mut vouchers = Vouchers::new();
    vouchers.vouch(at(0), uuid(1), None, peer(1));
    assert_eq!(vouchers.check(at(599), uuid(1), peer(1)), Ok(()));
    assert_eq!(vouchers.check(at(600), uuid(1), peer(1)), Err(Reason::Expired));
    vouchers.vouch(at(700), uuid(1), None, peer(1));
    assert_eq!(vouchers.check(at(1_299), uuid(1), peer(1)), Ok(()));
}

#[test]
fn a_machine_that_dhcp_saw_move_may_fetch_from_its_new_address() {
    let mut vouchers = Vouchers::new();
    vouchers.vouch(at(0), uuid(1), Some(MAC), peer(1));
    vouchers.moved(Mac([2, 0, 0, 0, 0, 9]), peer(3));
    assert_eq!(vouchers.check(at(1), uuid(1), peer(3)), Err(Reason::OtherAddress));
    vouchers.moved(MAC, peer(2));
    assert_eq!(vouchers.check(at(1), uuid(1), peer(2)), Ok(()));
    assert_eq!(vouchers.check(at(1), uuid(1), peer(1)), Ok(()));
    // A new boot starts over.
    vouchers.vouch(at(2), uuid(1), Some(MAC), peer(1));
    assert_eq!(vouchers.check(at(3), uuid(1), peer(2)), Err(Reason::OtherAddress));
}

#[test]
fn fetches_are_limited_until_the_voucher_is_over() {
    let mut vouchers = Vouchers::new();
    vouchers.vouch(at(0), uuid(1), None, peer(1));
    for _ in 0..CHECKS_MAX {
        assert_eq!(vouchers.check(at(1), uuid(1), peer(1)), Ok(()));
    }
    assert_eq!(vouchers.check(at(1), uuid(1), peer(1)), Err(Reason::TooMany));
    vouchers.vouch(at(2), uuid(1), None, peer(1));
    assert_eq!(vouchers.check(at(2), uuid(1), peer(1)), Err(Reason::TooMany));
    vouchers.vouch(at(700), uuid(1), None, peer(1));
    assert_eq!(vouchers.check(at(700), uuid(1), peer(1)), Ok(()));
}

#[test]
fn one_address_cannot_push_the_others_out() {
    let mut vouchers = Vouchers::new();
    vouchers.vouch(at(0), uuid(0), None, peer(0));
    for number in 1..=VOUCHERS_MAX * 2 {
        vouchers.vouch(at(1), uuid(number), None, peer(1));
    }
    assert_eq!(vouchers.len(), 1 + PER_ADDRESS_MAX);
    assert_eq!(vouchers.check(at(2), uuid(0), peer(0)), Ok(()));
}

#[test]
fn the_oldest_makes_room() {
    let mut vouchers = Vouchers::new();
    for number in 0..=VOUCHERS_MAX {
        let address = peer(u32::try_from(number).unwrap());
        vouchers.vouch(Time::from_millis(number as u64), uuid(number), None, address);
    }
    assert_eq!(vouchers.len(), VOUCHERS_MAX);
    assert_eq!(vouchers.check(at(5), uuid(0), peer(0)), Err(Reason::NeverAsked));
    assert_eq!(vouchers.check(at(5), uuid(1), peer(1)), Ok(()));
}

#[test]
fn refusals_say_what_to_answer() {
    assert_eq!(Refusal::from(Reason::TooMany), Refusal::TooMany);
    for reason in [Reason::NeverAsked, Reason::Expired, Reason::OtherAddress] {
        assert_eq!(Refusal::from(reason), Refusal::Forbidden(reason.to_string()));
    }
}
