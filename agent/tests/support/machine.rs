//! Who the agent is in tests, and how long they wait.

use std::time::Duration;

use agent_wire::token::NodeUniqueToken;
use bootlace_agent::identity::Identity;

/// The machine's UUID.
pub(crate) const UUID: &str = "4c4c4544-0031-3010-8034-c2c04f4e5131";

/// Any wait is a failure after this.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("this takes too long")
}

/// A machine of this name.
pub(crate) fn identity(uuid: &str) -> Identity {
    Identity {
        uuid: uuid.into(),
        fingerprint: "ab".repeat(32),
        token: NodeUniqueToken { fingerprint: "ab".repeat(32), token: "t".into() },
        wireguard: siderolink::PrivateKey::from_bytes([1; 32]),
    }
}
