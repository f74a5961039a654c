//! What is done to a machine.

use provider::private::{PowerOperationSpec, PowerState as SpecPowerState, RebootStatusSpec, WipeStatusSpec};
use provider::{InfraMachine, MachineView, PowerAction, RebootAction, WipeAction};
use tokio::time::Instant;

use super::{StepError, SystemTime, Task};
use crate::happening::Happening;
use crate::view::{Machine, Part};

impl Task {
    /// Wipes, reboots or switches the machine, when that is what is decided.
    pub(super) async fn act(&mut self, machine: &Machine, view: &MachineView) -> Result<bool, StepError> {
        if let Some(ack) = provider::power_off_ack(view) {
            let mut spec = view.power.clone().unwrap_or_default();
            spec.last_power_off_id = ack.id;
            spec.wipe_id_at_power_off = ack.wipe_id;
            self.write(Part::Power, machine, &spec).await?;
            return Ok(true);
        }
        if let (WipeAction::Wipe(record), reason) = provider::wipe(view) {
            if !self.confirm(machine, Part::Infra).await? || !self.confirm(machine, Part::Wipe).await? {
                return Ok(true);
            }
            tracing::info!(machine = self.id, %reason, "wiping");
            self.wipe(machine, *record).await?;
            return Ok(true);
        }
        let now = SystemTime::now();
        match provider::reboot(view, now) {
            (RebootAction::Leave, _) => {}
            (action, reason) => {
                if !self.confirm(machine, Part::Infra).await? {
                    return Ok(true);
                }
                tracing::info!(machine = self.id, ?action, %reason, "reboot request");
                self.reboot(machine, view, action, now).await?;
                return Ok(true);
            }
        }
        let (action, reason) = provider::power(view, now);
        if action == PowerAction::Leave {
            tracing::debug!(machine = self.id, %reason, "power stays as it is");
            return Ok(false);
        }
        // Switching on needs no Omni: boots go on without it.
        if !matches!(action, PowerAction::On { .. }) && !self.confirm(machine, Part::Infra).await? {
            return Ok(true);
        }
        tracing::info!(machine = self.id, ?action, %reason, "switching");
        self.switch(machine, view, action, now).await?;
        Ok(true)
    }

    async fn wipe(&mut self, machine: &Machine, mut record: WipeStatusSpec) -> Result<(), StepError> {
        // Retries are no news; why they are needed is.
        if self.wiping.as_ref() != Some(&record.last_wipe_id) {
            self.tell(Happening::WipeStarted);
            self.wiping = Some(record.last_wipe_id.clone());
        }
        let begin = Instant::now();
        let reports = self.controller.agents.wipe_disks(&self.id).await.map_err(StepError::Wipe)?;
        let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        record.wiped_at = Some(SystemTime::now().into());
        record.disk_reports.clone_from(&reports);
        self.write(Part::Wipe, machine, &record).await?;
        self.wiping = None;
        for report in reports {
            self.tell(Happening::DiskReport { report });
        }
        self.tell(Happening::WipeFinished { millis });
        Ok(())
    }

    async fn reboot(
        &mut self,
        machine: &Machine,
        view: &MachineView,
        action: RebootAction,
        now: SystemTime,
    ) -> Result<(), StepError> {
        let Some(infra) = &view.machine else { return Ok(()) };
        let mut record = view.reboot.clone().unwrap_or_default();
        record.last_reboot_id.clone_from(&infra.spec.requested_reboot_id);
        match action {
            RebootAction::Reboot { pxe_once } => self.reset(machine, pxe_once).await?,
            RebootAction::Acknowledge | RebootAction::Leave => {
                return self.write(Part::Reboot, machine, &record).await;
            }
        }
        self.record_reboot(machine, infra, record, now).await
    }

    async fn switch(
        &mut self,
        machine: &Machine,
        view: &MachineView,
        action: PowerAction,
        now: SystemTime,
    ) -> Result<(), StepError> {
        let (Some(entry), Some(infra)) = (&machine.bmc, &view.machine) else { return Ok(()) };
        let mut record: PowerOperationSpec = view.power.clone().unwrap_or_default();
        match action {
            PowerAction::On { pxe_once } => {
                let switch = self.power.switch(&entry.spec).await?;
                if pxe_once {
                    switch.set_pxe_boot_once(self.controller.pxe_mode).await?;
                }
                switch.power_on().await?;
                self.power.set(true);
                record.last_power_operation = SpecPowerState::On as i32;
                record.last_power_on_timestamp = Some(now.into());
                record.install_event_id_at_power_on = infra.spec.install_event_id;
                self.tell(Happening::PowerOn { pxe: pxe_once });
                self.write(Part::Power, machine, &record).await
            }
            PowerAction::Off => {
                self.power.switch(&entry.spec).await?.power_off().await?;
                self.power.set(false);
                self.controller.tunnels.forget(&self.id);
                record.last_power_operation = SpecPowerState::Off as i32;
                self.tell(Happening::PowerOff);
                self.write(Part::Power, machine, &record).await
            }
            PowerAction::Cycle { pxe_once } => {
                self.reset(machine, pxe_once).await?;
                self.record_reboot(machine, infra, view.reboot.clone().unwrap_or_default(), now).await
            }
            PowerAction::Leave => Ok(()),
        }
    }

    async fn reset(&mut self, machine: &Machine, pxe_once: bool) -> Result<(), StepError> {
        let Some(entry) = &machine.bmc else { return Ok(()) };
        let switch = self.power.switch(&entry.spec).await?;
        if pxe_once {
            switch.set_pxe_boot_once(self.controller.pxe_mode).await?;
        }
        switch.reboot().await?;
        self.controller.tunnels.forget(&self.id);
        Ok(())
    }

    async fn record_reboot(
        &self,
        machine: &Machine,
        infra: &InfraMachine,
        mut record: RebootStatusSpec,
        now: SystemTime,
    ) -> Result<(), StepError> {
        record.last_reboot_timestamp = Some(now.into());
        record.install_event_id_at_reboot = infra.spec.install_event_id;
        self.tell(Happening::Rebooted);
        self.write(Part::Reboot, machine, &record).await
    }
}
