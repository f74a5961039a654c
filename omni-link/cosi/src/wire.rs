//! Between our types and the messages of `cosi.resource`.

use bytes::Bytes;
use cosi_wire::resource as wire;
use wire::label_term::Operation;

use crate::{
    Event, EventType, Kind, LabelOp, LabelQuery, LabelTerm, Metadata, Pointer, Resource, Spec, StateError,
};

/// A stored resource of another writer that we cannot read.
fn malformed(what: &str, error: &dyn std::fmt::Display) -> StateError {
    StateError::InvalidArgument(format!("{what}: {error}"))
}

fn missing(what: &str) -> StateError {
    StateError::Unknown(format!("{what} is missing"))
}

impl From<Resource> for wire::Resource {
    fn from(resource: Resource) -> Self {
        let Resource { metadata, spec } = resource;
        Self {
            metadata: Some(wire::Metadata {
                namespace: metadata.namespace,
                r#type: metadata.typ,
                id: metadata.id,
                version: metadata.version.to_string(),
                owner: metadata.owner,
                phase: metadata.phase.to_string(),
                created: Some(metadata.created),
                updated: Some(metadata.updated),
                finalizers: metadata.finalizers,
                labels: metadata.labels.into_iter().collect(),
                annotations: metadata.annotations.into_iter().collect(),
            }),
            spec: Some(wire::Spec { proto_spec: spec.proto, yaml_spec: spec.yaml }),
        }
    }
}

impl TryFrom<wire::Resource> for Resource {
    type Error = StateError;

    /// A missing part is answered as the peer does: `Unknown`.
    fn try_from(resource: wire::Resource) -> Result<Self, StateError> {
        let metadata = resource.metadata.ok_or_else(|| missing("metadata"))?;
        let spec = resource.spec.ok_or_else(|| missing("spec"))?;
        Ok(Self {
            metadata: Metadata {
                version: metadata.version.parse().map_err(|error| malformed("version", &error))?,
                phase: metadata.phase.parse().map_err(|error| malformed("phase", &error))?,
                namespace: metadata.namespace,
                typ: metadata.r#type,
                id: metadata.id,
                owner: metadata.owner,
                created: metadata.created.unwrap_or_default(),
                updated: metadata.updated.unwrap_or_default(),
                finalizers: metadata.finalizers,
                labels: metadata.labels.into_iter().collect(),
                annotations: metadata.annotations.into_iter().collect(),
            },
            spec: Spec { proto: spec.proto_spec, yaml: spec.yaml_spec },
        })
    }
}

/// The resource of a call or an answer, without which it means nothing.
pub(crate) fn required(resource: Option<wire::Resource>) -> Result<Resource, StateError> {
    resource.ok_or_else(|| missing("resource"))?.try_into()
}

fn term_to_wire(term: LabelTerm) -> wire::LabelTerm {
    let op = match term.op {
        LabelOp::Exists => Operation::Exists,
        LabelOp::Equal => Operation::Equal,
        LabelOp::In => Operation::In,
        LabelOp::Less => Operation::Lt,
        LabelOp::LessOrEqual => Operation::Lte,
        LabelOp::LessNumeric => Operation::LtNumeric,
        LabelOp::LessOrEqualNumeric => Operation::LteNumeric,
    };
    wire::LabelTerm { key: term.key, op: op.into(), value: term.values, invert: term.invert }
}

fn term_from_wire(term: wire::LabelTerm) -> Result<LabelTerm, StateError> {
    let operation = Operation::try_from(term.op).map_err(|_| {
        StateError::Unimplemented(format!("label operation {} of {:?} is not known", term.op, term.key))
    })?;
    let (op, opposite) = match operation {
        Operation::Exists => (LabelOp::Exists, false),
        Operation::NotExists => (LabelOp::Exists, true),
        Operation::Equal => (LabelOp::Equal, false),
        Operation::In => (LabelOp::In, false),
        Operation::Lt => (LabelOp::Less, false),
        Operation::Lte => (LabelOp::LessOrEqual, false),
        Operation::LtNumeric => (LabelOp::LessNumeric, false),
        Operation::LteNumeric => (LabelOp::LessOrEqualNumeric, false),
    };
    // An old client says NOT_EXISTS, a new one EXISTS inverted; either alone means the opposite.
    Ok(LabelTerm { key: term.key, op, values: term.value, invert: term.invert || opposite })
}

