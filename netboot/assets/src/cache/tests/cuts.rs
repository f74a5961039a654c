//! Power fails before each step of the disk, and whatever was not synced is lost, or is not.

use std::collections::BTreeSet;
use std::fs;

use super::store::{FILES, Record, Step, Store};
use super::*;

/// What the disk did so far.
#[derive(Default)]
struct Disk {
    /// Steps that power lasts for.
    left: usize,
    done: Vec<(Step, Option<Vec<u8>>)>,
}

/// A switch, and its disk.
fn power_for(steps: usize) -> (Switch, Arc<Mutex<Disk>>) {
    let disk = Arc::new(Mutex::new(Disk { left: steps, done: Vec::new() }));
    let seen = Arc::clone(&disk);
    let switch: Switch = Arc::new(move |step| {
        let mut disk = seen.lock().unwrap();
        disk.left = disk.left.checked_sub(1).ok_or_else(|| io::Error::other("power is gone"))?;
        let removed = match step {
            Step::Remove(path) => fs::read(path).ok(),
            _ => None,
        };
        disk.done.push((step.clone(), removed));
        Ok(())
    });
    (switch, disk)
}

impl Disk {
    /// What a power cut takes: contents that were not synced, and, for `undone`, names that were not.
    fn cut(&self, undone: impl Fn(usize) -> bool) {
        let mut unsynced = BTreeSet::new();
        for (step, _) in &self.done {
            match step {
                Step::Create(path) | Step::Write(path) => drop(unsynced.insert(path.clone())),
                Step::Sync(path) => drop(unsynced.remove(path)),
                Step::Rename(from, to) => {
                    if unsynced.remove(from) {
                        unsynced.insert(to.clone());
                    }
                }
                Step::MakeFolder(_) | Step::SyncFolder(_) | Step::Remove(_) => {}
            }
        }
        for path in unsynced {
            if let Ok(content) = fs::read(&path) {
                fs::write(&path, &content[..content.len() / 2]).unwrap();
            }
        }
        for (at, (step, removed)) in self.done.iter().enumerate().rev() {
            let changed = match step {
                Step::Create(path) | Step::Rename(_, path) | Step::Remove(path) => path,
                Step::MakeFolder(_) | Step::Write(_) | Step::Sync(_) | Step::SyncFolder(_) => continue,
            };
            let folder = Step::SyncFolder(changed.parent().unwrap().to_owned());
            if self.done[at..].iter().any(|(step, _)| *step == folder) || !undone(at) {
                continue;
            }
            match (step, removed) {
                (Step::Create(path), _) => drop(fs::remove_file(path)),
                (Step::Rename(from, to), _) => drop(fs::rename(to, from)),
                (Step::Remove(path), Some(content)) => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content).unwrap();
                }
                _ => {}
            }
        }
    }
}

/// Which names are lost that were not synced, by the number of their step.
type Way = (&'static str, fn(usize) -> bool);

fn key() -> Key {
    Key { id: SchematicId::computed(SCHEMATIC), version: "v1.13.7".into(), arch: Arch::Amd64 }
}

fn write(store: &Store, kernel: &str, initramfs: &str) -> io::Result<Record> {
    let mut files = Vec::new();
    for (file, content) in FILES.into_iter().zip([kernel, initramfs]) {
        let mut part = store.begin(&key(), &file.name(Arch::Amd64))?;
        let (first, second) = content.split_at(content.len() / 2);
        part.write(first.as_bytes())?;
        part.write(second.as_bytes())?;
        files.push(part.finish()?);
    }
    let record = Record { schematic: SCHEMATIC.into(), args: ARGS.map(str::to_owned).to_vec(), files };
    store.commit(&key(), &record)?;
    Ok(record)
}

/// A life of an image: it comes, is evicted, and comes again as others built it.
fn live(root: &Path, switch: Switch) -> io::Result<()> {
    let store = Store::open(root, switch)?;
    write(&store, &kernel(), &initramfs())?;
    store.remove(&key())?;
    write(&store, "MZ of another build", "070701 of another build")?;
    Ok(())
}

/// Whether an image is there; a whole one, and nothing else.
fn reopened(root: &Path, steps: usize) -> bool {
    let store = Store::open(root, Arc::new(|_| Ok(()))).unwrap();
    let found = store.scan().unwrap();
    for (key, record, _) in &found {
        assert!(store.check(key, record, &CancellationToken::new()).unwrap(), "after {steps} steps");
        assert_eq!(record.args, ARGS);
    }
    let files: &[&str] = match found.len() {
        0 => &[],
        1 => &["image-amd64.json", "initramfs-amd64.xz", "kernel-amd64"],
        more => panic!("{more} images"),
    };
    assert_eq!(names(root), files, "after {steps} steps");
    // And it can be written again.
    store.remove(&key()).unwrap();
    write(&store, &kernel(), &initramfs()).unwrap();
    assert_eq!(store.scan().unwrap().len(), 1);
    !found.is_empty()
}

/// A folder where syncing costs nothing, if there is one.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn power_may_fail_at_any_instruction() {
    let ways: [Way; 4] = [
        ("all names are lost", |_| true),
        ("no name is lost", |_| false),
        ("some are", |at| at % 2 == 0),
        ("the others are", |at| at % 2 == 1),
    ];
    for (way, undone) in ways {
        let (mut nothing, mut whole) = (0, 0);
        for steps in 0.. {
            let root = memory();
            let (switch, disk) = power_for(steps);
            let ended = live(root.path(), switch);
            disk.lock().unwrap().cut(undone);
            let counted = if reopened(root.path(), steps) { &mut whole } else { &mut nothing };
            *counted += 1;
            if ended.is_ok() {
                assert!(steps > 30, "{steps} steps");
                break;
            }
        }
        assert!(nothing > 15 && whole > 2, "{way}: {nothing} times nothing, {whole} times whole");
    }
}

#[test]
fn leftovers_of_an_end_without_notice_are_removed_and_other_names_are_not() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Arc::new(|_| Ok(()))).unwrap();
    write(&store, &kernel(), &initramfs()).unwrap();
    let folder = root.path().join(path(VERSION, ""));
    for name in [".initramfs-amd64.xz.part", ".image-amd64.json.part", "kernel-arm64", "notes"] {
        fs::write(folder.join(name), "MZ").unwrap();
    }
    assert_eq!(store.scan().unwrap().len(), 1);
    let stays = ["image-amd64.json", "initramfs-amd64.xz", "kernel-amd64", "notes"];
    assert_eq!(names(root.path()), stays);
    // A record that was changed is none.
    let record = folder.join("image-amd64.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("pti=on", "pti=of")).unwrap();
    assert!(store.scan().unwrap().is_empty());
    assert_eq!(names(root.path()), ["notes"]);
}
