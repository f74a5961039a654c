use std::net::SocketAddr;
use std::sync::Mutex;

use agent_wire::certificate::AnyHolder;
use agent_wire::inventory::{DISKS, HOSTNAME, META_KEYS, SYSTEM_DISK};
use agent_wire::machine::machine_service_client::MachineServiceClient;
use agent_wire::machine::{MetaDeleteRequest, MetaWriteRequest};
use agent_wire::storage::disk::DiskType;
use agent_wire::storage::storage_service_client::StorageServiceClient;
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::network::HostnameStatusSpec;
use cosi_wire::resource::state_client::StateClient;
use cosi_wire::resource::{CreateRequest, GetRequest, ListRequest, WatchRequest};
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::inventory::Item;
use crate::meta::UNIQUE_MACHINE_TOKEN;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("this takes too long")
}

async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    version: &'static rustls::SupportedProtocolVersion,
    protocol: &[u8],
) -> io::Result<TlsStream<IO>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let holder = Arc::new(AnyHolder(Arc::clone(&provider)));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(holder)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("machine").unwrap(), io).await
}

/// A gRPC channel over this connection.
async fn channel<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: IO) -> Channel {
    let tls = connect(io, &rustls::version::TLS13, b"h2").await.unwrap();
    let tls = Mutex::new(Some(TokioIo::new(tls)));
    let connector = tower::service_fn(move |_| {
        let tls = tls.lock().unwrap().take();
        async move { tls.ok_or_else(|| io::Error::other("only once")) }
    });
    Endpoint::from_static("http://machine").connect_with_connector(connector).await.unwrap()
}

fn items() -> Vec<Item> {
    let disk = DiskSpec { size: 64 << 20, transport: "virtio".into(), ..DiskSpec::default() };
    let hostname = HostnameStatusSpec { hostname: "node-1".into(), ..Default::default() };
    vec![Item::new("vda", &disk), Item::new("hostname", &hostname)]
}

async fn api() -> (MachineApi, Meta) {
    let meta = Meta::default();
    (MachineApi::new(Arc::new(items), meta.clone()).await.unwrap(), meta)
}

/// The API on loopback.
async fn on_loopback() -> (SocketAddr, Meta) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (api, meta) = api().await;
    tokio::spawn(serve(TcpListenerStream::new(listener), api, std::future::pending()));
    (address, meta)
}

async fn to(address: SocketAddr) -> Channel {
    channel(TcpStream::connect(address).await.unwrap()).await
}

/// The API at the other end of a pipe, and a channel to it.
async fn in_a_pipe() -> Channel {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (api, _) = api().await;
    let incoming = futures_util::stream::iter([Ok(far)]).chain(futures_util::stream::pending());
    tokio::spawn(serve(incoming, api, std::future::pending()));
    channel(near).await
}

