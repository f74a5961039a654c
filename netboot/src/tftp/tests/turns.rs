//! A crowd: who is sent to, and who waits.

use super::*;

/// A server that sends to two at once, and clients that have agreed on options one after the other.
fn crowd(clients: u16) -> (Server, Shelf) {
    let limits = Limits { max_sending: 2, ..Limits::default() };
    let (mut server, shelf) = (Server::new(limits), Shelf::with("f", 20));
    for port in 0..clients {
        server.handle_packet(at(0), client(port), &read("f", window(2)), &shelf);
        assert_eq!(sent_to(&mut server), [port], "its options, at once");
    }
    for port in 0..clients {
        acknowledge((&mut server, &shelf), 10, port, 0);
    }
    (server, shelf)
}

fn acknowledge((server, shelf): (&mut Server, &Shelf), millis: u64, port: u16, block: u16) {
    server.handle_packet(at(millis), client(port), &Packet::Ack { block }.emit(), shelf);
}

/// To whom the server has something to send.
fn sent_to(server: &mut Server) -> Vec<u16> {
    std::iter::from_fn(|| server.poll_burst(&mut Vec::new())).map(|burst| burst.peer.port()).collect()
}

#[test]
fn a_crowd_is_sent_to_in_the_order_it_came_some_at_a_time() {
    let (mut server, shelf) = crowd(4);
    assert_eq!(sent_to(&mut server), [0, 1]);
    acknowledge((&mut server, &shelf), 20, 1, 2);
    assert_eq!(sent_to(&mut server), [1]);
    acknowledge((&mut server, &shelf), 30, 1, 3);
    assert_eq!(sent_to(&mut server), [2], "it is done, and the next one begins");
    // The ACK once more, and the request once more, do not begin what waits.
    acknowledge((&mut server, &shelf), 40, 3, 0);
    server.handle_packet(at(40), client(3), &read("f", window(2)), &shelf);
    assert!(sent_to(&mut server).is_empty());
    // Who ends its transfer makes room as well.
    let end = Packet::Error { code: ErrorCode::Undefined, message: "enough" }.emit();
    server.handle_packet(at(50), client(0), &end, &shelf);
    assert_eq!(sent_to(&mut server), [3]);
}

#[test]
fn nobody_waits_for_longer_than_firmware_does() {
    let (mut server, shelf) = crowd(4);
    let limit = Limits::default().max_wait.as_millis() as u64;
    assert_eq!(sent_to(&mut server), [0, 1]);
    // Both go on, slowly.
    for port in [0, 1] {
        acknowledge((&mut server, &shelf), limit, port, 2);
    }
    assert_eq!(sent_to(&mut server), [0, 1]);
    server.handle_timeout(at(9 + limit));
    assert!(sent_to(&mut server).is_empty());
    server.handle_timeout(at(10 + limit));
    assert_eq!(sent_to(&mut server), [2, 3]);
}

#[test]
fn who_falls_silent_gives_its_turn_up_and_is_served_all_the_same() {
    let (mut server, _shelf) = crowd(4);
    assert_eq!(sent_to(&mut server), [0, 1]);
    let silent = server.poll_timeout().unwrap();
    assert!(silent < at(500), "{silent:?}");
    server.handle_timeout(at(500));
    assert_eq!(sent_to(&mut server), [0, 1, 2, 3]);
}

#[test]
fn who_leaves_while_it_waits_is_forgotten() {
    let (mut server, shelf) = crowd(5);
    assert_eq!(sent_to(&mut server), [0, 1]);
    let end = Packet::Error { code: ErrorCode::Undefined, message: "enough" }.emit();
    server.handle_packet(at(20), client(2), &end, &shelf);
    // It was reset and asks anew: it is the last one now.
    server.handle_packet(at(20), client(3), &read("f", window(1)), &shelf);
    assert_eq!(sent_to(&mut server), [3]);
    acknowledge((&mut server, &shelf), 21, 3, 0);
    for port in [0, 1] {
        acknowledge((&mut server, &shelf), 30, port, 3);
    }
    assert!(sent_to(&mut server).is_empty(), "what was not sent cannot arrive");
    for port in [0, 1] {
        acknowledge((&mut server, &shelf), 40, port, 2);
    }
    assert_eq!(sent_to(&mut server), [0, 1], "the last blocks");
    for port in [0, 1] {
        acknowledge((&mut server, &shelf), 50, port, 3);
    }
    assert_eq!(sent_to(&mut server), [4, 3]);
    assert_eq!(server.sessions(), 2);
}
