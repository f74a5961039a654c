use super::super::codec::text;
use super::super::fixtures::{self, client, discover_from_bios, discover_from_linux, discover_from_ovmf};
use super::super::responder::{Datagram, Mode, Packet, Responder, ResponderConfig};
use super::*;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const UNIX: u64 = 1_800_000_000;
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const UUID: Uuid = Uuid::from_u128(0x8c9d_6b1e_0d4b_4b0e_9d6f_0123_4567_89ab);

const fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

const fn machine(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, number])
}

const fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn config() -> ServerConfig {
    ServerConfig {
        subnet: "192.0.2.0/24".parse().unwrap(),
        ranges: vec![address(100)..=address(104)],
        reservations: Vec::new(),
        routers: vec![ROUTER],
        dns: vec![address(53), address(54)],
        ntp: vec![address(123)],
        domain: Some("pxe.example".into()),
        search: vec!["a.example".into()],
        lease_time: Duration::from_secs(3_600),
        renew_after: None,
        rebind_after: None,
    }
}

/// A responder in mode `server`, and what it wrote down.
struct Site {
    responder: Responder,
    written: Vec<Lease>,
    now: Time,
}

impl Site {
    fn begin(config: ServerConfig, leases: Vec<Lease>, now: Time) -> Self {
        config.check(OWN).unwrap();
        let binaries = ["snp.efi", "undionly.kpxe"].into_iter().collect();
        let responder = Responder::new(
            now,
            ResponderConfig {
                boot: ProxyConfig { server: OWN, http_port: 50042, binaries },
                mac: OWN_MAC,
                subnets: vec![config.subnet],
                mode: Mode::Server { config: Box::new(config), leases, unix_now: UNIX },
                seed: 9,
            },
        );
        Self { responder, written: Vec::new(), now }
    }

    /// Serving, with its addresses probed.
    fn serving(config: ServerConfig) -> Self {
        let mut site = Self::begin(config, Vec::new(), at(0));
        site.wait(Duration::from_secs(6));
        site.events();
        site
    }

    /// Lets time pass; gives what was sent meanwhile.
    fn wait(&mut self, duration: Duration) -> Vec<Transmit> {
        let end = self.now + duration;
        let mut sent = self.flush();
        while let Some(deadline) = self.responder.poll_timeout().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.responder.handle_timeout(self.now);
            sent.extend(self.flush());
        }
        self.now = end;
        sent
    }

    fn flush(&mut self) -> Vec<Transmit> {
        self.written.extend(std::iter::from_fn(|| self.responder.poll_record()));
        std::iter::from_fn(|| self.responder.poll_transmit()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.responder.poll_event()).collect()
    }

    fn hear_from(&mut self, source: SocketAddrV4, message: &Message) -> Option<(Datagram, Message)> {
        let payload = message.emit();
        let from = Mac(message.chaddr[..6].try_into().unwrap());
        let packet = Packet { port: Port::Server67, source, from, payload: &payload };
        self.responder.handle_packet(self.now, &packet);
        let mut answers: Vec<Datagram> = self
            .flush()
            .into_iter()
            .filter_map(|transmit| match transmit {
                Transmit::Datagram(datagram) => Some(datagram),
                Transmit::ArpProbe(_) => None,
            })
            .collect();
        assert!(answers.len() <= 1, "one answer a question");
        answers.pop().map(|datagram| (datagram.clone(), Message::parse(&datagram.payload).unwrap()))
    }

    fn hear(&mut self, message: &Message) -> Option<Message> {
        self.hear_from(NOWHERE, message).map(|(_, reply)| reply)
    }

    /// From DISCOVER to ACK.
    fn boot(&mut self, mac: Mac) -> Option<Ipv4Addr> {
        let offer = self.hear(&of(mac, discover_from_linux()))?;
        let ack = self.hear(&choosing(mac, offer.yiaddr))?;
        (request::message_type(&ack) == Some(MessageType::Ack)).then_some(ack.yiaddr)
    }
}

fn of(mac: Mac, mut message: Message) -> Message {
    message.chaddr[..6].copy_from_slice(&mac.0);
    message
}

