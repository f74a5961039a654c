//! Tokens, against what Go's encoder and Omni's verifier make of them.

use super::*;

fn provider_data() -> BTreeMap<String, String> {
    BTreeMap::from([("omni.sidero.dev/infra-provider-id".to_owned(), "bare-metal".to_owned())])
}

/// Made with openssl: `printf '{"omni.sidero.dev/infra-provider-id":"bare-metal"}' | openssl dgst -sha256
/// -hmac secret -binary | base64`.
const SIGNATURE: &str = "5WR07ndKYS7Y28tFXr9isZYTlgr6Z3HYF/y3V5CWjjw=";

#[test]
fn a_v2_token_is_byte_for_byte_what_omni_makes() {
    let token = JoinToken::sign_v2("secret", &provider_data());
    let json = format!(
        "{{\"extra_data\":{{\"omni.sidero.dev/infra-provider-id\":\"bare-metal\"}},\"signature\":\"{SIGNATURE}\"}}"
    );
    assert_eq!(token, format!("v2:{}", STANDARD.encode(json)));
}

#[test]
fn a_signed_token_is_valid_under_its_secret_only() {
    let token = JoinToken::parse(&JoinToken::sign_v2("secret", &provider_data())).unwrap();
    assert!(token.valid("secret"));
    assert!(!token.valid("Secret"));
    assert!(!token.valid(""));
    let JoinToken::V2(signed) = token else { panic!("not v2") };
    assert_eq!(signed.extra_data, provider_data());
}

#[test]
fn changed_data_breaks_the_signature() {
    let text = JoinToken::sign_v2("secret", &provider_data());
    let json = STANDARD.decode(text.trim_start_matches("v2:")).unwrap();
    let forged = String::from_utf8(json).unwrap().replace("bare-metal", "other-metal");
    let forged = JoinToken::parse(&format!("v2:{}", STANDARD.encode(forged))).unwrap();
    assert!(!forged.valid("secret"));
}

#[test]
fn data_is_signed_sorted_and_compact_however_it_was_sent() {
    let signed = JoinToken::sign_v2(
        "secret",
        &BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]),
    );
    let json = String::from_utf8(STANDARD.decode(signed.trim_start_matches("v2:")).unwrap()).unwrap();
    assert!(json.contains("{\"a\":\"1\",\"b\":\"2\"}"), "{json}");
    let spaced = json.replace("{\"a\":\"1\",\"b\":\"2\"}", "{ \"b\": \"2\",\n \"a\": \"1\" }");
    let token = JoinToken::parse(&format!("v2:{}", STANDARD.encode(spaced))).unwrap();
    assert!(token.valid("secret"));
}

#[test]
fn strings_are_escaped_as_go_does_it() {
    let mut out = String::new();
    go_string(&mut out, "a<b>&\"\\\n\u{1}\u{2028}é\u{7f}");
    assert_eq!(out, "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\u0001\\u2028é\u{7f}\"");
}

#[test]
fn a_plain_token_is_the_secret_itself() {
    let token = JoinToken::parse("secret").unwrap();
    assert_eq!(token, JoinToken::Plain("secret".to_owned()));
    assert!(token.valid("secret"));
    assert!(!token.valid("secret2"));
    assert!(!JoinToken::parse("").unwrap().valid(""), "nothing opens nothing");
}

#[test]
fn broken_tokens_are_errors() {
    for text in ["v2:", "v2:!", "v2:e30", "v1:bm90IGpzb24=", "v2:bnVsbA=="] {
        match JoinToken::parse(text) {
            Err(_) => {}
            Ok(token) => assert!(!token.valid("secret"), "{text}"),
        }
    }
}

#[test]
fn an_unsigned_token_is_never_valid() {
    let text = format!("v2:{}", STANDARD.encode("{\"extra_data\":{}}"));
    assert!(!JoinToken::parse(&text).unwrap().valid("secret"));
    assert!(!JoinToken::parse(&text).unwrap().valid(""));
}

#[test]
fn secrets_are_43_base62_characters_and_differ() {
    let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
    assert_eq!(one.len(), SECRET_LENGTH);
    assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_ne!(one, other);
}

#[test]
fn a_token_in_an_url_is_escaped_as_a_query_value() {
    assert_eq!(query_escape("v2:a+b/c=="), "v2%3Aa%2Bb%2Fc%3D%3D");
}

proptest::proptest! {
    #[test]
    fn any_data_signs_and_verifies(
        data in proptest::collection::btree_map(".{0,20}", ".{0,20}", 0..5),
        secret in "[a-zA-Z0-9]{1,43}",
    ) {
        let token = JoinToken::parse(&JoinToken::sign_v2(&secret, &data)).unwrap();
        proptest::prop_assert!(token.valid(&secret));
        let wrong = format!("{secret}x");
        proptest::prop_assert!(!token.valid(&wrong));
    }

    #[test]
    fn any_text_parses_or_is_refused(text in ".{0,200}") {
        let _ = JoinToken::parse(&text);
    }

    #[test]
    fn any_json_parses_or_is_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = JoinToken::parse(&format!("v2:{}", STANDARD.encode(bytes)));
    }
}
