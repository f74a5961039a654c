use super::*;

#[test]
fn roles_are_ordered_and_read_back_from_their_names() {
    let all = [Role::None, Role::InfraProvider, Role::Reader, Role::Operator, Role::Admin];
    assert!(all.is_sorted());
    for role in all {
        assert_eq!(role.to_string().parse(), Ok(role));
    }
    assert_eq!("admin".parse::<Role>(), Err(UnknownRole));
}

#[test]
fn account_names_give_the_identities_that_omni_stores() {
    for (name, identity, provider) in [
        (
            "infra-provider:bare-metal",
            "bare-metal@infra-provider.serviceaccount.omni.sidero.dev",
            Some("bare-metal"),
        ),
        ("ci", "ci@serviceaccount.omni.sidero.dev", None),
    ] {
        let account: AccountName = name.parse().unwrap();
        assert_eq!(account.to_string(), name);
        assert_eq!(account.identity(), identity);
        assert_eq!(account.is_infra_provider(), provider.is_some());
        let who = Identity { id: account.identity(), role: Role::InfraProvider };
        assert_eq!(who.provider_id(), provider);
    }
}

#[test]
fn names_that_would_break_an_identity_are_refused() {
    for name in ["", "infra-provider:", "a b", "a@b", "a\nb", "infra-provider:x:y", "é"] {
        assert_eq!(name.parse::<AccountName>(), Err(BadAccountName), "{name:?}");
    }
    assert!("a".repeat(63).parse::<AccountName>().is_ok());
    assert!("a".repeat(64).parse::<AccountName>().is_err());
}

#[test]
fn an_identity_without_a_provider_name_has_no_provider() {
    for id in [INFRA_PROVIDER_SUFFIX, "x@infra-provider.serviceaccount.omni.sidero.dev.evil", "a@example.org"]
    {
        let who = Identity { id: id.to_owned(), role: Role::InfraProvider };
        assert_eq!(who.provider_id(), None, "{id}");
    }
}
