//! The socket that a rack's connections come to.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;

use nix::sys::socket::{Backlog, getsockopt, setsockopt, sockopt};

/// Connections that the kernel keeps until they are taken: a thousand machines connect at the same moment, and whoever
/// finds no room tries again a second later. The usual 128 hold a rack or two; the kernel cuts it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Congestion control that paces each connection by a timer, as a host may have it for its way to far places. In one
/// network it makes each body dearer and slower (`docs/decisions/026-room-for-a-rack.md`).
const PACED: &[u8] = b"bbr";
/// What takes its place: the first that the kernel has and allows.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// Listens for a rack; the socket does not block.
///
/// # Errors
/// When the address is not this host's, or the port is taken.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    // Connections have it from the listener: what was paced from its beginning stays so.
    if getsockopt(&listener, sockopt::TcpCongestion).is_ok_and(|name| name.as_bytes().starts_with(PACED)) {
        let set = |name| setsockopt(&listener, sockopt::TcpCongestion, &OsString::from(name));
        if !UNPACED.into_iter().any(|name| set(name).is_ok()) {
            tracing::debug!(%address, "connections are paced");
        }
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_rack_that_connects_at_once_has_room() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        // More than the usual 128, of which nobody takes one.
        let connect = |_| TcpStream::connect_timeout(&address, std::time::Duration::from_secs(30)).unwrap();
        let streams: Vec<_> = (0..300).map(connect).collect();
        assert_eq!(streams.len(), 300);
    }

    #[test]
    fn connections_are_not_paced() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (taken, _) = listener.accept().unwrap();
        let name = getsockopt(&taken, sockopt::TcpCongestion).unwrap();
        assert!(!name.as_bytes().starts_with(PACED), "{name:?}");
    }
}
