//! IPMI 2.0 over LAN (RMCP+): the BMC of a real machine.
//!
//! [`packet`], [`crypto`] and [`session`] have no I/O; the driver here has one UDP socket and one session, which
//! lasts over calls: a BMC writes every login into its log, and has room for a few sessions only. A session
//! that the BMC forgot, or that was silent for [`SESSION_IDLE`], is opened anew.

pub mod crypto;
pub mod packet;
pub mod session;

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ring::rand::SecureRandom;
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::{Bmc, CALL_LIMIT, PowerError, PxeMode};
use crypto::Suite;
use packet::PACKET_MAX;
use session::{Event, Login, LoginError, Session, SessionError};

/// A BMC drops a session that says nothing for 60 s, give or take three (6.12.15).
pub const SESSION_IDLE: Duration = Duration::from_secs(50);

/// Function and commands of the chassis (chapter 28).
const CHASSIS: u8 = 0x00;
const CHASSIS_STATUS: u8 = 0x01;
const CHASSIS_CONTROL: u8 = 0x02;
const SET_BOOT_OPTIONS: u8 = 0x08;
const GET_BOOT_OPTIONS: u8 = 0x09;
/// Chassis Control's orders.
const DOWN: u8 = 0;
const UP: u8 = 1;
const RESET: u8 = 3;
/// Boot options (table 28-14).
const SET_IN_PROGRESS: u8 = 0;
const FLAG_VALIDITY: u8 = 3;
const BOOT_FLAGS: u8 = 5;
/// The flags stay valid however long the next power-on takes: BMCs clear them after 60 s otherwise.
const KEEP_ON_TIMEOUT: u8 = 0x08;
const FLAGS_VALID: u8 = 0x80;
const FLAGS_UEFI: u8 = 0x20;
const DEVICE_PXE: u8 = 0x04;
const DEVICE_MASK: u8 = 0x3c;
/// Completion code: not now, as the chassis is.
const WRONG_STATE: u16 = 0xd5;

/// One machine's BMC.
pub struct IpmiBmc {
    address: SocketAddr,
    login: Login,
    live: Mutex<Live>,
}

impl fmt::Debug for IpmiBmc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("IpmiBmc")
            .field("address", &self.address)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// The session, if there is one, and what is worth knowing for the next.
struct Live {
    open: Option<Open>,
    suite: Suite,
}

struct Open {
    socket: UdpSocket,
    session: Session,
    used: Instant,
}

/// Why an exchange did not give an answer.
enum Failure {
    Io(std::io::Error),
    Session(SessionError),
    TimedOut,
}

impl IpmiBmc {
    /// The BMC at this address. Nothing is sent yet.
    pub fn new(address: SocketAddr, user: &str, password: &str) -> Result<Self, LoginError> {
        let login = Login::new(user, password)?;
        Ok(Self { address, login, live: Mutex::new(Live { open: None, suite: Suite::Sha256 }) })
    }

