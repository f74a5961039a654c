//! META: the small store of numbered values in which Talos keeps what outlives a boot.
//!
//! This machine has no disk of its own, so here it lives as long as the boot: what Omni writes
//! ([`UNIQUE_MACHINE_TOKEN`], [`UUID_OVERRIDE`]) is told to whoever joined the machine ([`Meta::subscribe`]),
//! who registers again with it. A machine that boots anew registers with a new token and the same
//! fingerprint, which Omni accepts.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_wire::token::NodeUniqueToken;
use tokio::sync::watch;
use uuid::Uuid;

/// The UUID that the machine goes by instead of the one in its firmware: Omni writes it when two machines
/// came with the same.
pub const UUID_OVERRIDE: u8 = 0x0f;
/// What Omni tells machines apart by, a [`NodeUniqueToken`].
pub const UNIQUE_MACHINE_TOKEN: u8 = 0x10;

/// Bytes of all values together: what Talos' META partition holds.
pub const MAX_BYTES: usize = 256 << 10;

/// The values as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Grows with every change.
    pub generation: u64,
    /// By key.
    pub values: BTreeMap<u8, Vec<u8>>,
}

impl Entries {
    /// The unique token, when it is one.
    pub fn unique_token(&self) -> Option<NodeUniqueToken> {
        let text = std::str::from_utf8(self.values.get(&UNIQUE_MACHINE_TOKEN)?).ok()?;
        NodeUniqueToken::decode(text).ok()
    }

    /// The UUID that the machine goes by, when it was given one.
    pub fn uuid_override(&self) -> Option<Uuid> {
        Uuid::try_parse_ascii(self.values.get(&UUID_OVERRIDE)?.trim_ascii()).ok()
    }
}

/// More than META holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("META is full: it holds {MAX_BYTES} bytes")]
pub struct Full;

/// The store; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meta(Arc<watch::Sender<Entries>>);

impl Meta {
    /// Sets a value.
    pub fn write(&self, key: u8, value: &[u8]) -> Result<(), Full> {
        let mut written = Ok(());
        self.0.send_if_modified(|entries| {
            if entries.values.get(&key).is_some_and(|old| old == value) {
                return false;
            }
            let others = entries.values.iter().filter(|(other, _)| **other != key);
            if others.map(|(_, value)| value.len()).sum::<usize>() + value.len() > MAX_BYTES {
                written = Err(Full);
                return false;
            }
            entries.values.insert(key, value.to_vec());
            entries.generation += 1;
            true
        });
        written
    }

    /// Removes a value; false when there was none.
    pub fn delete(&self, key: u8) -> bool {
        self.0.send_if_modified(|entries| {
            let removed = entries.values.remove(&key).is_some();
            entries.generation += u64::from(removed);
            removed
        })
    }

    /// All values as they are now.
    pub fn entries(&self) -> Entries {
        self.0.borrow().clone()
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<Entries> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_until_it_is_replaced_or_removed() {
        let meta = Meta::default();
        let mut changes = meta.subscribe();
        meta.write(UUID_OVERRIDE, b"4c4c4544-0031-3010-8034-c2c04f4e5131\n").unwrap();
        assert!(changes.has_changed().unwrap());
        let uuid = changes.borrow_and_update().uuid_override().unwrap();
        assert_eq!(uuid.to_string(), "4c4c4544-0031-3010-8034-c2c04f4e5131");
        meta.write(UUID_OVERRIDE, b"no uuid").unwrap();
        assert_eq!(meta.entries().uuid_override(), None);
        assert!(meta.delete(UUID_OVERRIDE));
        assert!(!meta.delete(UUID_OVERRIDE));
        assert_eq!(meta.entries().generation, 3);
        assert!(meta.entries().values.is_empty());
    }

    #[test]
    fn writing_the_same_again_is_no_change() {
        let meta = Meta::default();
        meta.write(1, b"a").unwrap();
        let mut changes = meta.subscribe();
        changes.mark_unchanged();
        meta.write(1, b"a").unwrap();
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn the_token_is_read_as_omni_writes_it() {
        let meta = Meta::default();
        meta.write(UNIQUE_MACHINE_TOKEN, br#"{"Fingerprint":"ab","Token":"t"}"#).unwrap();
        let token = meta.entries().unique_token().unwrap();
        assert_eq!((token.fingerprint.as_str(), token.token.as_str()), ("ab", "t"));
        meta.write(UNIQUE_MACHINE_TOKEN, &[0xff]).unwrap();
        assert_eq!(meta.entries().unique_token(), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let meta = Meta::default();
        meta.write(1, &[0; MAX_BYTES - 1]).unwrap();
        meta.write(2, b"x").unwrap();
        assert_eq!(meta.write(3, b"y"), Err(Full));
        assert_eq!(meta.write(2, b"xy"), Err(Full));
        assert_eq!(meta.entries().values[&2], b"x");
        meta.write(1, b"").unwrap();
        meta.write(3, b"y").unwrap();
    }
}
