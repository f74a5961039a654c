//! From a factory that misbehaves.

use super::*;

#[tokio::test]
async fn the_first_boot_has_it_fetched_and_the_next_ones_find_it() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, 0, image()).await;
    assert_eq!(site.boot(VERSION), None);
    assert_eq!(site.boot("v1.13.7"), None, "the same with its v");
    assert!(!site.serves(VERSION));
    let image = site.ready(VERSION).await;
    assert_eq!(image.args, ARGS);
    assert_eq!((image.id, image.version.as_str()), (SchematicId::computed(SCHEMATIC), "v1.13.7"));
    assert!(site.serves(VERSION));
    let requests = site.fake.requests();
    let lines: Vec<_> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
    let id = SchematicId::computed(SCHEMATIC);
    assert_eq!(
        lines,
        [
            "POST /schematics HTTP/1.1".to_owned(),
            format!("GET /pxe/{id}/v1.13.7/metal-amd64 HTTP/1.1"),
            format!("GET /image/{id}/v1.13.7/kernel-amd64 HTTP/1.1"),
            format!("GET /image/{id}/v1.13.7/initramfs-amd64.xz HTTP/1.1"),
        ],
        "however many machines ask"
    );
    let bytes = (kernel().len() + initramfs().len()) as u64;
    assert_eq!(site.cache.size(), CacheSize { images: 1, bytes, ..CacheSize::default() });
    site.end().await;
}

#[tokio::test]
async fn nothing_but_images_is_served_from_the_cache() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, 0, image()).await;
    site.ready(VERSION).await;
    let id = SchematicId::computed(SCHEMATIC);
    std::fs::write(root.path().join("secret"), "secret").unwrap();
    std::fs::write(root.path().join(format!("cache/image/{id}/v1.13.7/.kernel-amd64.part")), "MZ").unwrap();
    for name in [
        path(VERSION, "image-amd64.json"),
        path(VERSION, ".kernel-amd64.part"),
        path(VERSION, "kernel-arm64"),
        path(VERSION, "../v1.13.7/kernel-amd64"),
        path(VERSION, "kernel-amd64/"),
        path("../v1.13.7", "kernel-amd64"),
        format!("image/../image/{id}/v1.13.7/kernel-amd64"),
        format!("image/{id}/1.13.7/kernel-amd64"),
        "image/../../secret".to_owned(),
        "../secret".to_owned(),
        "image".to_owned(),
        String::new(),
    ] {
        assert!(matches!(site.assets.open(&name), Err(AssetError::NotFound)), "{name}");
    }
    assert!(site.boot("1.13/..").is_none() && site.boot("..").is_none());
    site.end().await;
}

#[tokio::test]
async fn the_operators_own_image_comes_first() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, 0, image()).await;
    site.ready(VERSION).await;
    let own = root.path().join("assets").join(path(VERSION, "kernel-amd64"));
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(own, "MZ of the operator").unwrap();
    assert_eq!(site.content(VERSION, "kernel-amd64").as_deref(), Some("MZ of the operator"));
    assert_eq!(site.content(VERSION, "initramfs-amd64.xz"), Some(initramfs()));
    site.end().await;
}

/// Fails with the last of `bad`, then succeeds.
async fn fails_then_comes(bad: Vec<Reply>, then: Vec<Reply>) {
    let stalls = matches!(bad.last(), Some(Reply::Hang(_)));
    let root = tempfile::tempdir().unwrap();
    let failing = bad.len();
    let site = site(root.path(), ROOM, 0, bad.into_iter().chain(then)).await;
    assert_eq!(site.boot(VERSION), None);
    site.failed(failing).await;
    assert!(!site.serves(VERSION));
    // The beginning of the file may come in only now: then its time begins now.
    while stalls && site.cache.size().failures == 0 {
        pass(Duration::from_secs(61)).await;
        tokio::task::yield_now().await;
    }
    site.until("it fails", || site.cache.size().failures == 1).await;
    assert!(!site.serves(VERSION));
    assert_eq!(site.fake.requests().len(), failing, "not tried again at once");
    pass(Duration::from_secs(1)).await;
    site.ready(VERSION).await;
    assert!(site.serves(VERSION));
    assert_eq!(site.cache.size().failures, 1);
    site.end().await;
}

