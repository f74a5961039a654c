//! A hub's end of the tunnel for one machine, for tests against other implementations:
//!
//! ```text
//! echo <machine's public key>
//! ```
//!
//! It says its key and where it is, one `name=value` a line. In the tunnel it is `fdae::1`, the machine `fdae::2`:
//! port 7 echoes, a connection to port 8 is answered by one to the machine's port 9. Over gRPC the machine is
//! `[fdae::4:2]:50889`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

use siderolink::{PeerConfig, PrivateKey, PublicKey, RelayServer, Tunnel, TunnelConfig, TunnelStream};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};

const HUB: Ipv6Addr = Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 0, 1);
const MACHINE: Ipv6Addr = Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 0, 2);
const STREAM: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 4, 2), 50889, 0, 0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let machine = std::env::args().nth(1).ok_or("which key has the machine?")?;
    let tunnel = Tunnel::new(TunnelConfig {
        key: PrivateKey::from_bytes([42; 32]),
        address: HUB,
        max_streams: 64,
        seed: u64::from(std::process::id()),
    });
    let peer = PeerConfig { address: MACHINE, endpoint: None, keepalive: None };
    tunnel.set_peer(PublicKey::from_base64(&machine)?, peer)?;
    tunnel.relay().allow(STREAM);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!(
        "key={}\nudp={}\ngrpc={}\nready=",
        tunnel.public_key(),
        socket.local_addr()?,
        grpc.local_addr()?
    );

    let routes = tonic::service::Routes::new(RelayServer::service(tunnel.relay()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(grpc);
    let serve = tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming);
    let (mut echo, mut call) = (tunnel.listen(7)?, tunnel.listen(8)?);
    let echoes = async {
        while let Ok((stream, _)) = echo.accept().await {
            tokio::spawn(answer(stream));
        }
    };
    let calls = async {
        while call.accept().await.is_ok() {
            tokio::spawn(call_back(tunnel.clone()));
        }
    };
    tokio::select! {
        () = tunnel.run(Some(&socket)) => {}
        () = echoes => {}
        () = calls => {}
        result = serve => result?,
    }
    Ok(())
}

async fn answer(stream: TunnelStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

async fn call_back(tunnel: Tunnel) {
    if let Ok(mut stream) = tunnel.connect(SocketAddrV6::new(MACHINE, 9, 0, 0)).await {
        let _ = stream.write_all(b"hello from the hub").await;
        let _ = stream.shutdown().await;
    }
}
