use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn pauses_double_up_to_the_most_and_start_over() {
    let mut backoff = Backoff::new(SECOND, 5 * SECOND);
    let pauses: Vec<_> = (0..4).map(|_| backoff.pause_with(0.0)).collect();
    assert_eq!(pauses, [SECOND, 2 * SECOND, 4 * SECOND, 5 * SECOND]);
    backoff.reset();
    assert_eq!(backoff.pause_with(0.0), SECOND);
}

#[test]
fn chance_shortens_a_pause_by_up_to_a_half() {
    for _ in 0..1000 {
        let pause = Backoff::new(SECOND, SECOND).pause();
        assert!(pause >= SECOND / 2 && pause <= SECOND, "{pause:?}");
    }
    let pauses: std::collections::BTreeSet<_> =
        (0..100).map(|_| Backoff::new(SECOND, SECOND).pause()).collect();
    assert!(pauses.len() > 50, "chance is no constant");
}
