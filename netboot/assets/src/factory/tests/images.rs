//! The factory as a boot policy sees it.

use super::*;

const IMAGE: Image<'static> =
    Image { schematic: EMPTY_YAML, version: "1.13.7", arch: Arch::Amd64, secure_boot: false };

struct Site {
    fake: Fake,
    images: FactoryImages,
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

use tokio_util::sync::CancellationToken;

async fn site(replies: impl IntoIterator<Item = Reply>) -> Site {
    let fake = Fake::new(replies).await;
    let (images, worker) = FactoryImages::new(factory(&fake));
    let stop = CancellationToken::new();
    let worker = tokio::spawn(worker.run(stop.clone()));
    Site { fake, images, stop, worker }
}

impl Site {
    /// Asks until the answer is as it should be.
    async fn until(&self, right: impl Fn(&BootSource) -> bool) -> BootSource {
        let ask = async {
            loop {
                let source = self.images.boot(&IMAGE);
                if right(&source) {
                    return source;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ask).await.expect("the answer comes")
    }

    async fn end(self) {
        self.stop.cancel();
        self.worker.await.unwrap();
    }
}

fn chain(fake: &Fake) -> BootSource {
    BootSource::Chain { url: format!("{}/pxe/{EMPTY}/v1.13.7/metal-amd64", fake.url()) }
}

fn says(text: &str) -> impl Fn(&BootSource) -> bool {
    move |source| matches!(source, BootSource::NotYet { reason } if reason.contains(text))
}

/// Lets time pass for the failures, but not for exchanges that are under way.
async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_machine_boots_as_soon_as_the_factory_was_told() {
    let site = site([created(EMPTY)]).await;
    assert!(says("is being told")(&site.images.boot(&IMAGE)));
    let source = site.until(|source| matches!(source, BootSource::Chain { .. })).await;
    assert_eq!(source, chain(&site.fake));
    assert_eq!(site.images.boot(&Image { version: "v1.13.7", ..IMAGE }), source);
    assert!(says("not a version")(&site.images.boot(&Image { version: "latest", ..IMAGE })));
    assert_eq!(site.images.prepare(EMPTY_YAML), Ok(empty()));
    assert_eq!(site.fake.requests().len(), 1, "however many machines ask");
    site.end().await;
}

#[tokio::test]
async fn a_failure_is_the_reason_until_it_is_tried_again() {
    let site = site([answer("500 Broken", "disk full"), answer("500 Broken", "still"), created(EMPTY)]).await;
    site.until(says("500 Internal Server Error: disk full")).await;
    assert!(says("disk full")(&site.images.boot(&IMAGE)));
    assert_eq!(site.fake.requests().len(), 1);
    pass(Duration::from_secs(1)).await;
    assert!(says("disk full; trying again")(&site.images.boot(&IMAGE)));
    site.until(says("500 Internal Server Error: still")).await;
    pass(Duration::from_millis(1500)).await;
    assert!(says("still")(&site.images.boot(&IMAGE)), "the second wait is longer");
    assert_eq!(site.fake.requests().len(), 2);
    pass(Duration::from_millis(500)).await;
    let source = site.until(|source| matches!(source, BootSource::Chain { .. })).await;
    assert_eq!(source, chain(&site.fake));
    site.end().await;
}

#[tokio::test]
async fn a_refused_schematic_is_not_asked_about_every_second() {
    let site = site([answer("400 Bad Request", "no such extension"), created(EMPTY)]).await;
    site.until(says("refuses the schematic: no such extension")).await;
    pass(Duration::from_secs(59)).await;
    assert!(says("no such extension")(&site.images.boot(&IMAGE)));
    assert_eq!(site.fake.requests().len(), 1);
    // Extensions come with new versions.
    pass(Duration::from_secs(1)).await;
    site.until(|source| matches!(source, BootSource::Chain { .. })).await;
    site.end().await;
}

#[tokio::test]
async fn a_factory_that_hangs_holds_up_neither_the_others_nor_the_end() {
    let site = site([Reply::Hang(Vec::new()), created(EMPTY)]).await;
    assert!(site.images.prepare("hangs").is_err());
    while site.fake.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    site.until(|source| matches!(source, BootSource::Chain { .. })).await;
    site.end().await;
}

#[tokio::test]
async fn the_queue_has_an_end() {
    let fake = Fake::new([]).await;
    let (images, worker) = FactoryImages::new(factory(&fake));
    for n in 0..QUEUE_MAX {
        assert!(images.prepare(&n.to_string()).unwrap_err().contains("is being told"));
    }
    assert!(images.prepare("one more").unwrap_err().contains("busy"));
    drop(worker);
}

#[tokio::test]
async fn the_worker_ends_when_nobody_can_ask_any_more() {
    let Site { images, worker, stop, .. } = site([]).await;
    drop(images);
    worker.await.unwrap();
    assert!(!stop.is_cancelled());
}

#[test]
fn waits_grow_to_a_minute() {
    let seconds = |failures| super::source::backoff(failures).as_secs();
    assert_eq!([1, 2, 3, 6, 7, u32::MAX].map(seconds), [1, 2, 4, 32, 60, 60]);
}