fn choosing(mac: Mac, address: Ipv4Addr) -> Message {
    let mut message = of(mac, client(MessageType::Request));
    message.options.set(option::REQUESTED_IP, &address.octets());
    message.options.set(option::SERVER_ID, &OWN.octets());
    message
}

fn rebooting(mac: Mac, address: Ipv4Addr) -> Message {
    let mut message = of(mac, client(MessageType::Request));
    message.options.set(option::REQUESTED_IP, &address.octets());
    message
}

fn renewing(mac: Mac, address: Ipv4Addr) -> Message {
    let mut message = of(mac, client(MessageType::Request));
    message.ciaddr = address;
    message.options.remove(option::REQUESTED_IP);
    message
}

fn kind(message: &Message) -> MessageType {
    request::message_type(message).unwrap()
}

fn seconds(message: &Message, number: u8) -> Option<u32> {
    message.options.value(number).map(|value| u32::from_be_bytes(value.try_into().unwrap()))
}

fn probes(sent: &[Transmit]) -> Vec<Ipv4Addr> {
    let probe = |transmit: &Transmit| match transmit {
        Transmit::ArpProbe(address) => Some(*address),
        Transmit::Datagram(_) => None,
    };
    sent.iter().filter_map(probe).collect()
}

// ---- Other servers

#[test]
fn it_asks_for_other_servers_before_it_serves() {
    let mut site = Site::begin(config(), Vec::new(), at(0));
    let sent = site.wait(Duration::from_secs(3));
    let discovers: Vec<Message> = sent
        .iter()
        .filter_map(|transmit| match transmit {
            Transmit::Datagram(datagram) => {
                assert_eq!(
                    (datagram.from_port, datagram.to.port(), datagram.link),
                    (68, 67, Link::Everybody)
                );
                Some(Message::parse(&datagram.payload).unwrap())
            }
            Transmit::ArpProbe(_) => None,
        })
        .collect();
    assert_eq!(discovers.len(), 3);
    assert!(discovers.iter().all(|message| message.hardware_address() == OWN_MAC.0));
    assert_eq!(site.hear(&discover_from_linux()), None, "not yet");
    site.wait(Duration::from_secs(3));
    assert!(site.events().contains(&Event::Serving));
    assert!(site.hear(&discover_from_linux()).is_some());
}

fn answer_to_search(site: &mut Site, yiaddr: Ipv4Addr) {
    let sent = site.wait(Duration::from_millis(1));
    let Some(Transmit::Datagram(discover)) =
        sent.into_iter().find(|sent| matches!(sent, Transmit::Datagram(_)))
    else {
        panic!("it does not search")
    };
    let mut offer = Message::parse(&discover.payload).unwrap().reply();
    offer.yiaddr = yiaddr;
    offer.options.push(option::MESSAGE_TYPE, &[MessageType::Offer.number()]);
    offer.options.push(option::SERVER_ID, &address(2).octets());
    let (payload, source) = (offer.emit(), SocketAddrV4::new(address(2), 67));
    let from = Mac([2, 0, 0, 0, 0, 2]);
    site.responder.handle_answer(at(1), &Packet { port: Port::Server67, source, from, payload: &payload });
}

#[test]
fn it_does_not_serve_when_another_server_answers() {
    let mut site = Site::begin(config(), Vec::new(), at(0));
    answer_to_search(&mut site, address(77));
    site.wait(Duration::from_secs(60));
    assert_eq!(site.events(), [Event::OtherServer { server: address(2) }]);
    assert_eq!(site.hear(&discover_from_linux()), None);
}

#[test]
fn a_proxy_that_gives_no_address_is_no_other_server() {
    let mut site = Site::begin(config(), Vec::new(), at(0));
    answer_to_search(&mut site, Ipv4Addr::UNSPECIFIED);
    site.wait(Duration::from_secs(6));
    assert!(site.events().contains(&Event::Serving));
}

// ---- Addresses

