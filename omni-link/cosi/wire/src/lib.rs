//! The generated messages and stubs of the gRPC package `cosi.resource`.
//!
//! Invariant: nothing is written by hand here but the protobuf files (in our own words, with the numbers
//! and names of the wire). The meaning of the messages, and conversions to types that hold only what can
//! be acted on, are in the crate `cosi`.

/// Package `cosi.resource`: envelope of a resource, and the service `State`.
pub mod resource {
    #![allow(missing_docs, reason = "generated; the protobuf files carry the comments")]
    #![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
    tonic::include_proto!("cosi.resource");
}
