use super::*;

fn change(bytes: usize) -> Change {
    Change { typ: EventType::Created, resource: Resource::default(), old: None, bytes }
}

fn revisions(shared: &Shared, position: u64, limit: usize) -> Result<Vec<u64>, Overrun> {
    Ok(shared.after(position, limit)?.into_iter().map(|(revision, _)| revision).collect())
}

#[test]
fn changes_are_numbered_on_from_the_revision_at_the_start() {
    let publisher = Publisher::new(100, 10, 1000);
    let shared = publisher.shared();
    assert_eq!(revisions(&shared, 100, 9), Ok(vec![]));
    publisher.publish(100, vec![change(1), change(1)]);
    publisher.publish(102, vec![change(1)]);
    assert_eq!(revisions(&shared, 100, 9), Ok(vec![101, 102, 103]));
    assert_eq!(revisions(&shared, 101, 1), Ok(vec![102]));
    assert_eq!(revisions(&shared, 103, 9), Ok(vec![]));
    // A snapshot may be ahead of what is published.
    assert_eq!(revisions(&shared, 105, 9), Ok(vec![]));
    assert_eq!(*shared.subscribe().borrow(), 103);
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let publisher = Publisher::new(0, 3, 1000);
    let shared = publisher.shared();
    publisher.publish(0, (0..5).map(|_| change(1)).collect());
    assert_eq!(revisions(&shared, 1, 9), Err(Overrun));
    assert_eq!(revisions(&shared, 2, 9), Ok(vec![3, 4, 5]));
    assert!(shared.reaches(2) && !shared.reaches(1));
}

#[test]
fn the_oldest_go_when_they_weigh_too_much_but_the_last_stays() {
    let publisher = Publisher::new(0, 100, 10);
    let shared = publisher.shared();
    publisher.publish(0, vec![change(6), change(4), change(1)]);
    assert_eq!(revisions(&shared, 1, 9), Ok(vec![2, 3]));
    publisher.publish(3, vec![change(50)]);
    assert_eq!(revisions(&shared, 3, 9), Ok(vec![4]));
    assert_eq!(revisions(&shared, 2, 9), Err(Overrun));
}

#[test]
fn a_gap_sends_everybody_to_the_start() {
    let publisher = Publisher::new(0, 100, 1000);
    let shared = publisher.shared();
    publisher.publish(0, vec![change(1)]);
    publisher.publish(4, vec![change(1)]);
    assert_eq!(revisions(&shared, 1, 9), Err(Overrun));
    assert_eq!(revisions(&shared, 4, 9), Ok(vec![5]));
}

#[test]
fn readers_learn_that_the_writer_is_gone() {
    let publisher = Publisher::new(0, 100, 1000);
    let receiver = publisher.shared().subscribe();
    assert!(receiver.has_changed().is_ok());
    drop(publisher);
    assert!(receiver.has_changed().is_err());
}