#[test]
fn a_client_gets_an_address_with_all_options_and_it_is_written_before_the_ack() {
    let mut site = Site::serving(config());
    let offer = site.hear(&discover_from_linux()).unwrap();
    assert_eq!(kind(&offer), MessageType::Offer);
    assert!(config().in_ranges(offer.yiaddr));
    assert!(site.written.is_empty(), "an offer is no lease");

    let mac = Mac(fixtures::MAC);
    let payload = choosing(mac, offer.yiaddr).emit();
    let packet = Packet { port: Port::Server67, source: NOWHERE, from: mac, payload: &payload };
    site.responder.handle_packet(site.now, &packet);
    let until = UNIX + site.now.as_millis() / 1_000 + 3_600;
    let lease = Lease { state: LeaseState::Bound, until, mac, address: offer.yiaddr };
    assert_eq!(site.responder.poll_record(), Some(lease));
    let Some(Transmit::Datagram(datagram)) = site.responder.poll_transmit() else { panic!("no ACK") };
    let ack = Message::parse(&datagram.payload).unwrap();
    assert_eq!((kind(&ack), ack.yiaddr), (MessageType::Ack, offer.yiaddr));
    assert_eq!(seconds(&ack, option::LEASE_TIME), Some(3_600));
    assert_eq!(seconds(&ack, option::RENEWAL), Some(1_800));
    assert_eq!(seconds(&ack, option::REBINDING), Some(3_150));
    let value = |number| ack.options.value(number).map(<[u8]>::to_vec);
    assert_eq!(value(option::SUBNET_MASK), Some(vec![255, 255, 255, 0]));
    assert_eq!(value(option::BROADCAST), Some(vec![192, 0, 2, 255]));
    assert_eq!(value(option::ROUTER), Some(vec![192, 0, 2, 254]));
    assert_eq!(value(option::DNS), Some(vec![192, 0, 2, 53, 192, 0, 2, 54]));
    assert_eq!(value(option::NTP), Some(vec![192, 0, 2, 123]));
    assert_eq!(value(option::DOMAIN), Some(b"pxe.example".to_vec()));
    assert_eq!(value(option::SEARCH), Some(b"\x01a\x07example\0".to_vec()));
    assert_eq!(value(option::BOOT_FILE), None, "an operating system boots nothing");
    assert_eq!(ack.siaddr, Ipv4Addr::UNSPECIFIED);
}

#[test]
fn what_could_not_be_written_is_not_given() {
    let mut site = Site::serving(config());
    let offer = site.hear(&discover_from_linux()).unwrap();
    let mac = Mac(fixtures::MAC);
    let payload = choosing(mac, offer.yiaddr).emit();
    let packet = Packet { port: Port::Server67, source: NOWHERE, from: mac, payload: &payload };
    site.responder.handle_packet(site.now, &packet);
    site.responder.handle_write_failure();
    assert_eq!(site.responder.poll_transmit(), None);
}

#[test]
fn what_boots_gets_its_boot_file_with_the_address() {
    let mut site = Site::serving(config());
    for (message, file) in [(discover_from_ovmf(), "snp.efi"), (discover_from_bios(), "undionly.kpxe")] {
        let offer = site.hear(&message).unwrap();
        assert!(config().in_ranges(offer.yiaddr));
        assert_eq!((text(&offer.file).as_str(), offer.siaddr), (file, OWN));
        assert_eq!(offer.options.value(option::VENDOR_CLASS), Some(&b"PXEClient"[..]));
    }
    let told = site.events();
    assert!(matches!(&told[..], [Event::Offered { .. }, Event::Offered { .. }]), "{told:?}");
}

#[test]
fn firmware_without_a_boot_file_gets_an_address_all_the_same() {
    let mut site = Site::serving(config());
    let offer = site.hear(&fixtures::discover("PXEClient:Arch:00011", &[11])).unwrap();
    assert!(config().in_ranges(offer.yiaddr));
    assert!(matches!(&site.events()[..], [Event::Ignored { reason: IgnoreReason::NoBinary(_), .. }]));
}

#[test]
fn firmware_loader_and_system_of_one_machine_have_one_address() {
    let mut site = Site::serving(config());
    let mac = Mac(fixtures::MAC);
    let first = site.boot(mac).unwrap();
    for identifier in [&b"\x00\x01\x02"[..], b"\x01\x52\x54\x00\x88\x00\x01", b"\xff\x12\x34\x56\x78"] {
        let mut discover = discover_from_ovmf();
        discover.options.set(option::CLIENT_ID, identifier);
        let offer = site.hear(&discover).unwrap();
        assert_eq!(offer.yiaddr, first);
        assert_eq!(offer.options.value(option::CLIENT_ID), Some(identifier), "echoed (RFC 6842)");
    }
}

