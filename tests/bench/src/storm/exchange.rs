//! DHCP for all machines: one socket on the client's port, answers sorted by transaction.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netboot::dhcp::codec::Message;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::{Boot, Load};
use crate::dhcp::client_socket;
use crate::firmware::{Identity, Offer};

/// What EDK2 waits before it repeats a DISCOVER; iPXE repeats sooner.
const WAITS: [Duration; 4] =
    [Duration::from_secs(4), Duration::from_secs(8), Duration::from_secs(16), Duration::from_secs(32)];
const PROXY_PORT: u16 = 4011;

type Waiting = Rc<RefCell<HashMap<u32, mpsc::UnboundedSender<Offer>>>>;

pub(super) struct Exchange {
    socket: Rc<UdpSocket>,
    to: SocketAddrV4,
    waiting: Waiting,
    next_xid: Cell<u32>,
}

impl Exchange {
    pub(super) fn start(load: &Load) -> Result<Self> {
        let socket = client_socket(load.from_port, load.interface.as_deref())?;
        let socket = Rc::new(UdpSocket::from_std(socket).context("the runtime does not take the socket")?);
        let ip = if load.interface.is_some() { Ipv4Addr::BROADCAST } else { load.server };
        let waiting = Waiting::default();
        tokio::task::spawn_local(sort(Rc::clone(&socket), Rc::clone(&waiting)));
        let first = u32::from(load.run) << 16;
        Ok(Self { socket, to: SocketAddrV4::new(ip, load.dhcp_port), waiting, next_xid: Cell::new(first) })
    }

    /// Until the first offer with a boot class.
    pub(super) async fn discover(
        &self,
        message: Message,
        identity: Identity,
        boot: &mut Boot,
    ) -> Result<Offer> {
        self.ask(message, identity, self.to, boot).await
    }

    /// Asks port 4011 of the server.
    pub(super) async fn ask_proxy(
        &self,
        message: Message,
        identity: Identity,
        server: Ipv4Addr,
        boot: &mut Boot,
    ) -> Result<Offer> {
        self.ask(message, identity, SocketAddrV4::new(server, PROXY_PORT), boot).await
    }

    async fn ask(
        &self,
        mut message: Message,
        identity: Identity,
        to: SocketAddrV4,
        boot: &mut Boot,
    ) -> Result<Offer> {
        let xid = self.next_xid.get();
        self.next_xid.set(xid.wrapping_add(1));
        identity.sign(&mut message, xid);
        let (answer, mut answers) = mpsc::unbounded_channel();
        self.waiting.borrow_mut().insert(xid, answer);
        let bytes = message.emit();
        let mut result = None;
        for wait in WAITS {
            // A full queue is loss, which is what the repeating is for.
            let _ = self.socket.send_to(&bytes, to).await;
            if let Ok(offer) = tokio::time::timeout(wait, answers.recv()).await {
                result = offer;
                break;
            }
            boot.repeats += 1;
        }
        self.waiting.borrow_mut().remove(&xid);
        match result {
            Some(offer) => Ok(offer),
            None => bail!("no offer"),
        }
    }
}

/// Gives every answer to the machine that waits for it.
async fn sort(socket: Rc<UdpSocket>, waiting: Waiting) {
    let mut buffer = [0; 2048];
    loop {
        let Ok(length) = socket.recv(&mut buffer).await else { continue };
        let Ok(message) = Message::parse(&buffer[..length]) else { continue };
        let Some(offer) = Offer::of(&message) else { continue };
        if let Some(machine) = waiting.borrow().get(&message.xid) {
            // A machine that has its offer listens no more.
            let _ = machine.send(offer);
        }
    }
}
