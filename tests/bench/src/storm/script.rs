//! As much of iPXE's script language as boot scripts use.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};

use crate::firmware::Identity;

/// What iPXE knows of the machine it runs on.
pub(super) struct Machine(Vec<(&'static str, String)>);

impl Machine {
    pub(super) fn of(identity: Identity) -> Self {
        Self(vec![
            ("uuid", identity.uuid.to_string()),
            ("netX/mac:hexhyp", identity.mac.to_string().replace(':', "-")),
            ("hostname:uristring", String::new()),
            ("domain:uristring", String::new()),
            ("serial:uristring", format!("BENCH{:06}", identity.number)),
            ("buildarch", "x86_64".into()),
        ])
    }

    /// Puts the values in; a setting that is not known is empty, as in iPXE.
    fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                out.push_str("${");
                rest = after;
                continue;
            };
            out.extend(self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()));
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// What a script makes a machine do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Read another script, by its path.
    Chain(String),
    /// Boot.
    Boot(Steps),
}

/// What a machine fetches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) kernel: String,
    pub(super) initrd: String,
    /// Where the kernel's arguments send the system: the path of its configuration.
    pub(super) hello: String,
}

pub(super) fn read(text: &str, machine: &Machine) -> Result<Script> {
    let words = |name: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        Some(line.split(' ').skip(1).filter(|word| !word.starts_with("--")).map(|word| machine.expand(word)))
    };
    let Some(mut kernel) = words("kernel") else {
        let target =
            words("chain").and_then(|mut words| words.next()).context("a script that does nothing")?;
        let (_, path) = url(&target).context("chain leads nowhere")?;
        return Ok(Script::Chain(path.to_owned()));
    };
    let image = kernel.next().context("kernel without an image")?;
    let config = kernel.find_map(|word| word.strip_prefix("talos.config=").map(str::to_owned));
    let config = config.context("the kernel is not told where its configuration is")?;
    let (_, hello) = url(&config).context("the configuration is nowhere")?;
    Ok(Script::Boot(Steps {
        kernel: image,
        initrd: words("initrd").and_then(|mut words| words.next()).context("no initrd")?,
        hello: hello.to_owned(),
    }))
}

/// Host and path of a plain URL with an address in it.
pub(super) fn url(text: &str) -> Option<(SocketAddrV4, &str)> {
    let rest = text.strip_prefix("http://")?;
    let at = rest.find('/')?;
    let (host, path) = rest.split_at(at);
    let host =
        if host.contains(':') { host.parse().ok()? } else { SocketAddrV4::new(host.parse().ok()?, 80) };
    Some((host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INIT: &str = include_str!("../../../../netboot/src/ipxe/golden/init.ipxe");
    const AGENT: &str = include_str!("../../../../netboot/src/ipxe/golden/agent-amd64.ipxe");

    #[test]
    fn the_real_scripts_lead_from_init_to_the_kernel() {
        let identity = Identity::new(1, 2);
        let machine = Machine::of(identity);
        let Script::Chain(path) = read(INIT, &machine).unwrap() else { panic!() };
        let mac = identity.mac.to_string().replace(':', "-");
        let begin =
            format!("/ipxe/boot.ipxe?uuid={}&mac={mac}&domain=&hostname=&serial=BENCH000002", identity.uuid);
        assert!(path.starts_with(&begin) && !path.contains('$'), "{path}");
        let steps = Steps {
            kernel: "http://10.88.0.1:50042/assets/kernel-amd64".into(),
            initrd: "http://10.88.0.1:50042/assets/initramfs-metal-amd64.xz".into(),
            hello: format!("/config?u={}", identity.uuid),
        };
        assert_eq!(read(AGENT, &machine).unwrap(), Script::Boot(steps));
    }

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(url("http://10.0.0.1/x"), Some(("10.0.0.1:80".parse().unwrap(), "/x")));
        assert_eq!(url("http://10.0.0.1:81/x/y"), Some(("10.0.0.1:81".parse().unwrap(), "/x/y")));
        assert_eq!(url("snp.efi"), None);
        assert_eq!(url("http://name/x"), None);
    }

    #[test]
    fn settings_without_a_value_are_empty() {
        let machine = Machine::of(Identity::new(1, 1));
        assert_eq!(machine.expand("a${nothing}b${"), "ab${");
    }
}
