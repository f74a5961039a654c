use std::io::Read as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

#[test]
fn only_http_urls_with_an_address_are_taken() {
    let address = |text: &str| address_of(&text.parse().unwrap());
    assert_eq!(address("http://10.0.0.1:50042/x").unwrap(), "10.0.0.1:50042".parse().unwrap());
    assert_eq!(address("http://[fd00::1]/x").unwrap(), "[fd00::1]:80".parse().unwrap());
    for text in ["https://10.0.0.1/x", "http://example.org/x", "/x"] {
        assert!(address(text).is_err(), "{text}");
    }
}

/// A server that gives one fixed answer to one request, and the URL of it.
async fn server(answer: Vec<u8>) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/image", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        let _ = stream.write_all(&answer).await;
    });
    url
}

fn answer(length: usize, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
}

fn state() -> State {
    State { cmdline: "a=b".to_owned(), unique_token: "token".to_owned() }
}

fn image() -> Vec<u8> {
    (0..3 * 1024 * 1024u32).map(|at| at.to_le_bytes()[usize::try_from(at % 3).unwrap()]).collect()
}

#[tokio::test]
async fn the_disk_has_the_image_and_the_state() {
    let image = image();
    let url = server(answer(image.len(), &image)).await;
    let mut disk = tempfile::tempfile().unwrap();
    assert_eq!(install(&url, &mut disk, 1 << 30, &state()).await.unwrap(), image.len() as u64);

    assert_eq!(State::read(&mut disk).unwrap(), Some(state()));
    let mut written = Vec::new();
    disk.seek(SeekFrom::Start(0)).unwrap();
    disk.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), image.len());
    let state_at = usize::try_from(crate::state::OFFSET).unwrap();
    assert!(written[..state_at] == image[..state_at]);
    assert!(written[state_at + 4096..] == image[state_at + 4096..]);
}

#[tokio::test]
async fn a_download_that_breaks_off_leaves_a_disk_that_does_not_boot() {
    let image = image();
    let url = server(answer(image.len(), &image[..image.len() / 2])).await;
    let mut disk = tempfile::tempfile().unwrap();
    disk.write_all(b"the boot code of another system").unwrap();
    install(&url, &mut disk, 1 << 30, &state()).await.unwrap_err();

    let mut first = [1; FIRST_BLOCK];
    disk.seek(SeekFrom::Start(0)).unwrap();
    disk.read_exact(&mut first).unwrap();
    assert!(first.iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn refusals_and_images_that_do_not_fit_are_errors_before_anything_is_written() {
    let refusal = server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let large = server(answer(4096, &[7; 4096])).await;
    for (url, want) in [(refusal, "404"), (large, "does not fit")] {
        let mut disk = tempfile::tempfile().unwrap();
        let error = format!("{:#}", install(&url, &mut disk, 1024, &state()).await.unwrap_err());
        assert!(error.contains(want), "{error}");
        assert_eq!(disk.metadata().unwrap().len(), 0);
    }
}
