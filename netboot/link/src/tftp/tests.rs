use std::net::Ipv4Addr;
use std::sync::Mutex;

use netboot::Time;
use netboot::tftp::{Client, ClientError, Options, Wanted};

use tokio::net::UdpSocket;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn files() -> Arc<BootFiles> {
    let large: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251) as u8).collect();
    Arc::new(BootFiles::from_memory(vec![("large".into(), large), ("empty".into(), Vec::new())]))
}

async fn wait_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Downloads one file through a real socket.
async fn download(server: SocketAddr, name: &str, options: Options) -> Result<Vec<u8>, ClientError> {
    download_to(Ipv4Addr::LOCALHOST, server, name, options).await
}

async fn download_to(
    own: Ipv4Addr,
    server: SocketAddr,
    name: &str,
    options: Options,
) -> Result<Vec<u8>, ClientError> {
    let SocketAddr::V4(server) = server else { panic!("an IPv4 server") };
    let socket = UdpSocket::bind((own, 0)).await.unwrap();
    let clock = Clock::start();
    let wanted = Wanted { server, name: name.into(), options, max_bytes: 10 << 20 };
    let mut client = Client::new(Time::ZERO, wanted);
    let mut received = [0; 65_536];
    loop {
        while let Some((peer, packet)) = client.poll_transmit() {
            socket.send_to(&packet, peer).await.unwrap();
        }
        if let Some(outcome) = client.outcome() {
            return outcome.map(<[u8]>::to_vec).map_err(Clone::clone);
        }
        let deadline = client.poll_timeout().map(|time| clock.instant(time));
        tokio::select! {
            datagram = socket.recv_from(&mut received) => {
                let (length, SocketAddr::V4(from)) = datagram.unwrap() else { panic!("IPv4") };
                client.handle_packet(clock.now(), from, &received[..length]);
            }
            () = wait_until(deadline) => client.handle_timeout(clock.now()),
        }
    }
}

#[tokio::test]
async fn files_come_over_a_real_socket_and_reach_the_journal() {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr();
    let (shutdown, seen) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let sink: Sink = {
        let seen = seen.clone();
        Arc::new(move |event| seen.lock().unwrap().push(event))
    };
    let server = tokio::spawn(run(socket, files(), sink, shutdown.clone()));

    let large = files().as_ref().clone();
    let large = netboot::tftp::Files::open(&large, "large").unwrap();
    let windowed = Options { block_size: Some(1468), window_size: Some(16), ..Options::default() };
    for options in [Options::default(), windowed] {
        let data = tokio::time::timeout(PATIENCE, download(address, "/large", options)).await.unwrap();
        assert!(data.unwrap() == *large, "{options:?}");
    }
    let data = tokio::time::timeout(PATIENCE, download(address, "empty", windowed)).await.unwrap();
    assert_eq!(data.unwrap(), b"");
    let missing = tokio::time::timeout(PATIENCE, download(address, "none", windowed)).await.unwrap();
    assert!(matches!(missing, Err(ClientError::Server { .. })), "{missing:?}");

    shutdown.cancel();
    server.await.unwrap().unwrap();
    let steps: Vec<_> = seen.lock().unwrap().iter().map(|event| event.step.clone()).collect();
    let finished = steps.iter().filter(|step| matches!(step, Step::TftpFinished { .. })).count();
    assert!(finished >= 2, "{steps:?}");
    assert!(steps.iter().any(|step| matches!(step, Step::TftpFailed { file, .. } if file == "none")));
}

#[tokio::test]
async fn many_clients_at_once_all_finish() {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(run(socket, files(), Arc::new(|_| {}), shutdown.clone()));
    let options = Options { block_size: Some(1468), window_size: Some(4), ..Options::default() };
    // So many that the server gathers what comes.
    let own = |client: usize| Ipv4Addr::new(127, 0, 1, u8::try_from(client).unwrap());
    let clients = (1..CROWD + 8).map(|client| download_to(own(client), address, "large", options));
    let downloads = futures_util::future::join_all(clients);
    for data in tokio::time::timeout(PATIENCE, downloads).await.unwrap() {
        assert_eq!(data.unwrap().len(), 1_000_000);
    }
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_is_not_of_the_networks_gets_no_answer() {
    let socket =
        bind("127.0.0.1:0".parse().unwrap()).unwrap().only_for(vec!["127.0.1.0/24".parse().unwrap()]);
    let address = socket.local_addr();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(run(socket, files(), Arc::new(|_| {}), shutdown.clone()));
    let ask = async |from: &str| {
        let socket = UdpSocket::bind(from).await.unwrap();
        socket.send_to(b"\0\x01empty\0octet\0", address).await.unwrap();
        socket
    };
    let foreign = ask("127.0.2.9:0").await;
    // Its question came after the other's, so the other's was read when the answer is there.
    let ours = ask("127.0.1.9:0").await;
    let mut packet = [0; 600];
    let answer = tokio::time::timeout(PATIENCE, ours.recv_from(&mut packet)).await.unwrap().unwrap();
    assert_eq!((&packet[..answer.0], answer.1), (&[0, 3, 0, 1][..], address));
    assert!(foreign.try_recv_from(&mut packet).is_err());
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_dropped_gives_its_port_back() {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr();
    let server = tokio::spawn(run(socket, files(), Arc::new(|_| {}), CancellationToken::new()));
    let options = Options::default();
    tokio::time::timeout(PATIENCE, download(address, "empty", options)).await.unwrap().unwrap();
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    tokio::time::timeout(PATIENCE, async {
        while bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn blocks_fit_the_interface() {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap().only_by("no such interface");
    assert_eq!(socket.limits.max_block_size, Limits::default().max_block_size);
    assert_eq!(socket.with_mtu(1400).limits.max_block_size, 1400 - 32);
}

#[test]
fn an_ipv6_address_is_refused_before_anything_runs() {
    assert!(matches!(bind("[::1]:0".parse().unwrap()), Err(TftpError::NotIpv4(_))));
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind(first.local_addr()).unwrap_err();
    assert!(error.to_string().contains(&first.local_addr().to_string()));
}