fn list((namespace, typ): (&str, &str)) -> ListRequest {
    ListRequest { namespace: namespace.into(), r#type: typ.into(), options: None }
}

#[tokio::test]
async fn the_machine_tells_its_release_its_name_and_its_disks() {
    let channel = to(on_loopback().await.0).await;
    let mut machine = MachineServiceClient::new(channel.clone());
    let version = soon(machine.version(())).await.unwrap().into_inner().messages.remove(0);
    assert_eq!(version.version.unwrap().tag, crate::join::TALOS_VERSION);
    assert_eq!(version.platform.unwrap().mode, "metal-agent");
    let hostname = soon(machine.hostname(())).await.unwrap().into_inner().messages.remove(0);
    assert_eq!(hostname.hostname, "node-1");
    let mut storage = StorageServiceClient::new(channel);
    let disks = soon(storage.disks(())).await.unwrap().into_inner().messages.remove(0).disks;
    assert_eq!((disks[0].device_name.as_str(), disks[0].r#type()), ("/dev/vda", DiskType::Ssd));
    assert!(!disks[0].system_disk);
}

#[tokio::test]
async fn what_is_written_to_meta_is_seen_by_all_and_told_to_whoever_joined() {
    let (address, meta) = on_loopback().await;
    let channel = to(address).await;
    let mut state = StateClient::new(channel.clone());
    let watch = WatchRequest {
        namespace: META_KEYS.0.into(),
        r#type: META_KEYS.1.into(),
        api_version: 1,
        ..WatchRequest::default()
    };
    let mut watch = soon(state.watch(watch)).await.unwrap().into_inner();
    assert!(soon(watch.message()).await.unwrap().unwrap().event.is_empty());
    let mut changes = meta.subscribe();
    let mut machine = MachineServiceClient::new(channel);
    let value = br#"{"Fingerprint":"ab","Token":"t"}"#.to_vec();
    let write = MetaWriteRequest { key: u32::from(UNIQUE_MACHINE_TOKEN), value: value.into() };
    soon(machine.meta_write(write)).await.unwrap();
    soon(changes.changed()).await.unwrap();
    assert_eq!(changes.borrow_and_update().unique_token().unwrap().token, "t");
    let event = soon(watch.message()).await.unwrap().unwrap().event.remove(0);
    assert_eq!(event.resource.unwrap().metadata.unwrap().id, "0x10");
    let delete = |key| MetaDeleteRequest { key };
    soon(machine.meta_delete(delete(0x10))).await.unwrap();
    let codes = [soon(machine.meta_delete(delete(0x10))).await, soon(machine.meta_delete(delete(256))).await];
    assert_eq!(codes.map(|result| result.unwrap_err().code()), [Code::NotFound, Code::InvalidArgument]);
}

#[tokio::test]
async fn the_state_is_read_only_and_says_so() {
    let mut state = StateClient::new(to(on_loopback().await.0).await);
    let mut disks = soon(state.list(list(DISKS))).await.unwrap().into_inner();
    assert!(soon(disks.message()).await.unwrap().is_some());
    assert!(soon(disks.message()).await.unwrap().is_none());
    let none =
        GetRequest { namespace: SYSTEM_DISK.0.into(), r#type: SYSTEM_DISK.1.into(), ..Default::default() };
    assert_eq!(soon(state.get(none)).await.unwrap_err().code(), Code::NotFound);
    let refused = soon(state.create(CreateRequest::default())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "write access is not allowed"));
}

#[tokio::test]
async fn requests_for_other_machines_are_refused() {
    let mut machine = MachineServiceClient::new(to(on_loopback().await.0).await);
    for key in ["node", "nodes"] {
        let mut request = Request::new(());
        request.metadata_mut().insert(key, "10.0.0.9".parse().unwrap());
        assert_eq!(soon(machine.version(request)).await.unwrap_err().code(), Code::PermissionDenied);
    }
    soon(machine.version(())).await.unwrap();
}

/// `grpc-status` of a call of this method with an empty message.
async fn status_of(address: SocketAddr, path: &str) -> String {
    let tls =
        connect(TcpStream::connect(address).await.unwrap(), &rustls::version::TLS13, b"h2").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, String>(
        hyper_util::rt::TokioExecutor::new(),
        TokioIo::new(tls),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://machine{path}"))
        .header("content-type", "application/grpc")
        .body("\0\0\0\0\0".to_owned())
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    response.headers()["grpc-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_else_is_implemented() {
    let (address, _) = on_loopback().await;
    for method in [
        "/machine.MachineService/Reboot",
        "/machine.MachineService/Reset",
        "/machine.MachineService/ApplyConfiguration",
        "/storage.StorageService/BlockDeviceWipe",
        "/cosi.resource.State/Unknown",
        "/no.Such/Service",
    ] {
        assert_eq!(status_of(address, method).await, "12", "{method}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let (address, meta) = on_loopback().await;
    let channel = to(address).await;
    let mut machine = MachineServiceClient::new(channel.clone());
    let write = |length| MetaWriteRequest { key: 12, value: vec![b'x'; length].into() };
    let refused = soon(machine.meta_write(write(MAX_META_MESSAGE + 1))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let long = "x".repeat(MAX_MESSAGE);
    let refused = soon(StateClient::new(channel).list(list((&long, "y")))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    soon(machine.meta_write(write(1000))).await.unwrap();
    assert_eq!(meta.entries().values[&12].len(), 1000);
    for key in 13..=16 {
        soon(machine.meta_write(MetaWriteRequest { key, ..write(MAX_META_MESSAGE - 100) })).await.ok();
    }
    assert_eq!(
        soon(machine.meta_write(MetaWriteRequest { key: 17, ..write(70_000) })).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn older_tls_and_other_protocols_are_refused() {
    let (address, _) = on_loopback().await;
    let tcp = || async { TcpStream::connect(address).await.unwrap() };
    assert!(soon(connect(tcp().await, &rustls::version::TLS12, b"h2")).await.is_err());
    assert!(soon(connect(tcp().await, &rustls::version::TLS13, b"http/1.1")).await.is_err());
    soon(MachineServiceClient::new(to(address).await).version(())).await.unwrap();
}

#[tokio::test]
async fn garbage_before_and_inside_of_tls_ends_its_connection_only() {
    let (address, _) = on_loopback().await;
    let garbage: Vec<u8> = (0..4096u32).map(|at| (at * 31 % 251) as u8).collect();
    for start in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 64], &garbage] {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let _ = tcp.write_all(start).await;
        let _ = tcp.write_all(&garbage).await;
        let _ = tcp.shutdown().await;
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for start in [&garbage[..], preface, &preface[..10]] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut tls = connect(tcp, &rustls::version::TLS13, b"h2").await.unwrap();
        let _ = tls.write_all(start).await;
        let _ = tls.write_all(&garbage).await;
        let _ = tls.shutdown().await;
        let _ = soon(tls.read_to_end(&mut Vec::new())).await;
    }
    soon(MachineServiceClient::new(to(address).await).version(())).await.unwrap();
}

#[tokio::test]
async fn of_a_thousand_silent_connections_few_stay_and_none_keeps_others_out() {
    let (address, _) = on_loopback().await;
    let ends = FuturesUnordered::new();
    for _ in 0..1000 {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        ends.push(async move { drop(tcp.read_u8().await) });
    }
    soon(MachineServiceClient::new(to(address).await).version(())).await.unwrap();
    // The one that worked took the place of one of them, too.
    soon(ends.take(1000 - MAX_CONNECTIONS + 1).for_each(|()| async {})).await;
}

#[tokio::test]
async fn connections_that_work_are_not_given_up_for_new_ones() {
    let (address, _) = on_loopback().await;
    let mut working = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut client = MachineServiceClient::new(to(address).await);
        soon(client.version(())).await.unwrap();
        working.push(client);
    }
    let tcp = TcpStream::connect(address).await.unwrap();
    assert!(soon(connect(tcp, &rustls::version::TLS13, b"h2")).await.is_err());
    for client in &mut working {
        soon(client.version(())).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_ends_and_one_that_watches_stays() {
    let mut idle = MachineServiceClient::new(in_a_pipe().await);
    idle.version(()).await.unwrap();
    let mut state = StateClient::new(in_a_pipe().await);
    let watch =
        WatchRequest { namespace: HOSTNAME.0.into(), r#type: HOSTNAME.1.into(), ..WatchRequest::default() };
    let mut watch = state.watch(watch).await.unwrap().into_inner();
    watch.message().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3600), watch.message()).await.is_err());
    state.list(list(HOSTNAME)).await.unwrap();
    assert!(idle.version(()).await.is_err());
}

#[tokio::test]
async fn shutdown_ends_every_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(serve(TcpListenerStream::new(listener), api().await.0, shutdown));
    let mut client = MachineServiceClient::new(to(address).await);
    soon(client.version(())).await.unwrap();
    stop.send(()).unwrap();
    soon(server).await.unwrap();
    assert!(soon(client.version(())).await.is_err());
}
