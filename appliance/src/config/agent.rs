//! `[agent]`, `[wipe]` and `[redfish]`: what is done to discovered machines, and by whom.

use agent_wire::keep::Keep;
use netboot::ipxe::KernelArgs;
use omni_link::controller::RedfishUse;
use toml::Spanned;

use super::check::{Checker, line_of};
use super::file;
use super::flags::Overrides;
use super::{Agent, AgentKind, ConfigError, Redfish};

/// Where the agent reads what to keep.
const KEEP_ARGUMENT: &str = "bootlace.keep=";

impl Checker<'_> {
    pub(super) fn agent(
        &self,
        agent: &file::Agent,
        wipe: &file::Wipe,
        flags: &Overrides,
    ) -> Result<Agent, ConfigError> {
        let version = self.pick(
            &flags.agent_mode_talos_version,
            "--agent-mode-talos-version",
            &agent.mode_talos_version,
            "agent.mode_talos_version",
            "v1.13.7",
            |version| {
                let ok = version.starts_with('v') && version.split('.').count() >= 3;
                ok.then(|| version.to_owned()).ok_or("write a version such as v1.13.7")
            },
        )?;
        let kind = self.pick(&None, "", &agent.kind, "agent.kind", "bootlace", |kind| match kind {
            "bootlace" => Ok(AgentKind::Bootlace),
            "talos" if !wipe.keep.is_empty() => {
                Err("with [wipe] keep only the agent of kind bootlace will do: Talos' own wipes every disk")
            }
            "talos" => Ok(AgentKind::Talos { version: version.clone() }),
            _ => Err("use bootlace or talos"),
        })?;
        Ok(Agent {
            kind,
            test_mode: flags.agent_test_mode || agent.test_mode,
            call_timeout: self.duration(
                &flags.agent_call_timeout,
                "--agent-call-timeout",
                &agent.call_timeout,
                "agent.call_timeout",
                "30s",
            )?,
            fast_wipe_timeout: self.duration(
                &flags.agent_fast_wipe_timeout,
                "--agent-fast-wipe-timeout",
                &agent.fast_wipe_timeout,
                "agent.fast_wipe_timeout",
                "5m",
            )?,
            zeroes_wipe_timeout: self.duration(
                &flags.agent_zeroes_wipe_timeout,
                "--agent-zeroes-wipe-timeout",
                &agent.zeroes_wipe_timeout,
                "agent.zeroes_wipe_timeout",
                "24h",
            )?,
            extra_kernel_args: self
                .kernel_args(&agent.extra_kernel_args, "agent.extra_kernel_args")?
                .and(&self.keep(&wipe.keep)?),
        })
    }

    /// The disks to keep, as the agent reads them.
    fn keep(&self, entries: &[Spanned<String>]) -> Result<KernelArgs, ConfigError> {
        entries.iter().try_fold(KernelArgs::new(), |args, entry| {
            let wrong = |message: String| ConfigError::Invalid {
                place: format!("{}:{}: wipe.keep", self.name, line_of(self.text, &entry.span())),
                message,
            };
            let keep = Keep::parse(entry.get_ref()).map_err(|error| wrong(error.to_string()))?;
            args.arg(&format!("{KEEP_ARGUMENT}{keep}")).map_err(|error| wrong(error.to_string()))
        })
    }

    pub(super) fn redfish(&self, redfish: &file::Redfish, flags: &Overrides) -> Result<Redfish, ConfigError> {
        let always = flags.redfish_use_always.or(redfish.use_always).unwrap_or(false);
        let available = flags.redfish_use_when_available.or(redfish.use_when_available).unwrap_or(true);
        let port = flags.redfish_port.or(redfish.port).unwrap_or(443);
        if port == 0 {
            return Err(self.wrong("redfish.port", "BMCs have it on a port above 0, mostly 443".to_owned()));
        }
        Ok(Redfish {
            usage: match (always, available) {
                (true, _) => RedfishUse::Always,
                (false, true) => RedfishUse::WhenAvailable,
                (false, false) => RedfishUse::Never,
            },
            https: flags.redfish_use_https.or(redfish.use_https).unwrap_or(true),
            insecure_skip_tls_verify: flags
                .redfish_insecure_skip_tls_verify
                .or(redfish.insecure_skip_tls_verify)
                .unwrap_or(true),
            port,
            set_boot_source_override_mode: flags
                .redfish_set_boot_source_override_mode
                .or(redfish.set_boot_source_override_mode)
                .unwrap_or(true),
        })
    }
}
