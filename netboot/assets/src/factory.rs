//! Image Factory: builds Talos images by schematic, and boots machines with them.
//!
//! [`Factory`] tells a factory which schematic to build and where the images then are; [`FactoryImages`] does
//! so for a boot policy, which must answer at once. The policy sees only [`ImageSource`], so that images can
//! come from elsewhere.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use netboot::firmware::Arch;
use serde::Deserialize;

mod client;
mod roots;
mod script;
pub(crate) mod source;
mod url;

pub use client::ExchangeError;
pub use roots::RootsError;
pub use script::{BootScript, BootScriptError, SCRIPT_MAX};
pub use source::{BootSource, FactoryImages, FactoryWorker, Image, ImageSource, QUEUE_MAX};
pub use url::UrlError;

pub(crate) use client::Download;
use client::{Answer, Ask, Client};
use url::BaseUrl;

/// The public factory.
pub const PUBLIC_FACTORY: &str = "https://factory.talos.dev";
/// Where machines boot from the public factory.
pub const PUBLIC_PXE: &str = "https://pxe.factory.talos.dev";
/// How long an exchange with a factory may take, all in all. The Go provider waits as long.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a factory may take to begin with a file: it makes an image when it is asked for it for the first time.
const IMAGE_BEGINS: Duration = Duration::from_secs(300);
/// How long nothing may come of a file that has begun. The whole takes as long as the link to the factory needs.
const IMAGE_STALLS: Duration = Duration::from_secs(60);
/// Bytes of what a factory says instead of a file.
const EXCUSE_MAX: usize = 4 * 1024;
/// Bytes of a schematic that a factory repeats to us.
const SCHEMATIC_MAX: usize = 256 * 1024;
/// Schematics that are remembered. Each cluster version and set of arguments makes one.
const KNOWN_MAX: usize = 1024;
/// Characters of what a factory says that are passed on to the operator.
const DETAILS_MAX: usize = 300;
/// Bytes of a version. `v1.13.0-alpha.2-31-g8a2b3c4d5-dirty` has 35.
const VERSION_MAX: usize = 64;

/// What a factory calls a schematic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchematicId(String);

impl SchematicId {
    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that `yaml` has at a factory that takes it as it is.
    pub(crate) fn computed(yaml: &str) -> Self {
        Self(hex(ring::digest::digest(&ring::digest::SHA256, yaml.as_bytes()).as_ref()))
    }
}

impl fmt::Display for SchematicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// The text is no schematic id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a schematic id is 64 lower-case hexadecimal digits")]
pub struct NoSchematicId;

impl FromStr for SchematicId {
    type Err = NoSchematicId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && digits { Ok(Self(text.to_owned())) } else { Err(NoSchematicId) }
    }
}

/// Which factory, and how it is asked.
#[derive(Clone, Debug)]
pub struct FactoryConfig {
    /// Where schematics are made.
    pub base_url: String,
    /// Where machines fetch scripts and images.
    pub pxe_base_url: String,
    /// A certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// How long an exchange may take.
    pub timeout: Duration,
}

impl Default for FactoryConfig {
    fn default() -> Self {
        Self {
            base_url: PUBLIC_FACTORY.to_owned(),
            pxe_base_url: PUBLIC_PXE.to_owned(),
            ca_file: None,
            timeout: TIMEOUT,
        }
    }
}