#[test]
fn every_machine_gets_another_address_until_there_is_none() {
    let mut site = Site::serving(config());
    let mut given: Vec<Ipv4Addr> = (1..=5).filter_map(|number| site.boot(machine(number))).collect();
    given.sort();
    assert_eq!(given, (100..=104).map(address).collect::<Vec<_>>());
    assert_eq!(site.boot(machine(6)), None);
    assert!(site.responder.counters().no_room > 0);
    // One goes, another comes; the address is probed before it is given.
    let mut release = of(machine(3), client(MessageType::Release));
    release.ciaddr = given[2];
    let held = site.responder.leases().find(|lease| lease.mac == machine(3)).unwrap();
    release.ciaddr = held.address;
    assert_eq!(site.hear(&release), None, "a RELEASE has no answer");
    let sent = site.wait(Duration::from_secs(3));
    assert!(probes(&sent).contains(&held.address));
    assert_eq!(site.boot(machine(6)), Some(held.address));
}

#[test]
fn an_expired_lease_goes_to_who_had_it_first_and_to_others_after_a_probe() {
    let mut site = Site::serving(ServerConfig { ranges: vec![address(100)..=address(100)], ..config() });
    assert_eq!(site.boot(machine(1)), Some(address(100)));
    assert_eq!(site.boot(machine(2)), None);
    site.wait(Duration::from_secs(3_601));
    assert_eq!(site.boot(machine(1)), Some(address(100)));
    let sent = site.wait(Duration::from_secs(3_605));
    assert!(probes(&sent).contains(&address(100)));
    assert_eq!(site.boot(machine(2)), Some(address(100)));
    assert_eq!(site.boot(machine(1)), None);
}

#[test]
fn an_address_that_somebody_answers_for_is_not_given() {
    let mut site = Site::begin(config(), Vec::new(), at(0));
    let sent = site.wait(Duration::from_millis(100));
    assert_eq!(probes(&sent).len(), 5, "all are probed ahead");
    let stranger = Mac([2, 9, 9, 9, 9, 9]);
    site.responder.handle_arp(site.now, address(102), stranger);
    site.responder.handle_arp(site.now, address(200), stranger);
    site.wait(Duration::from_secs(6));
    let conflict = Event::Conflict { address: address(102), by: stranger };
    assert_eq!(site.events().iter().filter(|event| **event == conflict).count(), 1);
    let given: Vec<_> = (1..=5).filter_map(|number| site.boot(machine(number))).collect();
    assert!(given.len() == 4 && !given.contains(&address(102)), "{given:?}");
    // Some time later it is tried again.
    let sent = site.wait(Duration::from_secs(700));
    assert!(probes(&sent).contains(&address(102)));
}

#[test]
fn a_declined_address_is_left_alone_and_the_client_gets_another() {
    let mut site = Site::serving(config());
    let first = site.boot(machine(1)).unwrap();
    let mut decline = choosing(machine(1), first);
    decline.options.set(option::MESSAGE_TYPE, &[MessageType::Decline.number()]);
    assert_eq!(site.hear(&decline), None);
    assert_eq!(site.written.last().map(|lease| lease.state), Some(LeaseState::Declined));
    let second = site.boot(machine(1)).unwrap();
    assert_ne!(first, second);
    let others: Vec<_> = (2..=5).filter_map(|number| site.boot(machine(number))).collect();
    assert!(others.len() == 3 && !others.contains(&first), "{others:?}");
    let mut foreign = choosing(machine(9), second);
    foreign.options.set(option::MESSAGE_TYPE, &[MessageType::Decline.number()]);
    site.hear(&foreign);
    assert_eq!(site.boot(machine(1)), Some(second), "nobody declines for another");
}

