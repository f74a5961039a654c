use super::FactoryUrl;

#[test]
fn the_credentials_of_a_url_are_told_apart_from_its_place() {
    let url = FactoryUrl::parse("https://me:p%40ss@factory.example.org:8443/sub/").unwrap();
    assert_eq!(url.public(), "https://factory.example.org:8443/sub");
    assert_eq!(url.standalone(), "https://me:p%40ss@factory.example.org:8443/sub");
    assert_eq!(url.credentials().as_deref(), Some("me:p@ss"));
    assert_eq!(url.host(), "factory.example.org:8443");
    let open = FactoryUrl::parse("http://[fd00::1]:8080").unwrap();
    assert_eq!((open.standalone().as_str(), open.credentials()), ("http://[fd00::1]:8080", None));
}

#[test]
fn what_is_no_absolute_url_is_none() {
    for text in ["", "factory.example.org", "https://", "https:///image", "://host", "https://me:secret@"] {
        assert_eq!(FactoryUrl::parse(text), None, "{text}");
    }
}

#[test]
fn odd_escapes_stay_as_they_are() {
    for (text, decoded) in [("%", "%"), ("a%4", "a%4"), ("%zz%41", "%zzA"), ("%é", "%é")] {
        assert_eq!(super::percent_decoded(text), decoded);
    }
}
