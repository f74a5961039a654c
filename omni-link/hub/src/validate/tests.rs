//! What users may write, row by row.

use super::*;

fn config(acceptance: AcceptanceStatus) -> InfraMachineConfigSpec {
    InfraMachineConfigSpec { acceptance_status: acceptance as i32, ..InfraMachineConfigSpec::default() }
}

#[test]
fn acceptance_moves_forward_only() {
    use AcceptanceStatus::{Accepted, Pending, Rejected};
    let rows = [
        (None, Pending, true),
        (None, Accepted, true),
        (None, Rejected, true),
        (Some(Pending), Pending, true),
        (Some(Pending), Accepted, true),
        (Some(Pending), Rejected, true),
        (Some(Rejected), Pending, true),
        (Some(Rejected), Accepted, true),
        (Some(Rejected), Rejected, true),
        (Some(Accepted), Accepted, true),
        (Some(Accepted), Pending, false),
        (Some(Accepted), Rejected, false),
    ];
    for (old, new, allowed) in rows {
        let old = old.map(config);
        let result = validate_config_change(old.as_ref(), &config(new));
        assert_eq!(result.is_ok(), allowed, "{old:?} -> {new:?}");
        if let Err(error) = result {
            assert!(matches!(error, StateError::InvalidArgument(_)));
        }
    }
}

#[test]
fn unknown_values_are_refused() {
    let mut strange = config(AcceptanceStatus::Pending);
    strange.acceptance_status = 7;
    assert!(validate_config_change(None, &strange).is_err());
    let mut strange = config(AcceptanceStatus::Accepted);
    strange.power_state = -1;
    assert!(validate_config_change(None, &strange).is_err());
}

#[test]
fn versions_have_three_numbers() {
    for good in ["1.13.7", "v1.13.7", "1.14.0-alpha.1"] {
        assert!(version_like(good), "{good}");
    }
    for bad in ["", "latest", "1.13", "1..7", "1.x.7"] {
        assert!(!version_like(bad), "{bad}");
    }
}
