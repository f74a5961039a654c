//! Signed requests as Omni wants them: service account keys, signing, verifying.
//!
//! Every gRPC call to Omni carries three metadata values: a time, a JSON text that
//! names the method, and an OpenPGP signature over that text. Here is both ends of
//! it, and just so much of OpenPGP (RFC 4880, version 4 packets, Ed25519) as these
//! keys and signatures need.
//!
//! - [`ServiceAccountKey`] reads, makes, writes and signs with a service account's key.
//! - [`SigningLayer`] signs the calls of a tonic client.
//! - [`verify()`] judges the metadata of a request; [`VerifyLayer`] does so in front of
//!   a server and leaves the caller's [`Identity`] in the request's extensions.
//! - [`Certificate`] reads the public half of a key, as Omni stores it.
//!
//! What it never does: open sockets or files, keep keys (the caller looks them up),
//! panic on bytes from outside, or show a secret in an error or in `Debug`. Secrets
//! that it holds are wiped when dropped. No secret is ever compared here: what is
//! compared is public, and the signature arithmetic is ring's, in constant time.
//! The clock is an argument everywhere but in the two layers, and randomness is read
//! only to generate a key.
//!
//! What the signature does not do (Omni's design): it covers neither the message nor
//! a nonce, so whoever reads a request can repeat its metadata for five minutes with
//! another message. Only TLS, or a wire that nobody else sees, makes a call safe.
//!
//! Its drivers are `omni-link` (the client) and `hub` (the server).

mod client;
mod headers;
mod identity;
mod key;
mod pgp;
mod server;
mod verify;

pub use client::{Signed, SigningLayer};
pub use headers::{PAYLOAD_HEADER, SIGNATURE_HEADER, SIGNED_HEADERS, SignedHeaders, TIMESTAMP_HEADER};
pub use identity::{
    AccountName, BadAccountName, INFRA_PROVIDER_PREFIX, INFRA_PROVIDER_SUFFIX, Identity, Role,
    SERVICE_ACCOUNT_SUFFIX, UnknownRole,
};
pub use key::{KeyError, ServiceAccountKey};
pub use pgp::{Certificate, PgpError};
pub use server::{KeyLookup, Verified, VerifyLayer};
pub use verify::{ALLOWED_SKEW, AuthError, INVALID_SIGNATURE, PublicKey, verify};
