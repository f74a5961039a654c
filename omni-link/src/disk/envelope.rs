//! Resources as bytes: the message of the wire, so that nothing of them is lost.

use bytes::Bytes;
use cosi::{Metadata, Resource, Spec};
use cosi_wire::resource as wire;
use prost::Message;

pub(super) fn encode(resource: &Resource) -> Vec<u8> {
    to_wire(resource).encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Option<Resource> {
    from_wire(wire::Resource::decode(Bytes::copy_from_slice(bytes)).ok()?)
}

pub(super) fn to_wire(resource: &Resource) -> wire::Resource {
    let metadata = resource.metadata.clone();
    wire::Resource {
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
        spec: Some(wire::Spec {
            proto_spec: resource.spec.proto.clone(),
            yaml_spec: resource.spec.yaml.clone(),
        }),
    }
}

pub(super) fn from_wire(resource: wire::Resource) -> Option<Resource> {
    let (metadata, spec) = (resource.metadata?, resource.spec?);
    Some(Resource {
        metadata: Metadata {
            namespace: metadata.namespace,
            typ: metadata.r#type,
            id: metadata.id,
            version: metadata.version.parse().ok()?,
            owner: metadata.owner,
            phase: metadata.phase.parse().ok()?,
            created: metadata.created.unwrap_or_default(),
            updated: metadata.updated.unwrap_or_default(),
            finalizers: metadata.finalizers,
            labels: metadata.labels.into_iter().collect(),
            annotations: metadata.annotations.into_iter().collect(),
        },
        spec: Spec { proto: spec.proto_spec, yaml: spec.yaml_spec },
    })
}
