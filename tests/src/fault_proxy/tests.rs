use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Says everything back, to any number of clients.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn site() -> (FaultProxy, TcpStream) {
    let proxy = FaultProxy::start(echo().await, Seed::new(1)).await.unwrap();
    let client = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, client)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// Whether what is said comes back.
async fn answers(client: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    client.write_all(text).await?;
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).await?;
    assert_eq!(back, text);
    Ok(())
}

#[tokio::test]
async fn without_orders_every_byte_comes_through() {
    let (proxy, mut client) = site().await;
    let text: Vec<u8> = (0..100_000).map(|n: u32| n.to_le_bytes()[0]).collect();
    let (mut from, mut to) = client.split();
    let mut back = vec![0; text.len()];
    let (sent, read) = soon(async { tokio::join!(to.write_all(&text), from.read_exact(&mut back)) }).await;
    sent.unwrap();
    read.unwrap();
    assert_eq!(back, text);
    to.shutdown().await.unwrap();
    assert_eq!(soon(from.read(&mut back)).await.unwrap(), 0, "an end is passed on");
    assert_eq!(proxy.counters().borrow().opened, 1);
    assert_eq!(proxy.counters().borrow().bytes, 2 * text.len());
}

#[tokio::test]
async fn a_delay_is_paid_both_ways() {
    let (proxy, mut client) = site().await;
    soon(answers(&mut client, b"at once")).await.unwrap();
    proxy.delay(Duration::from_millis(50));
    let begin = Instant::now();
    soon(answers(&mut client, b"later")).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_reset_ends_what_is_open_and_lets_in_what_comes() {
    let (proxy, mut client) = site().await;
    soon(answers(&mut client, b"before")).await.unwrap();
    proxy.reset();
    assert!(soon(answers(&mut client, b"after")).await.is_err());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    soon(answers(&mut client, b"anew")).await.unwrap();
    assert_eq!(proxy.counters().borrow().reset, 1);
}

#[tokio::test]
async fn a_cut_line_lets_nobody_through_until_it_is_healed() {
    let (proxy, mut client) = site().await;
    soon(answers(&mut client, b"before")).await.unwrap();
    proxy.cut();
    assert!(soon(answers(&mut client, b"after")).await.is_err());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(soon(answers(&mut client, b"turned away")).await.is_err());
    soon(proxy.counters().wait_for(|counters| counters.refused == 1)).await.unwrap();
    proxy.heal();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    soon(answers(&mut client, b"healed")).await.unwrap();
}

#[tokio::test]
async fn a_stall_keeps_the_connection_and_its_bytes() {
    let (proxy, mut client) = site().await;
    soon(answers(&mut client, b"before")).await.unwrap();
    proxy.stall();
    client.write_all(b"stalled").await.unwrap();
    let before = proxy.counters().borrow().bytes;
    let mut back = [0; 7];
    let nothing = tokio::time::timeout(Duration::from_millis(50), client.read_exact(&mut back)).await;
    assert!(nothing.is_err());
    assert_eq!(proxy.counters().borrow().bytes, before);
    proxy.heal();
    soon(client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"stalled");
}

#[tokio::test]
async fn a_lossy_line_resets_each_connection_after_some_bytes() {
    let (proxy, _) = site().await;
    proxy.lose_connections_after(2000);
    for _ in 0..5 {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let lost = soon(async { while answers(&mut client, &[7; 100]).await.is_ok() {} });
        lost.await;
    }
    assert!(proxy.counters().borrow().reset >= 5);
    assert!(proxy.counters().borrow().bytes <= 5 * (4000 + 2 * PIECE));
}

#[tokio::test]
async fn a_target_that_moved_is_found_and_one_that_is_gone_is_a_refusal() {
    let (proxy, mut client) = site().await;
    soon(answers(&mut client, b"there")).await.unwrap();
    proxy.retarget(echo().await);
    assert!(soon(answers(&mut client, b"moved")).await.is_err());
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    soon(answers(&mut client, b"here")).await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    proxy.retarget(gone);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(soon(answers(&mut client, b"nowhere")).await.is_err());
    soon(proxy.counters().wait_for(|counters| counters.refused == 1)).await.unwrap();
}
