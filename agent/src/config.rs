//! The join configuration: Talos' multi-document YAML, as far as an agent needs it.

use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::tls::Trust;

/// Where and with what the machine registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinConfig {
    /// Address of the machine API: `http://` or `https://`, host and port.
    pub endpoint: String,
    /// Whom to trust over TLS.
    pub trust: Trust,
    /// Join token, decoded.
    pub join_token: Option<String>,
    /// WireGuard shall go through a gRPC stream.
    pub over_grpc: bool,
    /// Where events go, ip:port.
    pub event_endpoint: Option<String>,
}

/// The text cannot be acted on.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML.
    #[error("configuration is no valid YAML")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// Nothing in it says where to join.
    #[error("configuration has no SideroLinkConfig")]
    NoSideroLink,
    /// The address cannot be used.
    #[error("apiUrl {0:?} is not grpc://, http:// or https://")]
    ApiUrl(String),
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    kind: String,
    api_url: String,
    endpoint: String,
    /// A text where it matters.
    certificates: Value,
}

impl JoinConfig {
    /// Reads the documents; those of other kinds are left alone.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut api_url = None;
        let mut event_endpoint = None;
        let mut trust = Trust::default();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            // An empty document is null.
            let document = Option::<Document>::deserialize(document)?.unwrap_or_default();
            match document.kind.as_str() {
                "SideroLinkConfig" => api_url = Some(document.api_url),
                "EventSinkConfig" => event_endpoint = Some(document.endpoint),
                "TrustedRootsConfig" => trust.add(document.certificates.as_str().unwrap_or_default()),
                _ => {}
            }
        }
        let api_url = api_url.ok_or(ConfigError::NoSideroLink)?;
        let (endpoint, query) = split_api_url(&api_url)?;
        let value = |key: &str| query_value(query, key);
        let over_grpc = value("grpc_tunnel").is_some_and(|text| matches!(&*text, "y" | "yes" | "true" | "1"));
        Ok(Self { endpoint, trust, join_token: value("jointoken"), over_grpc, event_endpoint })
    }
}

/// `grpc://ip:port?jointoken=…` in its parts: a URI, and the query.
fn split_api_url(url: &str) -> Result<(String, &str), ConfigError> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, host) = match address.split_once("://") {
        Some(("grpc" | "http", host)) => ("http", host.trim_end_matches('/')),
        Some(("https", host)) => ("https", host.trim_end_matches('/')),
        Some(_) | None => ("", ""),
    };
    if host.is_empty() {
        // The query carries a secret: it stays out of the error.
        return Err(ConfigError::ApiUrl(address.to_owned()));
    }
    Ok((format!("{scheme}://{host}"), query))
}

/// The first value of the key, decoded, unless it is empty.
fn query_value(query: &str, key: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
    Some(percent_decode(value)).filter(|value| !value.is_empty())
}

/// Undoes percent encoding; what is not validly encoded stays as it is.
pub fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVED: &str = "apiVersion: v1alpha1
kind: SideroLinkConfig
apiUrl: grpc://10.77.0.1:8090?jointoken=v2%3AeyJhIjp7fX0%3D
---
apiVersion: v1alpha1
kind: EventSinkConfig
endpoint: '10.77.0.1:8090'
---
apiVersion: v1alpha1
kind: KmsgLogConfig
name: omni-kmsg
url: tcp://10.77.0.1:8092
---
";

    #[test]
    fn the_served_documents_are_read() {
        let config = JoinConfig::parse(SERVED).unwrap();
        assert_eq!(config.endpoint, "http://10.77.0.1:8090");
        assert_eq!(config.join_token.as_deref(), Some("v2:eyJhIjp7fX0="));
        assert_eq!(config.event_endpoint.as_deref(), Some("10.77.0.1:8090"));
        assert!(!config.over_grpc);
    }

    #[test]
    fn wireguard_goes_over_grpc_when_the_url_says_so() {
        let over_grpc = |query: &str| {
            let text = format!("kind: SideroLinkConfig\napiUrl: grpc://10.0.0.1:8090?jointoken=a{query}\n");
            JoinConfig::parse(&text).unwrap().over_grpc
        };
        assert!(over_grpc("&grpc_tunnel=y") && over_grpc("&grpc_tunnel=true"));
        assert!(!over_grpc("") && !over_grpc("&grpc_tunnel=n") && !over_grpc("&grpc_tunnel="));
    }

    #[test]
    fn a_machine_api_over_tls_stays_one_and_roots_are_taken_up() {
        let url = "kind: SideroLinkConfig\napiUrl: https://omni.example.org/?jointoken=a\n";
        let config = JoinConfig::parse(url).unwrap();
        assert_eq!(config.endpoint, "https://omni.example.org");
        assert!(config.trust.is_empty());
        let certificate = agent_wire::certificate::Certificate::self_signed(
            "x",
            agent_wire::certificate::Validity::FOREVER,
            &[1; 48],
        );
        let pem = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, certificate.certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n    {pem}\n    -----END CERTIFICATE-----");
        let roots = |text: &str| format!("{url}---\nkind: TrustedRootsConfig\ncertificates: {text}\n");
        assert!(!JoinConfig::parse(&roots(&format!("|\n    {pem}"))).unwrap().trust.is_empty());
        for damaged in ["|\n    garbage", "", "[1]"] {
            assert!(JoinConfig::parse(&roots(damaged)).unwrap().trust.is_empty(), "{damaged}");
        }
    }

    #[test]
    fn what_cannot_be_acted_on_is_an_error_without_the_token() {
        assert!(matches!(JoinConfig::parse(""), Err(ConfigError::NoSideroLink)));
        assert!(matches!(JoinConfig::parse("kind: [\n"), Err(ConfigError::Yaml(_))));
        let error =
            JoinConfig::parse("kind: SideroLinkConfig\napiUrl: ftp://a?jointoken=SECRET\n").unwrap_err();
        assert!(!error.to_string().contains("SECRET"));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(text in ".*", url in ".*") {
            let _ = percent_decode(&text);
            let _ = split_api_url(&url);
        }
    }
}