#[test]
fn nobody_releases_for_another() {
    let mut site = Site::serving(config());
    let first = site.boot(machine(1)).unwrap();
    let mut release = of(machine(2), client(MessageType::Release));
    release.ciaddr = first;
    site.hear(&release);
    assert_eq!(site.written.len(), 1);
}

#[test]
fn reservations_hold_by_mac_and_by_uuid() {
    let reservations = vec![
        Reservation { holder: Holder::Mac(machine(1)), address: address(10) },
        Reservation { holder: Holder::Uuid(UUID), address: address(101) },
    ];
    let mut site = Site::serving(ServerConfig { reservations, ..config() });
    assert_eq!(site.boot(machine(1)), Some(address(10)));
    // By UUID the firmware gets it; the system, which tells none, keeps it.
    let offer = site.hear(&discover_from_bios()).unwrap();
    assert_eq!(offer.yiaddr, address(101));
    let mut request = discover_from_bios();
    request.options.set(option::MESSAGE_TYPE, &[MessageType::Request.number()]);
    request.options.set(option::REQUESTED_IP, &address(101).octets());
    request.options.set(option::SERVER_ID, &OWN.octets());
    assert_eq!(kind(&site.hear(&request).unwrap()), MessageType::Ack);
    assert_eq!(site.boot(Mac(fixtures::MAC)), Some(address(101)));
    // Nobody else gets either.
    let others: Vec<_> = (2..=9).filter_map(|number| site.boot(machine(number))).collect();
    assert!(others.len() == 4 && !others.contains(&address(101)), "{others:?}");
    assert_eq!(kind(&site.hear(&choosing(machine(7), address(10))).unwrap()), MessageType::Nak);
}

// ---- REQUESTs by RFC 2131, 4.3.2

#[test]
fn a_client_renews_what_it_has() {
    let mut site = Site::serving(config());
    let mine = site.boot(machine(1)).unwrap();
    site.wait(Duration::from_secs(1_800));
    let source = SocketAddrV4::new(mine, 68);
    let (datagram, ack) = site.hear_from(source, &renewing(machine(1), mine)).unwrap();
    assert_eq!((kind(&ack), ack.yiaddr, ack.ciaddr), (MessageType::Ack, mine, mine));
    assert_eq!((datagram.to, datagram.link), (source, Link::Station(machine(1))), "to its address");
    let until = site.written.last().unwrap().until;
    assert_eq!(until, UNIX + site.now.as_millis() / 1_000 + 3_600);
}

#[test]
fn a_client_comes_back_with_its_address() {
    let mut site = Site::serving(config());
    let mine = site.boot(machine(1)).unwrap();
    let ack = site.hear(&rebooting(machine(1), mine)).unwrap();
    assert_eq!((kind(&ack), ack.yiaddr), (MessageType::Ack, mine));
    let nak = site.hear(&rebooting(machine(1), Ipv4Addr::new(10, 0, 0, 9))).unwrap();
    assert_eq!((kind(&nak), nak.yiaddr), (MessageType::Nak, Ipv4Addr::UNSPECIFIED), "from another network");
    let other = (100..=104).map(address).find(|address| *address != mine).unwrap();
    assert_eq!(kind(&site.hear(&rebooting(machine(1), other)).unwrap()), MessageType::Nak);
    assert_eq!(site.hear(&rebooting(machine(2), other)), None, "of a stranger nothing is known");
}

#[test]
fn a_request_for_another_server_is_not_ours() {
    let mut site = Site::serving(config());
    let mut request = choosing(machine(1), address(100));
    request.options.set(option::SERVER_ID, &address(2).octets());
    assert_eq!(site.hear(&request), None);
    assert!(site.written.is_empty());
}

#[test]
fn of_two_that_want_one_address_the_second_is_refused() {
    let mut site = Site::serving(config());
    let offer = site.hear(&of(machine(1), discover_from_linux())).unwrap();
    assert_eq!(kind(&site.hear(&choosing(machine(1), offer.yiaddr)).unwrap()), MessageType::Ack);
    let (datagram, nak) = site.hear_from(NOWHERE, &choosing(machine(2), offer.yiaddr)).unwrap();
    assert_eq!(kind(&nak), MessageType::Nak);
    assert_eq!(datagram.link, Link::Everybody);
    for outside in [OWN, ROUTER, address(50), address(255)] {
        let nak = site.hear(&choosing(machine(2), outside));
        assert!(nak.is_none_or(|nak| kind(&nak) == MessageType::Nak), "{outside}");
    }
}

