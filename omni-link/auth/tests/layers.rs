//! The two layers against each other, under a real tonic client.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use omni_auth::{
    Identity, KeyLookup, PublicKey, Role, SIGNATURE_HEADER, ServiceAccountKey, SigningLayer, VerifyLayer,
};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::{Layer as _, service_fn};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn key() -> Arc<ServiceAccountKey> {
    Arc::new(ServiceAccountKey::generate("bare-metal", SystemTime::now(), DAY).unwrap())
}

fn lookup(key: &ServiceAccountKey) -> KeyLookup {
    let certificate = key.certificate().clone();
    Arc::new(move |fingerprint: &str| {
        (fingerprint == certificate.fingerprint()).then(|| PublicKey {
            identity: Identity {
                id: "bare-metal@infra-provider.serviceaccount.omni.sidero.dev".to_owned(),
                role: Role::InfraProvider,
            },
            expires: certificate.expires_at().unwrap(),
            ed25519: *certificate.ed25519(),
        })
    })
}

/// Answers every call `Aborted` with the identity that it finds in the request.
async fn whoami(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let who = request.extensions().get::<Identity>().unwrap();
    let said = format!("{} {}", who.provider_id().unwrap(), who.role);
    Ok(Status::aborted(said).into_http())
}

/// Calls through a signing client and a verifying server; what comes is the server's
/// word, since nothing here answers with a message.
async fn call(
    client: Option<Arc<ServiceAccountKey>>,
    server: VerifyLayer,
    metadata: &[(&'static str, &str)],
) -> Status {
    let service = SigningLayer::new(client).layer(server.layer(service_fn(whoami)));
    let mut grpc = Grpc::new(service);
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(());
    for (name, value) in metadata {
        let value: MetadataValue<_> = value.parse().unwrap();
        request.metadata_mut().append(*name, value);
    }
    let path = PathAndQuery::from_static("/cosi.resource.State/Get");
    let codec = ProstCodec::<(), ()>::default();
    grpc.unary(request, path, codec).await.unwrap_err()
}

fn assert_refused(status: &Status) {
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "invalid signature"));
}

#[tokio::test]
async fn a_signed_call_reaches_the_server_with_its_identity() {
    let key = key();
    let server = VerifyLayer::new(lookup(&key));
    for metadata in [&[][..], &[("nodes", "a"), ("nodes", "b"), ("authorization", "Bearer x")]] {
        let status = call(Some(key.clone()), server.clone(), metadata).await;
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(status.message(), "bare-metal InfraProvider");
    }
}

#[tokio::test]
async fn calls_that_are_unsigned_or_by_another_key_are_refused_alike() {
    let server = VerifyLayer::new(lookup(&key()));
    assert_refused(&call(None, server.clone(), &[]).await);
    assert_refused(&call(Some(key()), server, &[]).await);
}

#[tokio::test]
async fn a_server_whose_clock_is_ten_minutes_off_refuses() {
    let key = key();
    for off in [-600_i64, 600] {
        let clock = move || {
            let by = Duration::from_secs(off.unsigned_abs());
            let now = SystemTime::now();
            if off < 0 { now - by } else { now + by }
        };
        let server = VerifyLayer::new(lookup(&key)).with_clock(Arc::new(clock));
        assert_refused(&call(Some(key.clone()), server, &[]).await);
    }
}

#[tokio::test]
async fn signing_again_takes_the_place_of_what_was_signed_before() {
    let (old, new) = (key(), key());
    let mut headers = HeaderMap::new();
    old.sign(SystemTime::now(), "/a.B/C").apply(&mut headers);
    headers.append(SIGNATURE_HEADER, HeaderValue::from_static("x"));
    let stale: Vec<(&'static str, &str)> = vec![
        ("x-sidero-timestamp", headers["x-sidero-timestamp"].to_str().unwrap()),
        ("x-sidero-payload", headers["x-sidero-payload"].to_str().unwrap()),
        ("x-sidero-signature", headers["x-sidero-signature"].to_str().unwrap()),
        ("x-sidero-signature", "x"),
    ];
    let status = call(Some(new.clone()), VerifyLayer::new(lookup(&new)), &stale).await;
    assert_eq!(status.code(), Code::Aborted);
}
