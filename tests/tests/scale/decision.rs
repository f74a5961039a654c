//! A boot decision as the appliance takes it: look the machine up, decide, write the script.

use std::sync::Arc;

use cosi::{Phase, Resource, Version};
use netboot::firmware::Arch;
use netboot::ipxe::{BaseUrl, KernelArgs, agent_script, talos_script};
use omni_link::view::{Part, View};
use provider::private::{BmcConfigurationSpec, WipeStatusSpec, bmc_configuration_spec};
use provider::specs::InfraMachineSpec;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::{BootMode, InfraMachine, MachineView};

/// What the appliance knows in the largest site that it is measured with.
pub(crate) struct Site {
    view: Arc<View>,
    base: BaseUrl,
}

/// The id of a machine.
pub(crate) fn id(index: usize) -> String {
    format!("{index:08x}-0000-4000-8000-{index:012x}")
}

impl Site {
    /// That many machines: a third each waits, is free and installs Talos.
    pub(crate) fn new(machines: usize) -> Self {
        let view = View::new("bare-metal", Arc::new(|_, _| ()));
        for index in 0..machines {
            for (part, mut resource) in machine(index) {
                resource.metadata.version = Version::Number(1);
                view.apply(part, &resource);
            }
        }
        Self { view, base: BaseUrl::new([192, 0, 2, 10].into(), 50042) }
    }

    /// What the machine boots: the script's text.
    pub(crate) fn decide(&self, id: &str) -> String {
        let known = self.view.machine(id);
        let machine = known.as_deref().map_or_else(MachineView::unknown, |machine| MachineView {
            fresh: true,
            machine: machine.infra.as_ref().map(|infra| InfraMachine {
                tearing_down: infra.metadata.phase == Phase::TearingDown,
                spec: infra.spec.clone(),
                ..InfraMachine::default()
            }),
            bmc: machine.bmc.as_ref().map(|entry| entry.spec.clone()),
            wipe: machine.wipe.as_ref().map(|entry| entry.spec.clone()),
            ..MachineView::unknown()
        });
        let (mode, reason) = provider::boot_mode(&machine);
        let script = match (mode, &machine.machine) {
            (BootMode::Talos, Some(infra)) => {
                let args = KernelArgs::talos(self.base, Arch::Amd64).args(&infra.spec.extra_kernel_args);
                let version = format!("v{}", infra.spec.cluster_talos_version);
                args.and_then(|args| talos_script(self.base, "376567988ad3", &version, Arch::Amd64, &args))
            }
            _ => {
                let args = KernelArgs::agent(self.base, Arch::Amd64, false);
                agent_script(self.base, Arch::Amd64, &args)
            }
        };
        format!("{reason}{}", script.expect("the arguments are good").text())
    }
}

fn machine(index: usize) -> Vec<(Part, Resource)> {
    let of = |part: Part| Resource::empty(&part.kind("bare-metal").pointer(id(index)));
    let mut infra = of(Part::Infra);
    let accepted = !index.is_multiple_of(3);
    let version = if index % 3 == 2 { "1.13.9" } else { "" };
    infra.encode(&InfraMachineSpec {
        acceptance_status: i32::from(accepted) * AcceptanceStatus::Accepted as i32,
        cluster_talos_version: version.to_owned(),
        ..InfraMachineSpec::default()
    });
    let mut all = vec![(Part::Infra, infra)];
    if accepted {
        let (mut bmc, mut wipe) = (of(Part::Bmc), of(Part::Wipe));
        let api = bmc_configuration_spec::Api { address: "192.0.2.77:8000".to_owned() };
        bmc.encode(&BmcConfigurationSpec { api: Some(api), ..BmcConfigurationSpec::default() });
        wipe.encode(&WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() });
        all.extend([(Part::Bmc, bmc), (Part::Wipe, wipe)]);
    }
    all
}