    /// Where the BMC is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn status(&self) -> Result<bool, PowerError> {
        let what = "Get Chassis Status";
        let data = self.ask(what, CHASSIS_STATUS, vec![]).await?;
        match data.first() {
            Some(state) => Ok(state & 1 != 0),
            None => Err(self.protocol(what, "nothing")),
        }
    }

    async fn control(&self, what: &'static str, order: u8) -> Result<(), PowerError> {
        self.ask(what, CHASSIS_CONTROL, vec![order]).await.map(drop)
    }

    /// Sets the boot flags; `device` 0 takes an override back.
    async fn set_boot_flags(&self, flags: u8, device: u8) -> Result<(), PowerError> {
        // Not every BMC has these two, and none needs them.
        for (parameter, value) in [(SET_IN_PROGRESS, 1), (FLAG_VALIDITY, KEEP_ON_TIMEOUT)] {
            match self.ask("Set System Boot Options", SET_BOOT_OPTIONS, vec![parameter, value]).await {
                Ok(_) | Err(PowerError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let wanted = vec![BOOT_FLAGS, flags, device, 0, 0, 0];
        let result = self.ask("Set System Boot Options", SET_BOOT_OPTIONS, wanted).await;
        let released = self.ask("Set System Boot Options", SET_BOOT_OPTIONS, vec![SET_IN_PROGRESS, 0]).await;
        if let (Ok(_), Err(error @ PowerError::Unreachable { .. })) = (&result, released) {
            return Err(error);
        }
        result?;
        let read = self.ask("Get System Boot Options", GET_BOOT_OPTIONS, vec![BOOT_FLAGS, 0, 0]).await;
        // Version, parameter, flags, device, ..: some BMCs say yes and keep nothing. The boot decides in the end.
        if let Ok(kept) = read
            && kept.get(3).is_some_and(|kept| kept & DEVICE_MASK != device)
        {
            tracing::warn!(address = %self.address, ?kept, "the BMC does not keep the boot device that it was given");
        }
        Ok(())
    }

    /// One command and its answer's data, if it completed.
    async fn ask(&self, what: &'static str, command: u8, data: Vec<u8>) -> Result<Vec<u8>, PowerError> {
        tracing::debug!(address = %self.address, request = what, "power call");
        let mut live = self.live.lock().await;
        let reused = live.open.as_ref().is_some_and(|open| open.used.elapsed() < SESSION_IDLE);
        if !reused && let Some(old) = live.open.take() {
            farewell(old).await;
        }
        let mut answer = self.exchange(&mut live, what, command, data.clone()).await;
        let forgotten = matches!(
            answer,
            Err(Failure::Session(SessionError::NoAnswer(_)) | Failure::TimedOut | Failure::Io(_))
        );
        if reused && forgotten {
            // A BMC that restarted says nothing to a session of before.
            answer = self.exchange(&mut live, what, command, data).await;
        }
        match answer {
            Ok((0, data)) => Ok(data),
            Ok((completion, _)) => Err(PowerError::Refused {
                address: self.address,
                request: what.to_owned(),
                status: completion.into(),
                detail: completion_text(completion).to_owned(),
            }),
            Err(failure) => Err(self.error(what, failure)),
        }
    }

    /// Logs in when there is no session, then asks. Whatever fails ends the session.
    async fn exchange(
        &self,
        live: &mut Live,
        what: &'static str,
        command: u8,
        data: Vec<u8>,
    ) -> Result<(u8, Vec<u8>), Failure> {
        let mut open = match live.open.take() {
            Some(open) => open,
            None => {
                let mut open = self.connect(live.suite).await?;
                match timeout(CALL_LIMIT, open.next()).await.map_err(|_| Failure::TimedOut)?? {
                    Event::Ready => live.suite = open.session.suite(),
                    Event::Answer { .. } => return Err(Failure::TimedOut),
                    Event::Failed(error) => return Err(Failure::Session(error)),
                }
                open
            }
        };
        open.session.request(Instant::now(), what, CHASSIS, command, data);
        match timeout(CALL_LIMIT, open.next()).await.map_err(|_| Failure::TimedOut)?? {
            Event::Answer { completion, data } => {
                open.used = Instant::now();
                live.open = Some(open);
                Ok((completion, data))
            }
            Event::Failed(error) => Err(Failure::Session(error)),
            Event::Ready => Err(Failure::TimedOut),
        }
    }

    async fn connect(&self, suite: Suite) -> Result<Open, Failure> {
        let any: SocketAddr =
            if self.address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.map_err(Failure::Io)?;
        socket.connect(self.address).await.map_err(Failure::Io)?;
        let random = Box::new(|bytes: &mut [u8]| {
            ring::rand::SystemRandom::new().fill(bytes).expect("the kernel always has random bytes");
        });
        let session = Session::new(Instant::now(), self.login.clone(), suite, random);
        Ok(Open { socket, session, used: Instant::now() })
    }

    fn error(&self, what: &'static str, failure: Failure) -> PowerError {
        let address = self.address;
        match failure {
            Failure::Session(SessionError::Login(reason)) => PowerError::Login { address, reason },
            Failure::Session(error @ SessionError::NoAnswer(_)) => {
                PowerError::Unreachable { address, request: what.to_owned(), source: Box::new(error) }
            }
            Failure::Io(error) => {
                PowerError::Unreachable { address, request: what.to_owned(), source: Box::new(error) }
            }
            Failure::TimedOut => PowerError::Unreachable {
                address,
                request: what.to_owned(),
                source: "no answer in time".into(),
            },
        }
    }

    fn protocol(&self, what: &str, reason: &str) -> PowerError {
        PowerError::Protocol { address: self.address, request: what.to_owned(), reason: reason.to_owned() }
    }
}

/// Tells the BMC that the session is over. It need not hear it.
async fn farewell(open: Open) {
    if let Some(packet) = open.session.close() {
        let _ = open.socket.send(&packet).await;
    }
}

impl Open {
    /// Runs the session until it has something to tell.
    async fn next(&mut self) -> Result<Event, Failure> {
        let mut packet = [0; PACKET_MAX + 1];
        loop {
            while let Some(bytes) = self.session.poll_transmit() {
                self.socket.send(&bytes).await.map_err(Failure::Io)?;
            }
            if let Some(event) = self.session.poll_event() {
                return Ok(event);
            }
            let Some(deadline) = self.session.poll_timeout() else { return Err(Failure::TimedOut) };
            // Cancel-safe: a datagram that is not taken stays in the socket.
            tokio::select! {
                received = self.socket.recv(&mut packet) => match received {
                    Ok(length) => self.session.handle_packet(Instant::now(), &packet[..length]),
                    // Nobody listens there, or no way to it: said at once, instead of after all tries.
                    Err(error) => return Err(Failure::Io(error)),
                },
                () = tokio::time::sleep_until(deadline.into()) => self.session.handle_timeout(Instant::now()),
            }
        }
    }
}

#[async_trait]
impl Bmc for IpmiBmc {
    async fn is_powered_on(&self) -> Result<bool, PowerError> {
        self.status().await
    }

    async fn power_on(&self) -> Result<(), PowerError> {
        match self.control("Chassis Control (power on)", UP).await {
            // What is on cannot be switched on, say some.
            Err(PowerError::Refused { status, .. }) if status == WRONG_STATE && self.status().await? => {
                Ok(())
            }
            result => result,
        }
    }

    async fn power_off(&self) -> Result<(), PowerError> {
        match self.control("Chassis Control (power off)", DOWN).await {
            Err(PowerError::Refused { status, .. }) if status == WRONG_STATE && !self.status().await? => {
                Ok(())
            }
            result => result,
        }
    }

    async fn reboot(&self) -> Result<(), PowerError> {
        // A machine that is off is not reset: it is switched on.
        if !self.status().await? {
            return self.power_on().await;
        }
        self.control("Chassis Control (reset)", RESET).await
    }

    async fn set_pxe_boot_once(&self, mode: PxeMode) -> Result<(), PowerError> {
        let firmware = match mode {
            PxeMode::Bios => 0,
            PxeMode::Uefi => FLAGS_UEFI,
        };
        self.set_boot_flags(FLAGS_VALID | firmware, DEVICE_PXE).await
    }

    async fn reset_boot_device(&self) -> Result<(), PowerError> {
        self.set_boot_flags(FLAGS_VALID, 0).await
    }

    async fn close(&self) {
        if let Some(open) = self.live.lock().await.open.take() {
            farewell(open).await;
        }
    }
}

impl fmt::Display for IpmiBmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipmi {}", self.address)
    }
}

/// What a completion code means (table 5-2, and those of the chassis).
fn completion_text(code: u8) -> &'static str {
    match code {
        0x80 => "it does not have this setting",
        0x81 => "somebody else is changing this setting",
        0x82 => "this setting cannot be written",
        0xc0 => "it is busy",
        0xc1 => "it does not know this command",
        0xc3 => "it was too slow",
        0xc6 | 0xc7 | 0xc8 | 0xcc => "it does not take these values",
        0xcf => "it takes this for a repetition",
        0xd1 | 0xd2 => "it is starting up or being updated",
        0xd4 => "the user lacks the rights for it",
        0xd5 => "not while the machine is in this state",
        0xd6 => "it is switched off in the BMC's settings",
        _ => "an error of its own",
    }
}
