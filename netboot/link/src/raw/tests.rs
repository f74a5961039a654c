use super::check::{Refused, check, filter};
use super::*;
use crate::frames::Frame;

fn network() -> Network {
    Network::new(Ipv4Addr::new(10, 1, 0, 1), 24).unwrap()
}

#[test]
fn only_addresses_of_hosts_make_a_network() {
    for (address, prefix, is) in [
        ([10, 1, 0, 1], 24, true),
        ([10, 1, 0, 0], 24, false),
        ([10, 1, 0, 255], 24, false),
        ([10, 1, 0, 1], 31, false),
        ([10, 1, 0, 1], 0, false),
        ([127, 0, 0, 1], 8, false),
        ([224, 0, 0, 1], 24, false),
        ([0, 0, 0, 0], 24, false),
    ] {
        assert_eq!(Network::new(address.into(), prefix).is_some(), is, "{address:?}/{prefix}");
    }
    assert!(network().has_host([10, 1, 0, 9].into()));
    for outside in [[10, 1, 1, 9], [10, 1, 0, 0], [10, 1, 0, 255], [0, 0, 0, 0], [127, 0, 0, 1]] {
        assert!(!network().has_host(outside.into()), "{outside:?}");
    }
}

#[test]
fn the_own_mac_is_not_the_interfaces_and_of_one_card() {
    for mac in [[0x52, 0x54, 0, 0x88, 0, 1], [0, 0x1b, 0x21, 1, 2, 3]] {
        let own = own_mac(Mac(mac));
        assert_ne!(own.0, mac);
        assert!(own.is_unicast() && own.0[0] & 2 == 2);
        assert_eq!(own, own_mac(Mac(mac)));
    }
}

#[test]
fn every_jump_of_the_filter_ends_inside_it() {
    let program = filter(Mac([2, 0, 0, 0, 0, 1]));
    for (at, instruction) in program.iter().enumerate() {
        if instruction.code & 7 == 5 {
            for jump in [instruction.jt, instruction.jf] {
                assert!(at + 1 + usize::from(jump) < program.len(), "instruction {at}");
            }
        }
    }
}

/// An ICMP-free IPv4 packet with UDP in it, right in everything.
fn datagram(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};
    let (udp, data) = (UdpRepr { src_port: 2000, dst_port: 69 }, b"question");
    let ip = Ipv4Repr {
        src_addr: from.into(),
        dst_addr: to.into(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + data.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + ip.buffer_len() + ip.payload_len];
    bytes[12..14].copy_from_slice(&[8, 0]);
    let sums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[14..]), &sums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[34..]),
        &Ipv4Addr::from(from).into(),
        &Ipv4Addr::from(to).into(),
        data.len(),
        |room| room.copy_from_slice(data),
        &sums,
    );
    bytes
}

fn checked(bytes: &[u8]) -> Result<(), Refused> {
    check(&Frame { vlan: None, card: &[0; 10], bytes }, network())
}

#[test]
fn what_is_of_the_network_and_whole_passes() {
    for to in [[10, 1, 0, 1], [10, 1, 0, 255], [255; 4]] {
        assert_eq!(checked(&datagram([10, 1, 0, 9], to)), Ok(()), "{to:?}");
    }
}

#[test]
fn sources_outside_the_network_do_not_pass() {
    for from in [[10, 2, 0, 9], [10, 1, 0, 1], [10, 1, 0, 255], [0; 4], [127, 0, 0, 1], [255; 4]] {
        assert_eq!(checked(&datagram(from, [10, 1, 0, 1])), Err(Refused::Foreign), "{from:?}");
    }
    assert_eq!(checked(&datagram([10, 1, 0, 9], [10, 1, 0, 2])), Err(Refused::Elsewhere));
}

#[test]
fn damaged_frames_do_not_pass() {
    let good = datagram([10, 1, 0, 9], [10, 1, 0, 1]);
    for at in 14..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(checked(&bad).is_err(), "byte {at}");
    }
    let mut wrong_sum = good.clone();
    *wrong_sum.last_mut().unwrap() ^= 1;
    assert_eq!(checked(&wrong_sum), Err(Refused::Checksum));
    // What a card or the kernel of a virtual machine has not summed up yet is no damage.
    let mut card = [0; 10];
    card[0] = 1;
    assert_eq!(check(&Frame { vlan: None, card: &card, bytes: &wrong_sum }, network()), Ok(()));
}

#[test]
fn no_length_of_a_frame_makes_it_panic_or_pass_cut() {
    let good = datagram([10, 1, 0, 9], [10, 1, 0, 1]);
    for length in 0..good.len() {
        assert_eq!(checked(&good[..length]), Err(Refused::Malformed), "{length}");
    }
    let mut arp = vec![0; 14 + 28];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(checked(&arp), Err(Refused::Malformed), "no kind of ARP");
    arp[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[28..32].copy_from_slice(&[10, 1, 0, 9]);
    arp[38..42].copy_from_slice(&[10, 1, 0, 1]);
    assert_eq!(checked(&arp), Ok(()));
    arp[28..32].copy_from_slice(&[10, 9, 0, 9]);
    assert_eq!(checked(&arp), Err(Refused::Foreign));
    for length in 0..arp.len() {
        assert_eq!(checked(&arp[..length]), Err(Refused::Malformed), "{length}");
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_check_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0..3) {
            if let (Some(place), 1..) = (bytes.get_mut(12..14), kind) {
                place.copy_from_slice(if kind == 1 { &[8, 0] } else { &[8, 6] });
            }
            let _ = checked(&bytes);
        }
    }
}