pub(crate) fn queries_to_wire(queries: &[LabelQuery]) -> Vec<wire::LabelQuery> {
    let query = |query: &LabelQuery| wire::LabelQuery {
        terms: query.terms.iter().cloned().map(term_to_wire).collect(),
    };
    queries.iter().map(query).collect()
}

pub(crate) fn queries_from_wire(queries: Vec<wire::LabelQuery>) -> Result<Vec<LabelQuery>, StateError> {
    let query = |query: wire::LabelQuery| {
        let terms: Result<_, _> = query.terms.into_iter().map(term_from_wire).collect();
        terms.map(|terms| LabelQuery { terms })
    };
    queries.into_iter().map(query).collect()
}

pub(crate) fn id_query_to_wire(query: Option<&str>) -> Option<wire::IdQuery> {
    query.map(|regexp| wire::IdQuery { regexp: regexp.to_owned() })
}

pub(crate) fn id_query_from_wire(query: Option<wire::IdQuery>) -> Option<String> {
    query.map(|query| query.regexp).filter(|regexp| !regexp.is_empty())
}

/// `None` for an event that a client of that API version does not understand.
pub(crate) fn event_to_wire(api_version: i32, event: Event) -> Option<wire::Event> {
    let typ = match event.typ {
        EventType::Created => wire::EventType::Created,
        EventType::Updated => wire::EventType::Updated,
        EventType::Destroyed => wire::EventType::Destroyed,
        EventType::Bootstrapped | EventType::Errored | EventType::Noop if api_version < 1 => return None,
        EventType::Bootstrapped => wire::EventType::Bootstrapped,
        EventType::Errored => wire::EventType::Errored,
        EventType::Noop => wire::EventType::Noop,
    };
    Some(wire::Event {
        resource: Some(event.resource.into()),
        event_type: typ.into(),
        old: event.old.map(Into::into),
        error: event.error,
        bookmark: event.bookmark,
    })
}

/// `None` for a type of event that this version does not know: it changes nothing for us.
pub(crate) fn event_from_wire(kind: &Kind, event: wire::Event) -> Result<Option<Event>, StateError> {
    let Ok(typ) = wire::EventType::try_from(event.event_type) else {
        return Ok(None);
    };
    let typ = match typ {
        wire::EventType::Created => EventType::Created,
        wire::EventType::Updated => EventType::Updated,
        wire::EventType::Destroyed => EventType::Destroyed,
        wire::EventType::Bootstrapped => EventType::Bootstrapped,
        wire::EventType::Errored => EventType::Errored,
        wire::EventType::Noop => EventType::Noop,
    };
    let resource = match typ {
        EventType::Created | EventType::Updated => required(event.resource)?,
        // Dummies come without a spec or not at all.
        EventType::Destroyed | EventType::Bootstrapped | EventType::Errored | EventType::Noop => {
            match event.resource {
                None => Resource::empty(&kind.pointer("")),
                Some(mut resource) => {
                    resource.spec.get_or_insert_default();
                    resource.try_into()?
                }
            }
        }
    };
    let old = event.old.map(TryInto::try_into).transpose()?;
    let bookmark: Option<Bytes> = event.bookmark;
    Ok(Some(Event { typ, resource, old, bookmark, error: event.error }))
}

pub(crate) fn pointer(namespace: String, typ: String, id: String) -> Pointer {
    Pointer { namespace, typ, id }
}
