use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "appliance.toml", &Overrides::default())
}

fn error(text: &str) -> String {
    parse(text).expect_err("the text is wrong").to_string()
}

#[test]
fn an_empty_file_gives_the_peers_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.id, "bare-metal");
    assert_eq!(config.api.listen.port(), 50042);
    assert_eq!(config.min_reboot_interval, Duration::from_secs(15 * 60));
    assert_eq!(config.agent.call_timeout, Duration::from_secs(30));
    assert_eq!(config.agent.fast_wipe_timeout, Duration::from_secs(300));
    assert_eq!(config.agent.zeroes_wipe_timeout, Duration::from_secs(24 * 3600));
    assert!(config.netboot.dhcp_proxy);
}

#[test]
fn the_shipped_example_is_valid_and_changes_nothing_but_what_it_shows() {
    let text = include_str!("../../../configs/appliance.toml");
    let config = parse(text).unwrap();
    assert_eq!(config.id, "bare-metal");
}

#[test]
fn redfish_is_used_as_the_peers_flags_say() {
    use omni_link::controller::RedfishUse::{Always, Never, WhenAvailable};
    let redfish = |text: &str| parse(text).unwrap().redfish;
    let default = redfish("");
    assert_eq!((default.usage, default.port, default.https), (WhenAvailable, 443, true));
    assert!(default.insecure_skip_tls_verify && default.set_boot_source_override_mode);
    assert_eq!(redfish("[redfish]\nuse_when_available = false\n").usage, Never);
    assert_eq!(redfish("[redfish]\nuse_when_available = false\nuse_always = true\n").usage, Always);

    let flags = Overrides { redfish_use_when_available: Some(false), ..Overrides::default() };
    let text = "[redfish]\nuse_when_available = true\n";
    assert_eq!(Config::parse(text, "x", &flags).unwrap().redfish.usage, Never);
    let error = parse("[redfish]\nport = 0\n").unwrap_err().to_string();
    assert!(error.starts_with("appliance.toml") && error.contains("redfish.port"), "{error}");
}

#[test]
fn flags_of_the_peer_that_are_yes_or_no_take_a_value_or_none() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Overrides,
    }
    let flags = |words: &[&str]| {
        let words = ["run"].iter().chain(words);
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.flags)
    };
    let told =
        flags(&["--redfish-use-always", "--redfish-use-https=false", "--redfish-port", "8443"]).unwrap();
    assert_eq!((told.redfish_use_always, told.redfish_use_https), (Some(true), Some(false)));
    assert_eq!((told.redfish_port, told.redfish_use_when_available), (Some(8443), None));
    assert!(flags(&["--redfish-use-https", "false"]).is_err(), "as with the peer, that is another word");
}

#[test]
fn the_image_cache_has_a_size_or_none() {
    let bytes = |text: &str| parse(text).unwrap().boot.image_cache_bytes;
    assert_eq!(bytes(""), 4 << 30);
    assert_eq!(bytes("[boot]\nimage_cache_mb = 512\n"), 512 << 20);
    assert_eq!(bytes("[boot]\nimage_cache_mb = 0\n"), 0);
    assert!(error("[boot]\nimage_cache_mb = -1\n").contains("line 2"));
}

#[test]
fn a_flag_wins_over_the_file() {
    let flags = Overrides { api_port: Some(1234), ..Overrides::default() };
    let config = Config::parse("[api]\nport = 50000\n", "x", &flags).unwrap();
    assert_eq!(config.api.listen.port(), 1234);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = error("id = \"a\"\n\n[api]\nprot = 1\n");
    assert!(text.starts_with("appliance.toml:4:"), "{text}");
    assert!(text.contains("prot") && text.contains("port"), "{text}");
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    let text = error("[api]\nport = \"many\"\n");
    assert!(text.starts_with("appliance.toml:2:"), "{text}");
}

#[test]
fn a_wrong_value_is_named_with_line_and_key() {
    let text = error("[boot]\nfrom_disk_method = \"magic\"\n");
    assert_eq!(
        text,
        "appliance.toml:2: boot.from_disk_method: `magic` will not do: use ipxe-exit, http-404 or ipxe-sanboot"
    );
    let text = error("min_reboot_interval = \"soon\"\n");
    assert!(text.starts_with("appliance.toml:1: min_reboot_interval:"), "{text}");
}

#[test]
fn a_negative_duration_is_refused() {
    assert!(error("min_reboot_interval = \"-5m\"\n").contains("min_reboot_interval"));
}

#[test]
fn omnis_own_labels_cannot_be_set() {
    assert!(error("[machine_labels]\n\"omni.sidero.dev/cluster\" = \"x\"\n").contains("machine_labels"));
}

#[test]
fn a_state_dir_too_long_for_a_socket_is_refused() {
    let text = error(&format!("state_dir = \"/{}\"\n", "d".repeat(120)));
    assert!(text.contains("too long"), "{text}");
}

#[test]
fn two_listeners_cannot_share_a_port() {
    assert!(error("[api]\nport = 8090\n").contains("must be three"));
}

