use super::*;

#[test]
fn each_error_comes_back_from_its_status() {
    let text = String::from;
    for (error, call) in [
        (StateError::NotFound(text("no")), Call::Read),
        (StateError::AlreadyExists(text("no")), Call::Create),
        (StateError::VersionConflict(text("no")), Call::Update),
        (StateError::PhaseConflict(text("resource x is in phase running")), Call::Update),
        (StateError::InvalidArgument(text("bad spec")), Call::Update),
        (StateError::OwnerConflict(text("resource x is owned by \"y\"")), Call::Destroy),
        (StateError::PermissionDenied(text("only reads are permitted")), Call::Update),
        (StateError::PendingFinalizers(text("no")), Call::Destroy),
        (StateError::InvalidBookmark(text("no")), Call::Watch),
        (StateError::InvalidArgument(text("resource x is in phase running")), Call::Create),
        (StateError::Unauthenticated(text("no")), Call::Read),
        (StateError::Unimplemented(text("no")), Call::Read),
        (StateError::Unavailable(text("no")), Call::Read),
        (StateError::Unknown(text("no")), Call::Read),
    ] {
        let status = Status::from(error.clone());
        assert_eq!(StateError::from_status(call, &status), error);
    }
}

#[test]
fn the_words_of_the_peer_are_understood() {
    let status = Status::permission_denied("resource T(n/id@3) is owned by \"InfraMachineController\"");
    assert!(matches!(StateError::from_status(Call::Update, &status), StateError::OwnerConflict(_)));
    let status = Status::invalid_argument("resource T(n/id@3) is not in phase running");
    assert!(matches!(StateError::from_status(Call::Update, &status), StateError::PhaseConflict(_)));
}
