//! The words of `appliance.toml`. Nothing here is checked beyond its type: [`super::Config`] is the
//! validated value.
//!
//! Key names follow the flags of `omni-infra-provider-bare-metal`: section and key joined by a hyphen
//! are the flag (`[api] advertise_address` is `--api-advertise-address`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

/// The whole file; every key has a default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// Provider id in Omni.
    pub id: Option<Spanned<String>>,
    /// Where the hub's store, the journal and the operator socket live.
    pub state_dir: Option<PathBuf>,
    /// Labels put on every machine.
    pub machine_labels: BTreeMap<String, String>,
    /// A machine is rebooted on request at most once in this time.
    pub min_reboot_interval: Option<Spanned<String>>,
    /// Write zeroes over whole disks when wiping.
    pub wipe_with_zeroes: bool,
    /// The HTTP and gRPC port that machines talk to.
    pub api: Api,
    /// Tunnels over TLS.
    pub tls: super::tls::TlsTable,
    /// Network boot protocols.
    pub netboot: Netboot,
    /// What machines boot.
    pub boot: Boot,
    /// What machines of some networks boot otherwise.
    pub profile: BTreeMap<String, super::interfaces::ProfileTable>,
    /// How BMCs are asked for Redfish.
    pub redfish: Redfish,
    /// The discovery agent.
    pub agent: Agent,
    /// The link to an Omni elsewhere.
    pub omni: Omni,
    /// How the provider calls itself.
    pub provider: Provider,
    /// The embedded control plane.
    pub hub: Hub,
    /// What a wipe leaves alone.
    pub wipe: Wipe,
    /// Logging.
    pub log: Log,
    /// What a stick's PID 1 reads (docs/usb-stick.md). One file for both, and each checks its own.
    #[serde(rename = "box")]
    pub stick: toml::Table,
}

/// `[api]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    /// Address to bind; all addresses when absent.
    pub listen_address: Option<IpAddr>,
    /// Address of this appliance as machines reach it.
    pub advertise_address: Option<Ipv4Addr>,
    /// TCP port for HTTP and gRPC.
    pub port: Option<u16>,
    /// Directory of `*.config` files that name a power API per machine.
    pub power_mgmt_state_dir: Option<PathBuf>,
}

/// `[netboot]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Netboot {
    /// Interface that answers DHCP; the one that has the advertised address when absent.
    pub dhcp_proxy_iface_or_ip: Option<String>,
    /// Switches ProxyDHCP off.
    pub disable_dhcp_proxy: bool,
    /// Directory of iPXE binaries.
    pub ipxe_dir: Option<PathBuf>,
    /// UDP port for TFTP.
    pub tftp_port: Option<u16>,
    /// Networks beyond routers whose machines boot here, too.
    pub routed: Vec<Spanned<String>>,
    /// The networks to serve, when one is not enough.
    pub interface: Vec<super::interfaces::InterfaceTable>,
}

/// `[boot]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Boot {
    /// Directory of kernels and initramfs images.
    pub assets_path: Option<PathBuf>,
    /// How iPXE is told to boot from disk: `ipxe-exit`, `http-404` or `ipxe-sanboot`.
    pub from_disk_method: Option<Spanned<String>>,
    /// Boot device setting for BMCs: `bios` or `uefi`.
    pub pxe_mode: Option<Spanned<String>>,
    /// Image Factory schematic of the Talos images under `image/`.
    pub schematic: Option<Spanned<String>>,
    /// Image Factory that makes schematics.
    pub image_factory_base_url: Option<Spanned<String>>,
    /// Image Factory that machines boot from.
    pub image_factory_pxe_base_url: Option<Spanned<String>>,
    /// Megabytes (MiB) of images that are kept from there; 0 for none.
    pub image_cache_mb: Option<u32>,
    /// YAML documents that every machine gets after Omni's.
    pub extra_machine_config_path: Option<PathBuf>,
    /// Kernel arguments for Talos, after the built-in ones.
    pub extra_kernel_args: Vec<Spanned<String>>,
}

/// `[redfish]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Redfish {
    /// By Redfish only, never by IPMI.
    pub use_always: Option<bool>,
    /// By Redfish where it answers, else by IPMI.
    pub use_when_available: Option<bool>,
    /// HTTPS; plain HTTP otherwise.
    pub use_https: Option<bool>,
    /// Do not check the BMCs' certificates.
    pub insecure_skip_tls_verify: Option<bool>,
    /// TCP port.
    pub port: Option<u16>,
    /// Name the firmware personality with the boot source.
    pub set_boot_source_override_mode: Option<bool>,
}

/// `[agent]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Agent {
    /// `bootlace`, or `talos` with its metal agent from Image Factory.
    pub kind: Option<Spanned<String>>,
    /// Talos version of the agent of kind `talos`.
    pub mode_talos_version: Option<Spanned<String>>,
    /// Machines say that they are switched by the HTTP power API.
    pub test_mode: bool,
    /// Limit of one call to an agent.
    pub call_timeout: Option<Spanned<String>>,
    /// Limit of a wipe of signatures.
    pub fast_wipe_timeout: Option<Spanned<String>>,
    /// Limit of a wipe with zeroes.
    pub zeroes_wipe_timeout: Option<Spanned<String>>,
    /// Kernel arguments for the agent, after the built-in ones.
    pub extra_kernel_args: Vec<Spanned<String>>,
}

/// `[omni]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Omni {
    /// Omni's URL; without it the embedded hub takes its place.
    pub api_endpoint: Option<Spanned<String>>,
    /// Certificates (PEM) that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Do not check Omni's certificate.
    pub insecure_skip_tls_verify: bool,
    /// Allow plain http to another host: signed calls can be replayed there.
    pub allow_plaintext: bool,
}

/// `[provider]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Provider {
    /// Shown in Omni.
    pub name: Option<String>,
    /// Shown in Omni.
    pub description: Option<String>,
}

/// `[wipe]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wipe {
    /// Disks that are never wiped: `serial:TEXT`, `wwn:TEXT`, `size:>=2T`.
    pub keep: Vec<Spanned<String>>,
}

/// `[hub]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Hub {
    /// Where the hub's API listens.
    pub api_listen: Option<SocketAddr>,
    /// TCP port of the machine API (SideroLink Provision and events).
    pub machine_api_port: Option<u16>,
    /// TCP port that machines send their kernel logs to; 0 for none.
    pub kernel_log_port: Option<u16>,
    /// Events and kernel logs come through WireGuard.
    pub wireguard: Option<bool>,
    /// UDP port of WireGuard.
    pub wireguard_port: Option<u16>,
    /// All machines come by WireGuard over gRPC, on the machine API's port.
    pub wireguard_over_grpc: bool,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// Filter in tracing's syntax: `info`, `debug`, `netboot_link=debug`.
    pub level: Option<Spanned<String>>,
    /// One JSON object per line.
    pub json: bool,
}