#[test]
fn routed_networks_are_named_one_by_one() {
    let config = parse("[netboot]\nrouted = [\"198.51.100.0/24\", \"203.0.113.7/32\"]\n").unwrap();
    let routed: Vec<String> = config.netboot.routed.iter().map(ToString::to_string).collect();
    assert_eq!(routed, ["198.51.100.0/24", "203.0.113.7/32"]);
    let text = error("[netboot]\nrouted = [\n  \"198.51.100.0/24\",\n  \"198.51.100.0\",\n]\n");
    assert!(text.starts_with("appliance.toml:4: netboot.routed: not a network"), "{text}");
}

#[test]
fn a_kernel_argument_that_cannot_be_passed_is_named_with_its_line() {
    let text = error("[boot]\nextra_kernel_args = [\n  \"ok=1\",\n  \"two words\",\n]\n");
    assert!(text.starts_with("appliance.toml:4: boot.extra_kernel_args:"), "{text}");
}

#[test]
fn a_log_level_that_is_no_filter_is_refused() {
    let text = error("[log]\nlevel = \"loud=very\"\n");
    assert!(text.starts_with("appliance.toml:2: log.level:"), "{text}");
}

#[test]
fn without_an_endpoint_the_embedded_hub_takes_omnis_place() {
    let config = parse("").unwrap();
    assert!(config.omni.is_none());
    assert_eq!(config.hub_endpoint(), "grpc://127.0.0.1:50044");
    let config = parse("[omni]\napi_endpoint = \"https://omni.example.org\"\n").unwrap();
    assert_eq!(config.omni.unwrap().endpoint, "https://omni.example.org");
}

#[test]
fn an_endpoint_without_a_known_scheme_is_refused() {
    let text = error("[omni]\napi_endpoint = \"omni.example.org\"\n");
    assert!(text.starts_with("appliance.toml:2: omni.api_endpoint:"), "{text}");
}

#[test]
fn disks_to_keep_reach_the_agent_by_kernel_argument() {
    let config = parse("[wipe]\nkeep = [\"serial:DATA 1\", \"size:>=2T\"]\n").unwrap();
    let args = config.agent.extra_kernel_args.to_string();
    assert!(args.starts_with("bootlace.keep=serial:DATA%201 bootlace.keep=size:"), "{args}");
}

#[test]
fn a_keep_list_that_cannot_be_read_is_named_with_its_line() {
    let text = error("[wipe]\nkeep = [\n  \"serial:X\",\n  \"colour:red\",\n]\n");
    assert!(text.starts_with("appliance.toml:4: wipe.keep:"), "{text}");
}

#[test]
fn an_agent_that_knows_no_keep_list_is_refused_with_one() {
    let text = error("[agent]\nkind = \"talos\"\n[wipe]\nkeep = [\"serial:X\"]\n");
    assert!(text.starts_with("appliance.toml:2: agent.kind:"), "{text}");
}

#[test]
fn tls_is_off_until_enabled_and_then_the_peers_defaults_hold() {
    assert_eq!(parse("[tls]\napi_port = 8090\n").unwrap().tls, None);
    let flags = Overrides { tls_enabled: true, ..Overrides::default() };
    let tls = Config::parse("", "x", &flags).unwrap().tls.unwrap();
    assert_eq!((tls.port, tls.agent_skip_verify), (50043, false));
    let (ca_ttl, cert_ttl) = (Duration::from_secs(262_800 * 3600), Duration::from_secs(24 * 3600));
    assert_eq!(tls.certificates, Certificates::Own { ca_ttl, cert_ttl });
}

#[test]
fn tls_that_cannot_work_is_refused_with_the_key_that_is_wrong() {
    for (text, words) in [
        ("api_port = 0", "tls.api_port: machines"),
        ("api_port = 8090", "tls.api_port: port 8090 is taken"),
        ("api_port = 8092", "tls.api_port: port 8092 is taken"),
        ("cert_ttl = \"1m\"", "tls.cert_ttl: a certificate is valid for 5m"),
        ("cert_ttl = \"1h\"\nca_ttl = \"1h\"", "tls.ca_ttl: an authority outlives"),
        ("cert_ttl = \"often\"", "tls.cert_ttl: `often` will not do"),
        ("cert_file = \"c\"", "tls.key_file: is missing"),
        ("ca_cert_file = \"c\"", "tls.cert_file: is missing"),
        ("cert_file = \"c\"\nkey_file = \"k\"", "tls.ca_cert_file: our agent trusts nobody"),
        ("port = 1", "unknown field `port`"),
    ] {
        let text = error(&format!("[tls]\nenabled = true\n{text}\n"));
        assert!(text.contains(words), "{text}");
    }
    let files = "cert_file = \"c\"\nkey_file = \"k\"\n";
    for more in ["ca_cert_file = \"a\"", "agent_skip_verify = true", "[agent]\nkind = \"talos\""] {
        assert!(parse(&format!("[tls]\nenabled = true\n{files}{more}\n")).unwrap().tls.is_some(), "{more}");
    }
}
