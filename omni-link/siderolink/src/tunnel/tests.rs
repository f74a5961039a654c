use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;
use crate::device::Endpoint;
use crate::limits::MAX_STREAMS_PER_ADDRESS;
use crate::relay::{RelayError, RelayServer};

const HUB: Ipv6Addr = Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 0, 1);
const MACHINE: Ipv6Addr = Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 8090;
/// Long on any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take that long")
}

fn tunnel(seed: u8, address: Ipv6Addr) -> Tunnel {
    Tunnel::new(TunnelConfig {
        key: PrivateKey::from_bytes([seed; 32]),
        address,
        max_streams: 64,
        seed: u64::from(seed),
    })
}

fn peer(address: Ipv6Addr, endpoint: Option<Endpoint>) -> PeerConfig {
    PeerConfig { address, endpoint, keepalive: None }
}

/// A running tunnel.
struct Running(Tunnel, JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl std::ops::Deref for Running {
    type Target = Tunnel;

    fn deref(&self) -> &Tunnel {
        &self.0
    }
}

fn run(tunnel: Tunnel, socket: Option<UdpSocket>) -> Running {
    let driven = tunnel.clone();
    Running(tunnel, tokio::spawn(async move { driven.run(socket.as_ref()).await }))
}

async fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A machine and a hub over UDP.
async fn pair() -> (Running, Running) {
    let (machine, hub) = (tunnel(1, MACHINE), tunnel(2, HUB));
    let ((machine_udp, _), (hub_udp, hub_at)) = (udp().await, udp().await);
    machine.set_peer(hub.public_key(), peer(HUB, Some(Endpoint::Udp(hub_at)))).unwrap();
    hub.set_peer(machine.public_key(), peer(MACHINE, None)).unwrap();
    (run(machine, Some(machine_udp)), run(hub, Some(hub_udp)))
}

fn to_hub() -> SocketAddrV6 {
    SocketAddrV6::new(HUB, PORT, 0, 0)
}

async fn echo(mut listener: Listener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
    }
}

