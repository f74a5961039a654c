use super::*;

#[test]
fn a_token_is_written_with_the_names_of_the_wire() {
    let token = NodeUniqueToken { fingerprint: "ab".into(), token: "cd".into() };
    assert_eq!(token.encode(), r#"{"Fingerprint":"ab","Token":"cd"}"#);
    assert_eq!(NodeUniqueToken::decode(&token.encode()).unwrap(), token);
}

#[test]
fn a_token_with_missing_or_unknown_parts_is_read() {
    let token = NodeUniqueToken::decode(r#"{"Token":"x","More":1}"#).unwrap();
    assert_eq!((token.fingerprint.as_str(), token.token.as_str()), ("", "x"));
    assert!(NodeUniqueToken::decode("x").is_err());
    assert!(matches!(NodeUniqueToken::decode(&" ".repeat(2000)), Err(TokenError::TooLong)));
}

#[test]
fn empty_parts_are_never_the_same() {
    let empty = NodeUniqueToken { fingerprint: String::new(), token: String::new() };
    assert!(!empty.same_token(&empty));
    assert!(!empty.same_fingerprint(&empty));
}

#[test]
fn the_fingerprint_covers_sorted_raw_addresses() {
    let a = [0x52, 0x54, 0, 0, 0, 1];
    let b = [0x02, 0xff, 0, 0, 0, 9];
    assert_eq!(fingerprint_input(&[a, b]), [b, a].concat());
    assert_eq!(fingerprint_input(&[b, a]), [b, a].concat());
    assert_eq!(hex(&[0, 0xab]), "00ab");
}
