//! Status and heartbeat as one.

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn beat(seconds: u64) -> Option<InfraProviderHealthStatusSpec> {
    Some(InfraProviderHealthStatusSpec {
        last_heartbeat_timestamp: Some(at(seconds).into()),
        error: "two BMCs do not answer".to_owned(),
    })
}

#[test]
fn a_provider_is_connected_while_its_last_heartbeat_is_young() {
    for (now, connected) in [(90, true), (100, true), (130, true), (131, false), (1000, false)] {
        let health = combined(None, beat(100), at(now)).health.unwrap();
        assert_eq!((health.connected, health.initialized), (connected, true), "at {now}");
        assert_eq!(health.error, "two BMCs do not answer");
    }
    let health = combined(None, None, at(100)).health.unwrap();
    assert_eq!((health.connected, health.initialized), (false, false));
}

#[test]
fn it_says_what_the_provider_says_of_itself() {
    let status = InfraProviderStatusSpec {
        schema: "secret".to_owned(),
        name: "Bare Metal".to_owned(),
        description: "here".to_owned(),
        icon: "PHN2Zz4".to_owned(),
        version: "1".to_owned(),
    };
    let combined = combined(Some(status), None, at(0));
    assert_eq!(
        (combined.name, combined.description, combined.icon, combined.version),
        ("Bare Metal".to_owned(), "here".to_owned(), "PHN2Zz4".to_owned(), "1".to_owned())
    );
}