#[test]
fn who_has_an_address_otherwise_is_told_the_rest() {
    let mut site = Site::serving(config());
    let mut inform = of(machine(1), client(MessageType::Inform));
    inform.ciaddr = address(60);
    let (datagram, ack) = site.hear_from(SocketAddrV4::new(address(60), 68), &inform).unwrap();
    assert_eq!((kind(&ack), ack.yiaddr), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert_eq!(seconds(&ack, option::LEASE_TIME), None);
    assert_eq!(request::address(&ack, option::ROUTER), Some(ROUTER));
    assert_eq!(datagram.to, SocketAddrV4::new(address(60), 68));
    assert!(site.written.is_empty());
}

#[test]
fn a_client_that_hears_unicast_is_answered_in_a_frame_of_its_own() {
    let mut site = Site::serving(config());
    let mut discover = discover_from_linux();
    discover.flags = 0;
    let (datagram, offer) = site.hear_from(NOWHERE, &discover).unwrap();
    assert_eq!(datagram.to, SocketAddrV4::new(offer.yiaddr, 68));
    assert_eq!(datagram.link, Link::Station(Mac(fixtures::MAC)));
}

// ---- After a crash, and under a flood

#[test]
fn leases_outlive_a_crash() {
    let mut site = Site::serving(config());
    let given: Vec<_> = (1..=3).map(|number| site.boot(machine(number)).unwrap()).collect();
    // Only what was written is left; it starts half an hour later.
    let mut again = Site::begin(config(), site.written, at(0));
    again.wait(Duration::from_secs(6));
    assert_eq!(again.boot(machine(2)), Some(given[1]));
    let ack = again.hear(&renewing(machine(1), given[0])).unwrap();
    assert_eq!(kind(&ack), MessageType::Ack);
    let rest: Vec<_> = (4..=9).filter_map(|number| again.boot(machine(number))).collect();
    assert!(rest.len() == 2 && rest.iter().all(|address| !given.contains(address)), "{rest:?}");
}

#[test]
fn leases_outside_of_the_ranges_are_forgotten() {
    let stale =
        Lease { state: LeaseState::Bound, until: UNIX + 9_999, mac: machine(1), address: address(77) };
    let mut site = Site::begin(config(), vec![stale], at(0));
    site.wait(Duration::from_secs(6));
    assert_eq!(site.responder.leases().count(), 0);
    assert_ne!(site.boot(machine(1)), Some(address(77)));
}

/// 100,000 DISCOVERs a second from random addresses: no table grows, and a machine gets its address.
#[test]
fn a_flood_takes_no_address_away() {
    let mut site = Site::serving(config());
    for number in 0..100_000_u32 {
        site.now = site.now + Duration::from_micros(10);
        let mut discover = discover_from_linux();
        discover.chaddr[..2].copy_from_slice(&[6, 0]);
        discover.chaddr[2..6].copy_from_slice(&number.to_be_bytes());
        site.hear(&discover);
        if number % 1_000 == 0 {
            site.wait(Duration::ZERO);
        }
        site.events();
    }
    assert!(site.written.is_empty());
    assert_eq!(site.responder.leases().count(), 0);
    assert!(site.boot(machine(1)).is_some());
}

#[test]
fn the_pool_stays_within_its_size() {
    let mut pool = Pool::new(at(0), vec![address(100)..=address(109)], 1);
    let mut now = at(0);
    for number in 0..5_000_u32 {
        now = now + Duration::from_millis(7);
        pool.handle_timeout(now, |_| true, |_| ());
        let [a, b] = (number as u16).to_be_bytes();
        pool.offer(now, Mac([2, 0, 0, 0, a, b]), None, |_| true);
        let [ready, holds, order, busy, taken] = pool.sizes();
        assert!(ready + holds <= busy && busy <= 10 && holds <= 10 && taken == 0, "{ready} {holds} {busy}");
        assert!(order <= 10, "{order}");
    }
}
