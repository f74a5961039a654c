//! What the registration says about the tunnel, as values.

use std::net::{AddrParseError, Ipv6Addr, SocketAddr, SocketAddrV6};

use siderolink::{Endpoint, KeyError, PublicKey};

use crate::join::Registration;

/// Everything that a tunnel needs beside the own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// URI of the machine API, for WireGuard over gRPC.
    pub machine_api: String,
    /// The control plane's key.
    pub server: PublicKey,
    /// Its address in the tunnel.
    pub server_address: Ipv6Addr,
    /// The own address in the tunnel.
    pub address: Ipv6Addr,
    /// Where the control plane is; the first one that can be used.
    pub endpoint: Endpoint,
    /// The own name when WireGuard goes over gRPC.
    pub stream: Option<SocketAddrV6>,
}

/// The answer cannot be acted on.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The control plane's key.
    #[error("the control plane's key is no key")]
    Key(#[from] KeyError),
    /// An address.
    #[error("{0:?} is no address")]
    Address(String, #[source] AddrParseError),
    /// None that is an address: there is no name resolution here.
    #[error("the control plane tells no endpoint that is an address: {0:?}")]
    Endpoint(Vec<String>),
}

impl Plan {
    /// Reads the answer.
    pub fn read(registration: &Registration) -> Result<Self, PlanError> {
        fn parse<T: std::str::FromStr<Err = AddrParseError>>(text: &str) -> Result<T, PlanError> {
            text.parse().map_err(|error| PlanError::Address(text.to_owned(), error))
        }
        let response = &registration.response;
        let mut endpoints =
            response.server_endpoint.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
        let endpoint =
            endpoints.next().ok_or_else(|| PlanError::Endpoint(response.server_endpoint.clone()))?;
        let stream = match response.grpc_peer_addr_port.as_str() {
            "" => None,
            text => Some(parse(text)?),
        };
        let endpoint = match (stream, endpoint) {
            (Some(_), SocketAddr::V6(endpoint)) => Endpoint::Relay(endpoint),
            (Some(stream), SocketAddr::V4(_)) => Endpoint::Relay(stream),
            (None, endpoint) => Endpoint::Udp(endpoint),
        };
        let prefix = &response.node_address_prefix;
        Ok(Self {
            machine_api: registration.config.endpoint.clone(),
            server: PublicKey::from_base64(&response.server_public_key)?,
            server_address: parse(&response.server_address)?,
            address: parse(prefix.split_once('/').map_or(prefix.as_str(), |(address, _)| address))?,
            endpoint,
            stream,
        })
    }
}

#[cfg(test)]
mod tests {
    use agent_wire::link::ProvisionResponse;

    use super::*;
    use crate::config::JoinConfig;

    fn registration() -> Registration {
        let response = ProvisionResponse {
            server_endpoint: vec!["omni.example.org:50180".into(), "192.0.2.1:50180".into()],
            server_public_key: PublicKey::from_bytes([7; 32]).to_string(),
            node_address_prefix: "fdae:41e4:649b:9303:1:2:3:4/64".into(),
            server_address: "fdae:41e4:649b:9303::1".into(),
            grpc_peer_addr_port: String::new(),
        };
        let config = JoinConfig::parse("kind: SideroLinkConfig\napiUrl: grpc://192.0.2.1:8090\n").unwrap();
        Registration { config, response }
    }

    #[test]
    fn the_answer_is_read_and_names_are_passed_over() {
        let plan = Plan::read(&registration()).unwrap();
        assert_eq!(plan.endpoint, Endpoint::Udp("192.0.2.1:50180".parse().unwrap()));
        assert_eq!(plan.address.to_string(), "fdae:41e4:649b:9303:1:2:3:4");
        assert_eq!(plan.stream, None);
    }

    #[test]
    fn over_grpc_the_endpoint_is_a_name_of_the_stream() {
        let mut registration = registration();
        registration.response.grpc_peer_addr_port = "[fdae:41e4:649b:9304::5]:50889".into();
        registration.response.server_endpoint = vec!["[fdae:41e4:649b:9304::5]:50889".into()];
        let plan = Plan::read(&registration).unwrap();
        let stream = "[fdae:41e4:649b:9304::5]:50889".parse().unwrap();
        assert_eq!((plan.endpoint, plan.stream), (Endpoint::Relay(stream), Some(stream)));
    }

    #[test]
    fn what_cannot_be_acted_on_is_an_error() {
        let broken = |change: fn(&mut ProvisionResponse)| {
            let mut registration = registration();
            change(&mut registration.response);
            Plan::read(&registration).unwrap_err()
        };
        assert!(matches!(broken(|answer| answer.server_public_key.clear()), PlanError::Key(_)));
        assert!(matches!(broken(|answer| answer.server_endpoint.clear()), PlanError::Endpoint(_)));
        assert!(matches!(broken(|answer| answer.server_address = "1.2.3.4".into()), PlanError::Address(..)));
        assert!(matches!(broken(|answer| answer.node_address_prefix = "/64".into()), PlanError::Address(..)));
        assert!(matches!(broken(|answer| answer.grpc_peer_addr_port = "x".into()), PlanError::Address(..)));
    }
}
