use std::path::Path;
use std::sync::Arc;

use agent_wire::common::{NetIp, NetIpPrefix};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::network::{LinkStatusSpec, NodeAddressSpec, RouteStatusSpec};
use agent_wire::talos::runtime::{ExtensionMetadata, ExtensionStatusSpec};
use bootlace_agent::inventory::collect::Machine;
use bootlace_agent::machine_api::{self, MachineApi};
use bootlace_agent::meta::Meta;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use super::*;

/// What the agent of this machine tells through its machine API.
async fn facts_of_this_machine() -> Facts {
    let (near, far) = tokio::io::duplex(1 << 16);
    let machine = Machine { settle: false, ..Machine::default() };
    let api = MachineApi::new(Arc::new(machine), Meta::default()).await.unwrap();
    let incoming = stream::iter([Ok(far)]).chain(stream::pending());
    tokio::spawn(machine_api::serve(incoming, api, std::future::pending()));
    let tls = TlsConnector::from(crate::machine_api::tls_config());
    let io = tls.connect(ServerName::try_from("machine").unwrap(), near).await.unwrap();
    let io = std::sync::Mutex::new(Some(TokioIo::new(io)));
    let connector = tower::service_fn(move |_| {
        let io = io.lock().unwrap().take();
        async move { io.ok_or_else(|| std::io::Error::other("only once")) }
    });
    let channel = Endpoint::from_static("http://machine").connect_with_connector(connector).await.unwrap();
    collect(channel).await.unwrap()
}

#[tokio::test]
async fn an_agent_is_collected_as_omni_shows_it() {
    let mut status = MachineStatusSpec { last_error: "old".to_owned(), ..MachineStatusSpec::default() };
    facts_of_this_machine().await.write(&mut status);
    assert!(status.talos_version.starts_with("v1.") && status.initial_talos_version == status.talos_version);
    assert!(status.schematic.unwrap().in_agent_mode && status.last_error.is_empty());
    assert_eq!(status.platform_metadata.unwrap().platform, "metal");
    let hardware = status.hardware.unwrap();
    assert!(hardware.processors.iter().all(|processor| processor.core_count > 0));
    assert!(hardware.memory_modules.iter().all(|module| module.size_mb > 0));
    for link in status.network.unwrap().network_links {
        assert!(Path::new("/sys/class/net").join(link.linux_name).exists());
    }
    assert!(status.security_state.is_some() && !status.kernel_cmdline.is_empty());
}

#[test]
fn addresses_in_the_tunnel_virtual_links_and_loop_devices_are_left_out() {
    let prefix = |ip: &[u8], prefix_length| NetIpPrefix { ip: ip.to_vec().into(), prefix_length };
    let tunnel: [u8; 16] = [0xfd, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x03, 0, 0, 0, 0, 0, 0, 0, 9];
    let route = |destination, scope| RouteStatusSpec {
        destination,
        scope,
        gateway: Some(NetIp { ip: vec![10, 0, 0, 1].into() }),
        ..RouteStatusSpec::default()
    };
    let link = |kind: &str| LinkStatusSpec { r#type: 1, kind: kind.into(), ..LinkStatusSpec::default() };
    let disk =
        |path: &str| DiskSpec { dev_path: path.into(), transport: "virtio".into(), ..DiskSpec::default() };
    let facts = Facts {
        addresses: Some(NodeAddressSpec {
            addresses: vec![prefix(&[10, 0, 0, 5], 24), prefix(&tunnel, 64)],
            ..NodeAddressSpec::default()
        }),
        routes: vec![route(None, 0), route(Some(prefix(&[10, 1, 0, 0], 16)), 0), route(None, 253)],
        links: vec![("eth0".to_owned(), link("")), ("br0".to_owned(), link("bridge"))],
        disks: vec![("vda".to_owned(), disk("/dev/vda")), ("loop0".to_owned(), disk("/dev/loop0"))],
        system_disk: Some("vda".to_owned()),
        ..Facts::default()
    };
    let mut status = MachineStatusSpec::default();
    facts.write(&mut status);
    let (network, hardware) = (status.network.unwrap(), status.hardware.unwrap());
    assert_eq!(network.addresses, ["10.0.0.5/24"]);
    assert_eq!(network.default_gateways, ["10.0.0.1"]);
    assert_eq!(
        network.network_links.iter().map(|link| link.linux_name.as_str()).collect::<Vec<_>>(),
        ["eth0"]
    );
    assert_eq!(hardware.blockdevices.len(), 1);
    assert!(hardware.blockdevices[0].system_disk && hardware.blockdevices[0].r#type == "SSD");
}

#[test]
fn the_schematic_is_told_by_its_extension() {
    let extension = |name: &str, version: &str| ExtensionStatusSpec {
        image: String::new(),
        metadata: Some(ExtensionMetadata {
            name: name.into(),
            version: version.into(),
            ..ExtensionMetadata::default()
        }),
    };
    let facts = Facts {
        extensions: vec![extension("schematic", "abc"), extension("modules.dep", ""), extension("x", "1")],
        ..Facts::default()
    };
    let mut status = MachineStatusSpec::default();
    facts.write(&mut status);
    let schematic = status.schematic.unwrap();
    assert_eq!((schematic.full_id.as_str(), schematic.in_agent_mode), ("abc", false));
    assert_eq!(schematic.extensions, ["x"]);
}

#[test]
fn a_machine_that_does_not_answer_is_asked_ever_less_often() {
    let now = Instant::now();
    let mut due = Due { at: now, failures: 0 };
    let mut pauses = Vec::new();
    for _ in 0..8 {
        due = due.after(now, Visit::Failed);
        pauses.push((due.at - now).as_secs());
    }
    assert_eq!(pauses, [15, 30, 60, 120, 240, 300, 300, 300]);
    let (told, alone) = (due.after(now, Visit::Told), due.after(now, Visit::LeftAlone));
    assert_eq!((told.at - now, told.failures, alone.at), (REFRESH, 0, now));
}
