//! Whom the client believes.

use std::path::Path;

use super::*;

fn file(name: &str) -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/factory/tests").join(name))
}

/// Asks a factory at `host` whose certificate is for 127.0.0.1, trusting `ca`.
async fn asked(host: &str, ca: &str) -> Result<SchematicId, FactoryError> {
    let fake = Fake::with_tls(host, [created(EMPTY)]).await;
    let url = format!("https://{}", fake.address);
    let factory = Factory::new(&FactoryConfig { ca_file: file(ca), ..config(url) }).unwrap();
    let result = factory.ensure_schematic(EMPTY_YAML).await;
    assert_eq!(fake.requests().len(), usize::from(result.is_ok()), "nothing is told to whom is not trusted");
    result
}

#[tokio::test]
async fn the_named_authority_is_trusted() {
    assert_eq!(asked("127.0.0.1", "ca.pem").await.unwrap(), empty());
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_for_another_host_is_refused() {
    for (host, ca) in [("127.0.0.1", "other-ca.pem"), ("127.0.0.2", "ca.pem")] {
        let result = asked(host, ca).await;
        assert!(matches!(result, Err(FactoryError::Exchange(ExchangeError::Tls { .. }))), "{result:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused() {
    let fake = Fake::new([created(EMPTY)]).await;
    let url = format!("https://{}", fake.address);
    let timeout = Duration::from_millis(200);
    let factory = Factory::new(&FactoryConfig { ca_file: file("ca.pem"), timeout, ..config(url) }).unwrap();
    // It waits for the end of a request that is none; whoever gives up first, nothing was told.
    assert!(matches!(factory.ensure_schematic(EMPTY_YAML).await, Err(FactoryError::Exchange(_))));
    assert!(fake.requests().is_empty());
}

#[test]
fn a_file_without_authorities_is_an_error_that_names_it() {
    for (name, path) in [("missing.pem", file("missing.pem")), ("server.key", file("server.key"))] {
        let config = FactoryConfig { ca_file: path, ..FactoryConfig::default() };
        let error = Factory::new(&config).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(name), "{cause}");
    }
}
