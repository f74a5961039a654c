//! The envelope: pointers, metadata, spec.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use prost_types::Timestamp;

/// Namespace and type: what a list or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Namespace.
    pub namespace: String,
    /// Type, as in `InfraMachines.omni.sidero.dev`.
    pub typ: String,
}

impl Kind {
    /// The kind of that namespace and type.
    pub fn new(namespace: impl Into<String>, typ: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), typ: typ.into() }
    }

    /// The resource of this kind with that id.
    pub fn pointer(&self, id: impl Into<String>) -> Pointer {
        Pointer::new(&self.namespace, &self.typ, id)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.typ, self.namespace)
    }
}

/// The name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    /// Namespace.
    pub namespace: String,
    /// Type, as in `InfraMachines.omni.sidero.dev`.
    pub typ: String,
    /// Id, unique within namespace and type.
    pub id: String,
}

impl Pointer {
    /// The name of that namespace, type and id.
    pub fn new(namespace: impl Into<String>, typ: impl Into<String>, id: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), typ: typ.into(), id: id.into() }
    }

    /// Namespace and type without the id.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::new(&self.namespace, &self.typ)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}/{})", self.typ, self.namespace, self.id)
    }
}

/// Where a resource is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// In use.
    #[default]
    Running,
    /// Going away; destroyed once nobody holds a finalizer.
    TearingDown,
}

impl Phase {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::TearingDown => "tearingDown",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no phase")]
pub struct ParsePhaseError(String);

impl FromStr for Phase {
    type Err = ParsePhaseError;

    /// Reads the word on the wire; an absent one (empty) is taken as running.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "running" => Ok(Self::Running),
            "tearingDown" => Ok(Self::TearingDown),
            other => Err(ParsePhaseError(other.to_owned())),
        }
    }
}

/// The version of a resource: grows by one with each update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    /// Not stored yet. Matches no stored version.
    #[default]
    Undefined,
    /// As stored; the first is 1.
    Number(u64),
}

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Undefined => Self::Number(1),
            Self::Number(number) => Self::Number(number.saturating_add(1)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("undefined"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version")]
pub struct ParseVersionError(String);

impl FromStr for Version {
    type Err = ParseVersionError;

    /// Reads the form on the wire; an absent one (empty) is taken as undefined.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "undefined" => Ok(Self::Undefined),
            digits => digits.parse().map(Self::Number).map_err(|_| ParseVersionError(digits.to_owned())),
        }
    }
}

/// Everything that the store understands of a resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// Namespace.
    pub namespace: String,
    /// Type.
    pub typ: String,
    /// Id.
    pub id: String,
    /// Set by the store. An update must bring the version that it changes.
    pub version: Version,
    /// Who may write it; set by the store at create, from the call's owner.
    pub owner: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Set by the store at create.
    pub created: Timestamp,
    /// Set by the store at each update.
    pub updated: Timestamp,
    /// Who still needs it.
    pub finalizers: Vec<String>,
    /// Labels, which queries look at.
    pub labels: BTreeMap<String, String>,
    /// Annotations, which nothing looks at.
    pub annotations: BTreeMap<String, String>,
}

/// The content, opaque to the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spec {
    /// The protobuf message. Kept as it is, so fields that we do not know survive.
    pub proto: Bytes,
    /// A rendering for people; may be empty.
    pub yaml: String,
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resource {
    /// What the store understands.
    pub metadata: Metadata,
    /// What it does not.
    pub spec: Spec,
}

impl Resource {
    /// A resource that is not stored yet.
    pub fn new(
        namespace: impl Into<String>,
        typ: impl Into<String>,
        id: impl Into<String>,
        proto: impl Into<Bytes>,
    ) -> Self {
        Self {
            metadata: Metadata {
                namespace: namespace.into(),
                typ: typ.into(),
                id: id.into(),
                ..Metadata::default()
            },
            spec: Spec { proto: proto.into(), yaml: String::new() },
        }
    }

    /// A resource of that name with an empty spec, not stored yet. Stands for the absent one in events.
    #[must_use]
    pub fn empty(pointer: &Pointer) -> Self {
        Self::new(&pointer.namespace, &pointer.typ, &pointer.id, Bytes::new())
    }

    /// Its name.
    #[must_use]
    pub fn pointer(&self) -> Pointer {
        Pointer::new(&self.metadata.namespace, &self.metadata.typ, &self.metadata.id)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.metadata.id
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }

    /// Puts a label on.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the spec to a message.
    #[must_use]
    pub fn with_spec<M: prost::Message>(mut self, spec: &M) -> Self {
        self.encode(spec);
        self
    }

    /// Sets the YAML rendering of the spec.
    #[must_use]
    pub fn with_yaml(mut self, yaml: impl Into<String>) -> Self {
        self.spec.yaml = yaml.into();
        self
    }

    /// Sets the spec to a message, in place. A YAML rendering of the old one is dropped.
    pub fn encode<M: prost::Message>(&mut self, spec: &M) {
        self.spec = Spec { proto: spec.encode_to_vec().into(), yaml: String::new() };
    }

    /// Reads the spec as a message.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, prost::DecodeError> {
        M::decode(self.spec.proto.clone())
    }

    /// Being torn down.
    #[must_use]
    pub fn is_tearing_down(&self) -> bool {
        self.metadata.phase == Phase::TearingDown
    }

    /// Holds a finalizer of that name.
    #[must_use]
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.metadata.finalizers.iter().any(|held| held == finalizer)
    }

    /// Adds a finalizer; says whether that changed anything.
    pub fn insert_finalizer(&mut self, finalizer: &str) -> bool {
        let new = !self.has_finalizer(finalizer);
        if new {
            self.metadata.finalizers.push(finalizer.to_owned());
        }
        new
    }

    /// Takes a finalizer off; says whether that changed anything.
    pub fn drop_finalizer(&mut self, finalizer: &str) -> bool {
        let before = self.metadata.finalizers.len();
        self.metadata.finalizers.retain(|held| held != finalizer);
        self.metadata.finalizers.len() != before
    }
}