#[tokio::test]
async fn a_body_that_is_cut_is_fetched_again() {
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nMZ{}", kernel().len(), "k".repeat(2000));
    let then = vec![script(), file(&kernel()), file(&initramfs())];
    fails_then_comes(vec![created(), script(), Reply::Bytes(cut.into_bytes())], then).await;
}

#[tokio::test]
async fn what_came_whole_is_not_fetched_twice() {
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n070701", initramfs().len());
    let bad = vec![created(), script(), file(&kernel()), Reply::Bytes(cut.into_bytes())];
    fails_then_comes(bad, vec![script(), file(&initramfs())]).await;
}

#[tokio::test]
async fn a_file_without_a_length_is_no_file() {
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", kernel());
    let then = vec![script(), file(&kernel()), file(&initramfs())];
    fails_then_comes(vec![created(), script(), Reply::Bytes(endless.into_bytes())], then).await;
}

#[tokio::test]
async fn a_portals_page_is_never_kept() {
    let page = format!("<!DOCTYPE html><html>{}</html>", "please sign in ".repeat(300));
    let bad = vec![created(), script(), file(&kernel()), file(&page)];
    fails_then_comes(bad, vec![script(), file(&initramfs())]).await;
    let bad = vec![created(), script(), file(&page)];
    fails_then_comes(bad, vec![script(), file(&kernel()), file(&initramfs())]).await;
    let bad = vec![created(), script(), file("")];
    fails_then_comes(bad, vec![script(), file(&kernel()), file(&initramfs())]).await;
}

#[tokio::test]
async fn a_factory_that_is_out_of_order_is_asked_again() {
    let bad = vec![created(), script(), answer("503 Service Unavailable", "later")];
    fails_then_comes(bad, vec![script(), file(&kernel()), file(&initramfs())]).await;
    fails_then_comes(vec![answer("502 Bad Gateway", "")], image().into()).await;
}

#[tokio::test]
async fn a_file_that_stalls_is_broken_off() {
    let part = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nMZkkk", kernel().len());
    let bad = vec![created(), script(), Reply::Hang(part.into_bytes())];
    fails_then_comes(bad, vec![script(), file(&kernel()), file(&initramfs())]).await;
}

#[tokio::test]
async fn what_the_factory_does_not_have_is_asked_for_once_a_minute() {
    let root = tempfile::tempdir().unwrap();
    let bad = [created(), script(), file(&kernel()), answer("404 Not Found", "no such version")];
    let site = site(root.path(), ROOM, 0, bad.into_iter().chain(image().into_iter().skip(1))).await;
    assert_eq!(site.boot(VERSION), None);
    site.given_up().await;
    assert_eq!(names(&root.path().join("cache")), [""; 0], "nothing stays of it");
    assert_eq!(site.boot(VERSION), None);
    assert_eq!(site.cache.size(), CacheSize { failures: 1, ..CacheSize::default() });
    pass(Duration::from_secs(61)).await;
    assert_eq!(site.boot(VERSION), None);
    site.ready(VERSION).await;
    assert_eq!(site.fake.requests().len(), 7);
    site.end().await;
}

#[tokio::test]
async fn an_image_that_comes_is_no_reason_to_stay() {
    let root = tempfile::tempdir().unwrap();
    let site = site(root.path(), ROOM, 0, [Reply::Hang(Vec::new())]).await;
    assert_eq!(site.boot(VERSION), None);
    site.failed(1).await;
    assert_eq!(site.cache.size().coming, 1);
    site.end().await;
}

#[tokio::test]
async fn the_queue_has_an_end() {
    let root = tempfile::tempdir().unwrap();
    let factory = Arc::new(Factory::new(&FactoryConfig::default()).unwrap());
    let config = CacheConfig { root: root.path().to_owned(), bytes_max: ROOM, reserve: 0 };
    let (cache, _worker) = ImageCache::open(config, factory).unwrap();
    for n in 0..QUEUE_MAX + 5 {
        assert_eq!(cache.boot(SCHEMATIC, &format!("1.13.{n}"), Arch::Amd64), None);
    }
    assert_eq!(cache.size().coming, QUEUE_MAX);
}
