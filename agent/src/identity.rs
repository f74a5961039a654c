//! Who this machine is: SMBIOS UUID, fingerprint, and the keys it shows when it registers.

use std::path::Path;
use std::time::Duration;

use agent_wire::token::{NodeUniqueToken, fingerprint_input, hex};
use siderolink::PrivateKey;

use crate::meta::Entries;
use crate::{net, say, sys};

/// Where the kernel shows SMBIOS strings.
pub const DMI: &str = "/sys/class/dmi/id";

/// How long the kernel's generator may take to be seeded. Processors with RDRAND need no time at all; some
/// virtual machines without it would wait for ever.
const RANDOM_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at it.
const RANDOM_PAUSE: Duration = Duration::from_millis(100);

/// Random bytes that an identity is made of.
pub type Randomness = [u8; 48];

/// Who this machine is, for as long as this boot lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SMBIOS UUID, lower case.
    pub uuid: String,
    /// SHA-256 of the physical addresses, as Omni computes it.
    pub fingerprint: String,
    /// What Omni compares from the second time on.
    pub token: NodeUniqueToken,
    /// WireGuard's key.
    pub wireguard: PrivateKey,
}

/// The machine cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Firmware without a usable UUID.
    #[error("firmware tells no SMBIOS UUID")]
    NoUuid,
}

impl Identity {
    /// Reads what the machine says, and makes the rest of random bytes.
    pub fn read(dmi: &Path, sys_net: &Path, randomness: Randomness) -> Result<Self, IdentityError> {
        let uuid = uuid(dmi)?;
        let fingerprint = fingerprint(sys_net, &sys::link::permanent_address);
        let (key, token) = randomness.split_first_chunk::<32>().expect("there are 48");
        let token = uuid::Builder::from_random_bytes(token.try_into().expect("16 are left")).into_uuid();
        Ok(Self {
            uuid,
            token: NodeUniqueToken { fingerprint: fingerprint.clone(), token: token.to_string() },
            fingerprint,
            wireguard: PrivateKey::from_bytes(*key),
        })
    }
}

impl Identity {
    /// As the control plane wants it to be, by what it wrote into META.
    #[must_use]
    pub fn with(mut self, entries: &Entries) -> Self {
        if let Some(token) = entries.unique_token() {
            self.token = token;
        }
        if let Some(uuid) = entries.uuid_override() {
            self.uuid = uuid.to_string();
        }
        self
    }
}

/// Random bytes, good ones if the machine has any within a second.
pub async fn randomness() -> Randomness {
    let mut bytes = [0; 48];
    let deadline = tokio::time::Instant::now() + RANDOM_PATIENCE;
    while sys::random(&mut bytes, true).is_err() {
        if tokio::time::Instant::now() >= deadline {
            say!("this machine has no source of randomness: its token could be guessed");
            if let Err(error) = sys::random(&mut bytes, false) {
                say!("no randomness at all: {error}");
            }
            break;
        }
        tokio::time::sleep(RANDOM_PAUSE).await;
    }
    bytes
}

/// The SMBIOS UUID, lower case, as iPXE and Talos tell it.
pub fn uuid(dmi: &Path) -> Result<String, IdentityError> {
    let text = std::fs::read_to_string(dmi.join("product_uuid")).map_err(|_| IdentityError::NoUuid)?;
    let uuid = uuid::Uuid::parse_str(text.trim()).map_err(|_| IdentityError::NoUuid)?;
    if uuid.is_nil() || uuid.is_max() {
        return Err(IdentityError::NoUuid);
    }
    Ok(uuid.to_string())
}

/// The fingerprint of the physical links; `permanent` gives the address that a NIC came with.
pub fn fingerprint(sys_net: &Path, permanent: &dyn Fn(&str) -> Option<[u8; 6]>) -> String {
    let addresses: Vec<[u8; 6]> =
        net::nics(sys_net).into_iter().map(|nic| permanent(&nic.name).unwrap_or(nic.mac)).collect();
    hex(ring::digest::digest(&ring::digest::SHA256, &fingerprint_input(&addresses)).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Meta, UNIQUE_MACHINE_TOKEN, UUID_OVERRIDE};
    use std::fs;

    fn link(sys: &Path, name: &str, index: u32, mac: &str) {
        let link = sys.join(name);
        fs::create_dir_all(link.join("device")).unwrap();
        fs::write(link.join("type"), "1\n").unwrap();
        fs::write(link.join("ifindex"), index.to_string()).unwrap();
        fs::write(link.join("address"), mac).unwrap();
    }

    #[test]
    fn the_uuid_is_lower_case_and_never_a_filler() {
        let dmi = tempfile::tempdir().unwrap();
        assert!(uuid(dmi.path()).is_err());
        fs::write(dmi.path().join("product_uuid"), "4C4C4544-0031-3010-8034-C2C04F4E5131\n").unwrap();
        assert_eq!(uuid(dmi.path()).unwrap(), "4c4c4544-0031-3010-8034-c2c04f4e5131");
        for filler in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "x"] {
            fs::write(dmi.path().join("product_uuid"), filler).unwrap();
            assert!(uuid(dmi.path()).is_err());
        }
    }

    #[test]
    fn the_fingerprint_prefers_permanent_addresses_and_does_not_depend_on_order() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(
            fingerprint(sys.path(), &|_| None),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        link(sys.path(), "eth0", 2, "52:54:00:00:00:02");
        link(sys.path(), "eth1", 3, "52:54:00:00:00:01");
        let one = fingerprint(sys.path(), &|_| None);
        let swapped = fingerprint(sys.path(), &|name| match name {
            "eth0" => Some([0x52, 0x54, 0, 0, 0, 1]),
            _ => Some([0x52, 0x54, 0, 0, 0, 2]),
        });
        assert_eq!(one, swapped);
        assert_ne!(one, fingerprint(sys.path(), &|_| Some([1; 6])));
    }

    #[test]
    fn key_and_token_are_made_of_the_random_bytes() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("product_uuid"), "4c4c4544-0031-3010-8034-c2c04f4e5131").unwrap();
        let identity = Identity::read(root.path(), root.path(), [7; 48]).unwrap();
        assert_eq!(identity.wireguard, PrivateKey::from_bytes([7; 32]));
        assert_eq!(identity.token.token, "07070707-0707-4707-8707-070707070707");
        assert_eq!(identity.token.fingerprint, identity.fingerprint);
    }

    #[test]
    fn what_the_control_plane_wrote_counts() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("product_uuid"), "4c4c4544-0031-3010-8034-c2c04f4e5131").unwrap();
        let own = Identity::read(root.path(), root.path(), [7; 48]).unwrap();
        let meta = Meta::default();
        assert_eq!(own.clone().with(&meta.entries()), own);
        let token = NodeUniqueToken { fingerprint: own.fingerprint.clone(), token: "given".into() };
        meta.write(UNIQUE_MACHINE_TOKEN, token.encode().as_bytes()).unwrap();
        meta.write(UUID_OVERRIDE, b"11111111-2222-4333-8444-555555555555").unwrap();
        let given = own.clone().with(&meta.entries());
        assert_eq!((given.token, &*given.uuid), (token, "11111111-2222-4333-8444-555555555555"));
        assert_eq!(given.wireguard, own.wireguard);
    }

    #[tokio::test]
    async fn random_bytes_come_at_once_on_a_seeded_machine() {
        assert_ne!(randomness().await, randomness().await);
    }
}
