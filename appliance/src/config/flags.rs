//! The flags of `bootlace run`, which win over the file. The names are those of the peer provider.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Flags that override keys of the file.
#[derive(Debug, Default, Clone, clap::Args)]
#[allow(
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as they are"
)]
pub(crate) struct Overrides {
    /// Provider id in Omni [default: bare-metal]
    #[arg(long)]
    pub id: Option<String>,
    /// Omni's URL [default: the embedded hub]
    #[arg(long, value_name = "URL", env = "OMNI_ENDPOINT")]
    pub omni_api_endpoint: Option<String>,
    /// Certificates (PEM) to trust for Omni besides the system's
    #[arg(long, value_name = "FILE")]
    pub omni_ca_file: Option<PathBuf>,
    /// Do not check Omni's certificate
    #[arg(long)]
    pub insecure_skip_tls_verify: bool,
    /// Allow a plain http endpoint on another host, where signed calls can be replayed
    #[arg(long)]
    pub omni_allow_plaintext: bool,
    /// Name shown in Omni [default: Bare Metal]
    #[arg(long, value_name = "NAME")]
    pub provider_name: Option<String>,
    /// Description shown in Omni [default: Bare metal infrastructure provider]
    #[arg(long, value_name = "TEXT")]
    pub provider_description: Option<String>,
    /// Image Factory that makes schematics [default: https://factory.talos.dev]
    #[arg(long, value_name = "URL")]
    pub image_factory_base_url: Option<String>,
    /// Image Factory that machines boot from [default: https://pxe.factory.talos.dev]
    #[arg(long, value_name = "URL")]
    pub image_factory_pxe_base_url: Option<String>,
    /// YAML documents that every machine gets after Omni's
    #[arg(long, value_name = "FILE")]
    pub extra_machine_config_path: Option<PathBuf>,
    /// Talos version of the agent when [agent] kind is "talos" [default: v1.13.7]
    #[arg(long, value_name = "VERSION")]
    pub agent_mode_talos_version: Option<String>,
    /// Limit of one call to an agent [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub agent_call_timeout: Option<String>,
    /// Limit of a wipe of signatures [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub agent_fast_wipe_timeout: Option<String>,
    /// Limit of a wipe with zeroes [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub agent_zeroes_wipe_timeout: Option<String>,
    /// Boot device setting for BMCs: bios or uefi [default: uefi]
    #[arg(long, value_name = "MODE")]
    pub ipmi_pxe_boot_mode: Option<String>,
    /// Switch BMCs by Redfish only [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redfish_use_always: Option<bool>,
    /// Switch BMCs by Redfish where it answers, else by IPMI [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redfish_use_when_available: Option<bool>,
    /// Redfish over HTTPS [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redfish_use_https: Option<bool>,
    /// Do not check the BMCs' certificates [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redfish_insecure_skip_tls_verify: Option<bool>,
    /// TCP port of Redfish [default: 443]
    #[arg(long, value_name = "PORT")]
    pub redfish_port: Option<u16>,
    /// Name the firmware mode with the boot source; some BMCs want it not [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub redfish_set_boot_source_override_mode: Option<bool>,
    /// Log at debug level
    #[arg(long)]
    pub debug: bool,
    /// Directory of the store, the journal and the operator socket [default: /var/lib/bootlace]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address to bind for HTTP and TFTP [default: all]
    #[arg(long, value_name = "IP")]
    pub api_listen_address: Option<IpAddr>,
    /// Address of this appliance as machines reach it [default: the only routable IPv4 address]
    #[arg(long, value_name = "IP")]
    pub api_advertise_address: Option<Ipv4Addr>,
    /// TCP port for HTTP and gRPC [default: 50042]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Agents open their tunnels over TLS, on a port of its own
    #[arg(long)]
    pub tls_enabled: bool,
    /// TCP port for TLS [default: 50043]
    #[arg(long, value_name = "PORT")]
    pub tls_api_port: Option<u16>,
    /// Agents take any certificate
    #[arg(long)]
    pub tls_agent_skip_verify: bool,
    /// How long the own certificate authority is valid [default: 262800h]
    #[arg(long, value_name = "DURATION")]
    pub tls_ca_ttl: Option<String>,
    /// How long a certificate of the own authority is valid [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub tls_cert_ttl: Option<String>,
    /// Certificates (PEM) for machines to trust, with --tls-cert-file and --tls-key-file
    #[arg(long, value_name = "FILE")]
    pub tls_ca_cert_file: Option<PathBuf>,
    /// Certificate (PEM) to show instead of one of the own authority; for the advertised address
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// Directory of *.config files that name a power API per machine
    #[arg(long, value_name = "DIR")]
    pub api_power_mgmt_state_dir: Option<PathBuf>,
    /// Directory of kernels and initramfs images [default: /assets]
    #[arg(long, value_name = "DIR")]
    pub boot_assets_path: Option<PathBuf>,
    /// MiB of images kept from Image Factory; 0 for none [default: 4096]
    #[arg(long, value_name = "MIB")]
    pub boot_image_cache_mb: Option<u32>,
    /// How iPXE boots from disk: ipxe-exit, http-404, ipxe-sanboot [default: ipxe-exit]
    #[arg(long, value_name = "METHOD")]
    pub boot_from_disk_method: Option<String>,
    /// Interface that answers DHCP [default: the one with the advertised address]
    #[arg(long, value_name = "IFACE")]
    pub dhcp_proxy_iface_or_ip: Option<String>,
    /// Do not answer DHCP
    #[arg(long)]
    pub disable_dhcp_proxy: bool,
    /// Machines say that they are switched by the HTTP power API
    #[arg(long)]
    pub agent_test_mode: bool,
    /// Write zeroes over whole disks when wiping
    #[arg(long)]
    pub wipe_with_zeroes: bool,
    /// A machine is rebooted on request at most once in this time [default: 15m]
    #[arg(long, value_name = "DURATION")]
    pub min_reboot_interval: Option<String>,
    /// Labels for every machine, key=value
    #[arg(long, value_name = "K=V", value_delimiter = ',')]
    pub machine_labels: Vec<String>,
}
