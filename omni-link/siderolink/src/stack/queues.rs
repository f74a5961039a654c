//! smoltcp's network interface: two queues.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::limits::{MAX_QUEUED, MTU};

#[derive(Default)]
pub(super) struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    pub(super) overflow: u64,
}

impl Queues {
    pub(super) fn push(&mut self, packet: Vec<u8>) {
        if self.incoming.len() < MAX_QUEUED {
            self.incoming.push_back(packet);
        } else {
            self.overflow += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Received, Sending<'_>)> {
        if self.outgoing.len() >= MAX_QUEUED {
            return None;
        }
        let packet = self.incoming.pop_front()?;
        Some((Received(packet), Sending(&mut self.outgoing)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Sending<'_>> {
        (self.outgoing.len() < MAX_QUEUED).then_some(Sending(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
