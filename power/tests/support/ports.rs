//! Ports for programs that do not choose one for themselves.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the kernel gives away (32768 and above, `ip_local_port_range`): nobody is given one of these
/// before the program has taken it.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port of loopback that nobody has, of UDP and TCP, and another one each time.
pub(crate) fn unused() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Of tests that run at the same time each begins elsewhere.
    let begin = std::process::id() % u32::from(COUNT);
    loop {
        let number = begin + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(number % u32::from(COUNT)).unwrap();
        let at = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok() {
            return port;
        }
    }
}
