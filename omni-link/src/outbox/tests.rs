use super::*;

fn resource(part: Part, id: &str, text: &str) -> Resource {
    Resource::empty(&part.kind("bare-metal").pointer(id)).with_yaml(text)
}

async fn put(outbox: &Outbox, part: Part, id: &str, text: &str) {
    outbox.put(id, part, resource(part, id, text), None, true).await.unwrap();
}

fn waiting(outbox: &Outbox) -> Vec<(String, Part, String)> {
    outbox.all().into_iter().map(|(id, one)| (id, one.part, one.resource.spec.yaml)).collect()
}

fn row(id: &str, part: Part, text: &str) -> (String, Part, String) {
    (id.to_owned(), part, text.to_owned())
}

#[tokio::test]
async fn writes_wait_in_order_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view.redb");
    let outbox = Outbox::open(Arc::new(Disk::open(&path).unwrap())).unwrap();
    put(&outbox, Part::Wipe, "a", "1").await;
    put(&outbox, Part::Bmc, "a", "2").await;
    put(&outbox, Part::Wipe, "b", "3").await;
    put(&outbox, Part::Wipe, "a", "4").await;
    let expected = [row("a", Part::Wipe, "4"), row("a", Part::Bmc, "2"), row("b", Part::Wipe, "3")];
    assert_eq!(waiting(&outbox), expected);
    drop(outbox);
    let outbox = Outbox::open(Arc::new(Disk::open(&path).unwrap())).unwrap();
    assert_eq!(waiting(&outbox), expected);
    assert_eq!(outbox.len(), 3);
}

#[tokio::test]
async fn a_write_that_was_replaced_while_it_was_sent_stays() {
    let outbox = Outbox::open(Arc::new(Disk::in_memory().unwrap())).unwrap();
    put(&outbox, Part::Power, "a", "on").await;
    let sent = outbox.first("a").unwrap();
    put(&outbox, Part::Power, "a", "off").await;
    outbox.done("a", &sent).await.unwrap();
    assert_eq!(waiting(&outbox), [row("a", Part::Power, "off")]);
    outbox.done("a", &outbox.first("a").unwrap()).await.unwrap();
    assert!(outbox.is_empty() && !outbox.holds("a"));
}

#[tokio::test]
async fn what_is_done_or_forgotten_does_not_come_back() {
    let disk = Arc::new(Disk::in_memory().unwrap());
    let outbox = Outbox::open(Arc::clone(&disk)).unwrap();
    put(&outbox, Part::Power, "a", "").await;
    put(&outbox, Part::Wipe, "b", "").await;
    put(&outbox, Part::Wipe, "c", "").await;
    outbox.done("a", &outbox.first("a").unwrap()).await.unwrap();
    outbox.forget("b").await.unwrap();
    assert_eq!(waiting(&Outbox::open(disk).unwrap()), [row("c", Part::Wipe, "")]);
}

#[tokio::test]
async fn what_need_not_survive_is_saved_when_it_cannot_be_sent() {
    let disk = Arc::new(Disk::in_memory().unwrap());
    let outbox = Outbox::open(Arc::clone(&disk)).unwrap();
    outbox.put("a", Part::Status, resource(Part::Status, "a", ""), None, false).await.unwrap();
    assert!(Outbox::open(Arc::clone(&disk)).unwrap().is_empty());
    outbox.save("a").await.unwrap();
    assert_eq!(Outbox::open(disk).unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_taken_in_survives_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view.redb");
    let outbox = Outbox::open(Arc::new(Disk::open(&path).unwrap())).unwrap();
    put(&outbox, Part::Wipe, "a", "1").await;
    put(&outbox, Part::Power, "a", "2").await;
    outbox.done("a", &outbox.first("a").unwrap()).await.unwrap();
    // The file as it is at this moment, never closed.
    let copy = dir.path().join("copy.redb");
    std::fs::copy(&path, &copy).unwrap();
    let left = waiting(&Outbox::open(Arc::new(Disk::open(&copy).unwrap())).unwrap());
    assert!(left.contains(&row("a", Part::Power, "2")), "{left:?}");
}