/// Why a factory cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum FactoryConfigError {
    /// Where schematics are made is no URL.
    #[error("factory base URL")]
    Base(#[source] UrlError),
    /// Where machines boot is no URL.
    #[error("factory PXE base URL")]
    Pxe(#[source] UrlError),
    /// The authorities that TLS trusts cannot be read.
    #[error("factory certificate authorities")]
    Roots(#[source] RootsError),
}

/// Why a factory gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// No answer.
    #[error("image factory does not answer")]
    Exchange(#[from] ExchangeError),
    /// It does not take the schematic: an extension that is not there for any version, for example.
    #[error("image factory refuses the schematic: {0}")]
    Refused(String),
    /// It does not know us.
    #[error("image factory wants other credentials ({0})")]
    Denied(StatusCode),
    /// It points elsewhere. That is not followed: a proxy's sign-in page is no factory.
    #[error("image factory redirects to {0:?}: name that URL")]
    Redirected(String),
    /// Something else.
    #[error("image factory answers {status}: {details}")]
    Status {
        /// Its number.
        status: StatusCode,
        /// What it says.
        details: String,
    },
    /// An answer that is none of a factory.
    #[error("image factory gives no schematic id")]
    NoId,
    /// A file whose length is not told, so that nobody knows whether it is whole.
    #[error("image factory does not tell the length of a file")]
    NoLength,
    /// The version is no plain one.
    #[error(transparent)]
    Version(#[from] NoVersion),
    /// A script that is none of a factory.
    #[error("image factory gives no boot script")]
    Script(#[from] BootScriptError),
}

impl FactoryError {
    /// Whether asking again the same will not help before someone changed something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Version(_))
    }
}

/// The text is no version of Talos.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version of Talos: {0:?}")]
pub struct NoVersion(String);

/// A file that a factory has for a schematic and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFile {
    /// The kernel.
    Kernel,
    /// The initial file system. Its name ends in `.xz`, whatever it is compressed with.
    Initramfs,
    /// What the kernel is told, for the `metal` platform.
    Cmdline,
    /// Kernel, arguments and initial file system in one signed file.
    SecureBootUki,
}

impl ImageFile {
    pub(crate) fn name(self, arch: Arch) -> String {
        match self {
            Self::Kernel => format!("kernel-{arch}"),
            Self::Initramfs => format!("initramfs-{arch}.xz"),
            Self::Cmdline => format!("cmdline-metal-{arch}"),
            Self::SecureBootUki => format!("metal-{arch}-secureboot-uki.efi"),
        }
    }
}

/// An Image Factory.
pub struct Factory {
    base: BaseUrl,
    pxe: BaseUrl,
    client: Client,
    known: Mutex<Known>,
}

impl Factory {
    /// Checks the configuration; asks nothing yet.
    ///
    /// # Errors
    /// When a URL is none, or the certificate authorities cannot be read.
    pub fn new(config: &FactoryConfig) -> Result<Self, FactoryConfigError> {
        let base = BaseUrl::parse(&config.base_url).map_err(FactoryConfigError::Base)?;
        let pxe = BaseUrl::parse(&config.pxe_base_url).map_err(FactoryConfigError::Pxe)?;
        let tls = (base.tls || pxe.tls).then(|| roots::client(config.ca_file.as_deref()));
        let tls = tls.transpose().map_err(FactoryConfigError::Roots)?;
        let client = Client { tls, timeout: config.timeout };
        Ok(Self { base, pxe, client, known: Mutex::default() })
    }

    /// The id of a schematic that this factory was told before. Never asks.
    #[must_use]
    pub fn known(&self, yaml: &str) -> Option<SchematicId> {
        self.known_by(&SchematicId::computed(yaml))
    }

    fn known_by(&self, computed: &SchematicId) -> Option<SchematicId> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).ids.get(computed).cloned()
    }

    /// Tells the factory a schematic (its canonical YAML) and learns its id. Asked once for each schematic.
    ///
    /// # Errors
    /// When the factory does not answer, or does not take it.
    pub async fn ensure_schematic(&self, yaml: &str) -> Result<SchematicId, FactoryError> {
        let computed = SchematicId::computed(yaml);
        if let Some(id) = self.known_by(&computed) {
            return Ok(id);
        }
        let ask = Ask {
            method: Method::POST,
            path: "/schematics",
            content_type: Some("application/yaml"),
            body: Bytes::copy_from_slice(yaml.as_bytes()),
            answer_max: SCHEMATIC_MAX,
        };
        let answer = self.client.exchange(&self.base, ask).await?;
        let body = checked(answer)?;
        #[derive(Deserialize)]
        struct Created {
            id: String,
        }
        let created: Created = serde_json::from_slice(&body).map_err(|_| FactoryError::NoId)?;
        let id: SchematicId = created.id.parse().map_err(|_| FactoryError::NoId)?;
        if id != computed {
            // An enterprise factory adds its owner. Anything else would be a factory of another kind.
            tracing::info!(%id, %computed, "image factory changed the schematic");
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).learn(computed, id.clone());
        Ok(id)
    }

    /// The script that boots a machine with a schematic. The URL holds the factory's credentials, if any.
    ///
    /// # Errors
    /// When the version is no plain one.
    pub fn pxe_url(
        &self,
        schematic: &SchematicId,
        version: &str,
        arch: Arch,
        secure_boot: bool,
    ) -> Result<String, NoVersion> {
        Ok(self.pxe.join(&pxe_path(schematic, version, arch, secure_boot)?))
    }

    /// A file, from where machines fetch it: there it is not redirected to other hosts. The URL holds the
    /// factory's credentials, if any.
    ///
    /// # Errors
    /// When the version is no plain one.
    pub fn image_url(
        &self,
        schematic: &SchematicId,
        version: &str,
        arch: Arch,
        file: ImageFile,
    ) -> Result<String, NoVersion> {
        let (version, file) = (with_v(version)?, file.name(arch));
        Ok(self.pxe.join(&format!("/image/{schematic}/{version}/{file}")))
    }

    /// Begins to read a file, from where machines fetch it, and tells its length.
    pub(crate) async fn download(
        &self,
        schematic: &SchematicId,
        version: &str,
        arch: Arch,
        file: ImageFile,
    ) -> Result<(Download, u64), FactoryError> {
        let path = format!("/image/{schematic}/{}/{}", with_v(version)?, file.name(arch));
        let begun = self.client.download(&self.pxe, &path, IMAGE_BEGINS, IMAGE_STALLS).await?;
        if begun.status != StatusCode::OK {
            let (status, headers) = (begun.status, begun.headers.clone());
            let body = begun.beginning(EXCUSE_MAX).await;
            checked(Answer { status, headers, body })?;
            return Err(FactoryError::Status { status, details: "no file".to_owned() });
        }
        let length = begun.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((begun, length.ok_or(FactoryError::NoLength)?))
    }

    /// What the script at [`Self::pxe_url`] boots.
    ///
    /// # Errors
    /// When the factory does not answer, does not have it, or gives something else.
    pub async fn boot_script(
        &self,
        schematic: &SchematicId,
        version: &str,
        arch: Arch,
        secure_boot: bool,
    ) -> Result<BootScript, FactoryError> {
        let path = pxe_path(schematic, version, arch, secure_boot)?;
        let ask = Ask {
            method: Method::GET,
            path: &path,
            content_type: None,
            body: Bytes::new(),
            answer_max: SCRIPT_MAX,
        };
        let answer = self.client.exchange(&self.pxe, ask).await?;
        Ok(BootScript::parse(&checked(answer)?)?)
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").field("base", &self.base).field("pxe", &self.pxe).finish_non_exhaustive()
    }
}

