//! What stays, and what goes.

use super::*;

fn one() -> u64 {
    (kernel().len() + initramfs().len()) as u64
}

/// A factory's answers for images after the first, whose schematic it knows.
fn more(count: usize) -> impl Iterator<Item = Reply> {
    (0..count).flat_map(|_| image().into_iter().skip(1))
}

#[tokio::test]
async fn the_image_that_was_not_used_for_longest_makes_room() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), 2 * one(), 0, [created()].into_iter().chain(more(3))).await;
    site.ready("1.13.1").await;
    site.ready("1.13.2").await;
    assert!(site.serves("1.13.1") && site.serves("1.13.2") && site.serves("1.13.1"));
    pass(KEPT_FOR).await;
    site.ready("1.13.3").await;
    assert!(site.serves("1.13.1") && !site.serves("1.13.2") && site.serves("1.13.3"));
    assert_eq!(names(&root.path().join("cache")).len(), 6, "files of two images");
    assert!(site.cache.size().bytes <= 2 * one());
    site.end().await;
}

#[tokio::test]
async fn an_image_that_is_served_or_was_promised_stays() {
    let root = tempfile::tempdir().unwrap();
    // Twice the head of a kernel tells how much room it needs.
    let told = || [script(), file(&kernel())];
    let replies = image().into_iter().chain(told()).chain(told()).chain(more(1));
    let site = site(root.path(), one(), 0, replies).await;
    site.ready("1.13.1").await;
    assert_eq!(site.boot("1.13.2"), None);
    site.given_up().await;
    assert!(site.serves("1.13.1"), "a machine was just told to boot it");
    let (file, _) = site.assets.open(&path("1.13.1", "kernel-amd64")).unwrap();
    pass(KEPT_FOR + Duration::from_secs(61)).await;
    assert_eq!(site.boot("1.13.2"), None);
    site.failed(8).await;
    site.given_up().await;
    assert!(site.cache.shared.images().entries.values().any(|entry| matches!(entry, Entry::Ready { .. })));
    drop(file);
    pass(Duration::from_secs(61)).await;
    site.ready("1.13.2").await;
    assert!(!site.serves("1.13.1") && site.serves("1.13.2"));
    site.end().await;
}

#[tokio::test]
async fn the_file_system_is_never_filled() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, u64::MAX, image()).await;
    assert_eq!(site.boot(VERSION), None);
    site.given_up().await;
    assert_eq!(names(&root.path().join("cache")), [""; 0]);
    assert_eq!(site.cache.shared.images().coming, 0);
    site.end().await;
}

#[tokio::test]
async fn a_file_that_says_it_is_too_large_is_not_begun() {
    let root = tempfile::tempdir().unwrap();
    let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nMZ", FILE_MAX + 1);
    let site = site(root.path(), u64::MAX, 0, [created(), script(), Reply::Hang(huge.into_bytes())]).await;
    assert_eq!(site.boot(VERSION), None);
    site.given_up().await;
    assert_eq!(names(&root.path().join("cache")), [""; 0]);
    site.end().await;
}

#[tokio::test]
async fn an_image_outlives_the_appliance_and_the_factory() {
    let root = tempfile::tempdir().unwrap();
    let first = site(root.path(), ROOM, 0, image()).await;
    first.ready(VERSION).await;
    first.end().await;
    let second = site(root.path(), ROOM, 0, []).await;
    assert_eq!(second.ready(VERSION).await.args, ARGS);
    assert!(second.serves(VERSION));
    assert!(second.fake.requests().is_empty());
    second.end().await;
}

#[tokio::test]
async fn a_file_that_went_bad_is_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let first = site(root.path(), ROOM, 0, image()).await;
    first.ready(VERSION).await;
    first.end().await;
    let kernel = root.path().join("cache").join(path(VERSION, "kernel-amd64"));
    let mut file = std::fs::OpenOptions::new().write(true).open(kernel).unwrap();
    file.seek(SeekFrom::Start(1234)).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    let second = site(root.path(), ROOM, 0, image()).await;
    // By itself: nobody asks for it.
    second.until("it is fetched", || second.serves(VERSION)).await;
    assert_eq!(second.fake.requests().len(), 4);
    second.end().await;
}

#[tokio::test]
async fn a_file_that_somebody_removed_is_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, 0, [created()].into_iter().chain(more(2))).await;
    site.ready(VERSION).await;
    std::fs::remove_file(root.path().join("cache").join(path(VERSION, "kernel-amd64"))).unwrap();
    assert_eq!(site.content(VERSION, "kernel-amd64"), None);
    assert_eq!(site.boot(VERSION), None);
    site.ready(VERSION).await;
    assert!(site.serves(VERSION));
    site.end().await;
}
