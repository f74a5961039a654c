use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::factory::FactoryConfig;
use crate::factory::tests::fake::{Fake, Reply, answer};

mod cuts;
mod fetch;
mod keep;

const ROOM: u64 = 1 << 30;
const SCHEMATIC: &str = "customization: {}\n";
const VERSION: &str = "1.13.7";
const ARGS: [&str; 3] = ["talos.platform=metal", "slab_nomerge", "pti=on"];

fn kernel() -> String {
    format!("MZ{}", "k".repeat(3000))
}

fn initramfs() -> String {
    format!("070701{}", "i".repeat(5000))
}

fn created() -> Reply {
    let id = SchematicId::computed(SCHEMATIC);
    answer("201 Created", &format!(r#"{{"id":"{id}"}}"#))
}

fn script() -> Reply {
    let args = ARGS.join(" ");
    let script =
        format!("#!ipxe\n\nimgfree\nkernel http://f/kernel {args}\ninitrd http://f/initramfs\nboot\n");
    answer("200 OK", &script)
}

fn file(content: &str) -> Reply {
    answer("200 OK", content)
}

/// All that a factory says when all goes well.
fn image() -> [Reply; 4] {
    [created(), script(), file(&kernel()), file(&initramfs())]
}

fn path(version: &str, name: &str) -> String {
    format!("image/{}/v{version}/{name}", SchematicId::computed(SCHEMATIC))
}

struct Site {
    fake: Fake,
    cache: ImageCache,
    assets: AssetDir,
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

/// An appliance whose operator put no image anywhere.
async fn site(root: &Path, bytes_max: u64, reserve: u64, replies: impl IntoIterator<Item = Reply>) -> Site {
    let fake = Fake::new(replies).await;
    let config = FactoryConfig { base_url: fake.url(), pxe_base_url: fake.url(), ..FactoryConfig::default() };
    let factory = Arc::new(Factory::new(&config).unwrap());
    let config = CacheConfig { root: root.join("cache"), bytes_max, reserve };
    let (cache, worker) = ImageCache::open(config, factory).unwrap();
    let own = root.join("assets");
    std::fs::create_dir_all(&own).unwrap();
    let assets = AssetDir::new(own).unwrap().with_cache(Some(cache.clone()));
    let stop = CancellationToken::new();
    let worker = tokio::spawn(worker.run(stop.clone()));
    Site { fake, cache, assets, stop, worker }
}

impl Site {
    fn boot(&self, version: &str) -> Option<CachedImage> {
        self.cache.boot(SCHEMATIC, version, Arch::Amd64)
    }

    async fn until(&self, what: &str, right: impl Fn() -> bool) {
        let wait = async {
            while !right() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn ready(&self, version: &str) -> CachedImage {
        self.until("the image comes", || self.boot(version).is_some()).await;
        self.boot(version).unwrap()
    }

    /// Until the factory was asked so many times and the last answer was taken in.
    async fn failed(&self, requests: usize) {
        self.until("it is asked", || self.fake.requests().len() == requests).await;
    }

    /// A boot that finds the image neither ready nor coming.
    async fn given_up(&self) {
        self.until("it is given up", || {
            self.cache.shared.images().entries.values().any(|entry| matches!(entry, Entry::Failed { .. }))
        })
        .await;
    }

    fn content(&self, version: &str, name: &str) -> Option<String> {
        let (mut file, length) = self.assets.open(&path(version, name)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        Some(text)
    }

    fn serves(&self, version: &str) -> bool {
        let kernel_is = self.content(version, "kernel-amd64").map(|content| content == kernel());
        let initramfs_is = self.content(version, "initramfs-amd64.xz").map(|content| content == initramfs());
        assert_eq!(kernel_is, initramfs_is, "both or none");
        assert_ne!(kernel_is, Some(false), "a wrong file");
        kernel_is.is_some()
    }

    async fn end(self) {
        self.stop.cancel();
        self.worker.await.unwrap();
    }
}

/// Lets time pass for whoever waits, but not for exchanges that are under way.
async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// Names of all files beneath a folder.
fn names(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort_unstable();
    found
}