#[tokio::test]
async fn a_stream_carries_megabytes_both_ways_and_ends_in_order() {
    let (machine, hub) = pair().await;
    tokio::spawn(echo(hub.listen(PORT).unwrap()));
    let stream = soon(machine.connect(to_hub())).await.unwrap();
    assert_eq!((*stream.peer_addr().ip(), *stream.local_addr().ip()), (HUB, MACHINE));
    let sent: Vec<u8> = (0..2_000_000u32).map(|number| (number % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let read = async { reader.read_to_end(&mut received).await.unwrap() };
    soon(async { tokio::join!(write, read) }).await;
    assert!(received == sent);
}

#[tokio::test]
async fn fifty_connections_at_once_are_all_accepted_though_nobody_accepts_yet() {
    let (machine, hub) = pair().await;
    let mut listener = hub.listen(PORT).unwrap();
    let connects = (0..MAX_STREAMS_PER_ADDRESS).map(|_| machine.connect(to_hub()));
    let streams = soon(futures_util::future::join_all(connects)).await;
    assert!(streams.iter().all(Result::is_ok));
    for _ in 0..MAX_STREAMS_PER_ADDRESS {
        let (_, from) = soon(listener.accept()).await.unwrap();
        assert_eq!(*from.ip(), MACHINE);
    }
    assert!(machine.connect(to_hub()).await.is_err(), "there is a limit");
}

#[tokio::test]
async fn a_port_without_a_listener_refuses_and_one_that_went_is_free_again() {
    let (machine, hub) = pair().await;
    let refused = soon(machine.connect(to_hub())).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let first = hub.listen(PORT).unwrap();
    assert_eq!(hub.listen(PORT).err(), Some(ListenError(PORT)));
    drop(first);
    let mut second = hub.listen(PORT).unwrap();
    let (stream, accepted) = soon(async { tokio::join!(machine.connect(to_hub()), second.accept()) }).await;
    assert!(stream.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn a_client_that_writes_and_goes_at_once_is_heard() {
    let (machine, hub) = pair().await;
    let mut listener = hub.listen(PORT).unwrap();
    let mut stream = soon(machine.connect(to_hub())).await.unwrap();
    stream.write_all(b"and gone").await.unwrap();
    drop(stream);
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "and gone");
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_driver_ends() {
    let (machine, hub) = pair().await;
    let mut listener = hub.listen(PORT).unwrap();
    let mut stream = soon(machine.connect(to_hub())).await.unwrap();
    let read = tokio::spawn(async move { stream.read_u8().await });
    machine.1.abort();
    assert!(soon(read).await.unwrap().is_err());
    assert!(machine.connect(to_hub()).await.is_err());
    soon(listener.accept()).await.unwrap();
    let accept = tokio::spawn(async move { listener.accept().await.map(drop) });
    hub.1.abort();
    assert!(soon(accept).await.unwrap().is_err());
}

#[tokio::test]
async fn a_hub_that_restarts_calls_its_machines_and_they_need_not_join_again() {
    let (machine, hub_at) = {
        let (machine, hub) = (tunnel(1, MACHINE), tunnel(2, HUB));
        let ((machine_udp, _), (hub_udp, hub_at)) = (udp().await, udp().await);
        machine.set_peer(hub.public_key(), peer(HUB, Some(Endpoint::Udp(hub_at)))).unwrap();
        hub.set_peer(machine.public_key(), peer(MACHINE, None)).unwrap();
        let machine = run(machine, Some(machine_udp));
        let hub = run(hub, Some(hub_udp));
        tokio::spawn(echo(hub.listen(PORT).unwrap()));
        soon(machine.connect(to_hub())).await.unwrap();
        let seen = hub.status(&machine.public_key()).unwrap().endpoint;
        hub.1.abort();
        ((machine, seen), hub_at)
    };
    let (machine, seen) = machine;
    let hub = tunnel(2, HUB);
    hub.set_peer(machine.public_key(), peer(MACHINE, seen)).unwrap();
    hub.initiate(&machine.public_key());
    // The old socket may take a moment to go with its task.
    let socket = soon(async {
        loop {
            match UdpSocket::bind(hub_at).await {
                Ok(socket) => return socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let hub = run(hub, Some(socket));
    let mut listener = machine.listen(50000).unwrap();
    let mut stream = soon(hub.connect(SocketAddrV6::new(MACHINE, 50000, 0, 0))).await.unwrap();
    let (mut accepted, _) = soon(listener.accept()).await.unwrap();
    stream.write_all(b"hello again").await.unwrap();
    let mut text = [0; 11];
    soon(accepted.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"hello again");
}

#[tokio::test]
async fn a_handshake_that_begins_before_the_stream_waits_for_it() {
    let address = "[fdae::4:1]:50889".parse().unwrap();
    let machine = tunnel(1, MACHINE);
    let relay = machine.relay();
    relay.send(address, vec![1]);
    relay.expect(address);
    (2..=6).for_each(|number| relay.send(address, vec![number]));
    let attached = relay.attach(address);
    relay.send(address, vec![7]);
    for number in 3..=7 {
        assert_eq!(attached.outgoing.next().await, [number], "the newest, in order");
    }
}

#[tokio::test]
async fn over_grpc_the_same_streams_work_and_strangers_are_refused() {
    let (own, server) = ("[fdae::4:1]:50889".parse().unwrap(), "[fdae::4:1]:50889".parse().unwrap());
    let (machine, hub) = (tunnel(1, MACHINE), tunnel(2, HUB));
    machine.set_peer(hub.public_key(), peer(HUB, Some(Endpoint::Relay(server)))).unwrap();
    hub.set_peer(machine.public_key(), peer(MACHINE, None)).unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let routes = tonic::service::Routes::new(RelayServer::service(hub.relay()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let (machine, hub) = (run(machine, None), run(hub, None));
    tokio::spawn(echo(hub.listen(PORT).unwrap()));
    let channel = tonic::transport::Endpoint::from_shared(uri).unwrap().connect().await.unwrap();

    let ended = soon(machine.relay().keep_stream(channel.clone(), own, server)).await;
    assert!(matches!(ended, RelayError::NotAllowed), "{ended:?}");

    hub.relay().allow(own);
    let keep = {
        let (relay, channel) = (machine.relay().clone(), channel.clone());
        tokio::spawn(async move { relay.keep_stream(channel, own, server).await })
    };
    let (mut reader, mut writer) = tokio::io::split(soon(machine.connect(to_hub())).await.unwrap());
    let mut received = vec![0; 100_000];
    let (written, read) =
        soon(async { tokio::join!(writer.write_all(&[7; 100_000]), reader.read_exact(&mut received)) }).await;
    written.unwrap();
    read.unwrap();
    assert_eq!(hub.status(&machine.public_key()).unwrap().endpoint, Some(Endpoint::Relay(own)));

    // The same address once more: the newer one counts.
    let again = {
        let relay = machine.relay().clone();
        tokio::spawn(async move { relay.keep_stream(channel, own, server).await })
    };
    let ended = soon(keep).await.unwrap();
    assert!(matches!(ended, RelayError::Replaced), "{ended:?}");
    writer.write_all(b"once more").await.unwrap();
    soon(reader.read_exact(&mut received[..9])).await.unwrap();
    hub.relay().forbid(own);
    assert!(matches!(soon(again).await.unwrap(), RelayError::Replaced));
}
