//! SideroLink's tunnel, in user space: brought up after the registration, and kept up.
//!
//! ```text
//! register --> plan --> up: UDP socket, or a gRPC stream of the machine API
//!    ^                   |  no handshake for too long, or the stream is refused
//!    '-------------------'  (the old tunnel stays until the answer is there)
//! ```
//!
//! The kernel's WireGuard is not used: `docs/decisions/006` says why.

mod plan;
mod up;

use std::time::Duration;

use siderolink::{PEER_DOWN, PrivateKey, Tunnel};

use crate::console::chain;
use crate::join::Registration;
use crate::retry::Backoff;
use crate::say;
pub use plan::{Plan, PlanError};
pub use up::{Up, UpError};

/// How often the tunnel is looked at, and how long the first handshake may take: as in Talos.
const CHECK: Duration = Duration::from_secs(30);

/// Keeps a tunnel up for ever. `register` registers until it is answered; `renamed` ends when that is due again for
/// another reason than the tunnel; `serve` is what the machine does in the tunnel, begun anew with each one.
pub async fn keep(
    mut register: impl AsyncFnMut() -> Registration,
    mut renamed: impl AsyncFnMut(),
    key: &PrivateKey,
    serve: impl AsyncFn(Tunnel),
    mut backoff: Backoff,
) {
    let mut registration = register().await;
    loop {
        let up = match Plan::read(&registration).map_err(UpError::from) {
            Ok(plan) => Up::start(plan, registration.config.trust.clone(), key).await,
            Err(error) => Err(error),
        };
        registration = match up {
            Ok(up) => {
                let forever = async {
                    serve(up.tunnel().clone()).await;
                    std::future::pending().await
                };
                // Cancel-safe: a new registration ends the tunnel and all that is in it.
                tokio::select! {
                    registration = replaced(&up, &mut register, &mut renamed, &mut backoff) => registration,
                    () = forever => continue,
                }
            }
            Err(error) => {
                let wait = backoff.next_wait();
                say!("wireguard: {}; registers again in {} s", chain(&error), wait.as_secs());
                tokio::time::sleep(wait).await;
                register().await
            }
        };
    }
}

/// Until there is a registration that needs another tunnel.
async fn replaced(
    up: &Up,
    register: &mut impl AsyncFnMut() -> Registration,
    renamed: &mut impl AsyncFnMut(),
    backoff: &mut Backoff,
) -> Registration {
    let mut patience = CHECK;
    loop {
        // Cancel-safe: both only look.
        let down = tokio::select! {
            () = up.down(CHECK, patience) => true,
            () = renamed() => false,
        };
        say!("wireguard: {}, registers again", if down { "no handshake" } else { "another name" });
        let recovered = async { if down { up.recovered().await } else { std::future::pending().await } };
        // Cancel-safe: a registration that is given up is made again, which the other end allows.
        let registration = tokio::select! {
            registration = register() => registration,
            () = recovered => continue,
        };
        if Plan::read(&registration).ok().as_ref() != Some(up.plan()) {
            return registration;
        }
        if !down {
            continue;
        }
        // The same again: the tunnel is as good as a new one, it is the way that is not.
        up.call();
        tokio::time::sleep(backoff.next_wait()).await;
        patience = (patience * 2).min(PEER_DOWN);
    }
}