/// Ids by what they would be without an owner; the eldest is forgotten first.
#[derive(Default)]
struct Known {
    ids: HashMap<SchematicId, SchematicId>,
    order: VecDeque<SchematicId>,
}

impl Known {
    fn learn(&mut self, computed: SchematicId, id: SchematicId) {
        if self.ids.insert(computed.clone(), id).is_some() {
            return;
        }
        self.order.push_back(computed);
        if self.order.len() > KNOWN_MAX
            && let Some(eldest) = self.order.pop_front()
        {
            self.ids.remove(&eldest);
        }
    }
}

fn pxe_path(
    schematic: &SchematicId,
    version: &str,
    arch: Arch,
    secure_boot: bool,
) -> Result<String, NoVersion> {
    let (version, suffix) = (with_v(version)?, if secure_boot { "-secureboot" } else { "" });
    Ok(format!("/pxe/{schematic}/{version}/metal-{arch}{suffix}"))
}

/// Omni gives versions without the `v` that a factory's paths have.
pub(crate) fn with_v(version: &str) -> Result<String, NoVersion> {
    let bare = version.strip_prefix('v').unwrap_or(version);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    let begins = bare.starts_with(|first: char| first.is_ascii_digit());
    if !begins || bare.len() > VERSION_MAX || !bare.bytes().all(plain) {
        return Err(NoVersion(version.chars().take(VERSION_MAX).collect()));
    }
    Ok(format!("v{bare}"))
}

/// The body of a good answer.
fn checked(answer: Answer) -> Result<Bytes, FactoryError> {
    match answer.status {
        StatusCode::OK | StatusCode::CREATED => Ok(answer.body),
        StatusCode::BAD_REQUEST => Err(FactoryError::Refused(details(&answer.body))),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(FactoryError::Denied(status)),
        status if status.is_redirection() => Err(FactoryError::Redirected(location(&answer.headers))),
        status => Err(FactoryError::Status { status, details: details(&answer.body) }),
    }
}

fn location(headers: &HeaderMap) -> String {
    headers.get(LOCATION).map(|value| details(value.as_bytes())).unwrap_or_default()
}

/// The first line of what a factory says, without what a terminal would act on.
fn details(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().filter(|character| !character.is_control()).take(DETAILS_MAX).collect()
}

#[cfg(test)]
pub(crate) mod tests;
