//! `machine.MachineService` and `storage.StorageService`, as far as a machine in maintenance needs them.
//!
//! What is not here is Unimplemented: nothing can be installed, configured, rebooted or wiped this way. That is
//! for whoever accepted the machine, through the reverse tunnel.

use std::env::consts::ARCH;
use std::sync::Arc;

use agent_wire::common::Metadata;
use agent_wire::inventory::{DISKS, HOSTNAME};
use agent_wire::machine::machine_service_server::MachineService;
use agent_wire::machine::{
    Hostname, HostnameResponse, MetaDelete, MetaDeleteRequest, MetaDeleteResponse, MetaWrite,
    MetaWriteRequest, MetaWriteResponse, PlatformInfo, Version, VersionInfo, VersionResponse,
};
use agent_wire::storage::disk::DiskType;
use agent_wire::storage::storage_service_server::StorageService;
use agent_wire::storage::{Disk, Disks, DisksResponse};
use agent_wire::talos::block::DiskSpec;
use agent_wire::talos::network::HostnameStatusSpec;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::inventory::Source;
use crate::inventory::registry::Registry;
use crate::join::TALOS_VERSION;
use crate::meta::{Full, Meta};
use crate::say;

/// Both services.
#[derive(Debug)]
pub(super) struct Services<S> {
    pub(super) registry: Arc<Registry<S>>,
    pub(super) meta: Meta,
}

impl<S> Clone for Services<S> {
    fn clone(&self) -> Self {
        Self { registry: self.registry.clone(), meta: self.meta.clone() }
    }
}

/// Begins every answer.
const FROM_HERE: Option<Metadata> = Some(Metadata {});

/// META's keys are a byte.
fn key(number: u32) -> Result<u8, Status> {
    u8::try_from(number).map_err(|_| Status::invalid_argument("key must be a uint8"))
}

/// As Go names architectures.
fn arch() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[tonic::async_trait]
impl<S: Source> MachineService for Services<S> {
    async fn version(&self, _request: Request<()>) -> Result<Response<VersionResponse>, Status> {
        let version = VersionInfo {
            tag: TALOS_VERSION.to_owned(),
            os: "linux".to_owned(),
            arch: arch().to_owned(),
            ..VersionInfo::default()
        };
        let platform = PlatformInfo { name: "metal".to_owned(), mode: "metal-agent".to_owned() };
        let message =
            Version { metadata: FROM_HERE, version: Some(version), platform: Some(platform), features: None };
        Ok(Response::new(VersionResponse { messages: vec![message] }))
    }

    async fn hostname(&self, _request: Request<()>) -> Result<Response<HostnameResponse>, Status> {
        let specs = self.registry.specs(HOSTNAME).await?;
        let name = specs.first().and_then(|(_, spec)| HostnameStatusSpec::decode(&spec[..]).ok());
        let hostname = name.unwrap_or_default().hostname;
        Ok(Response::new(HostnameResponse { messages: vec![Hostname { metadata: FROM_HERE, hostname }] }))
    }

    async fn meta_write(
        &self,
        request: Request<MetaWriteRequest>,
    ) -> Result<Response<MetaWriteResponse>, Status> {
        let MetaWriteRequest { key: number, value } = request.into_inner();
        self.meta
            .write(key(number)?, &value)
            .map_err(|Full| Status::resource_exhausted("meta write failed"))?;
        // Not the value: it may be the token.
        say!("machine API: META key {number:#04x} was written");
        self.registry.look().await;
        Ok(Response::new(MetaWriteResponse { messages: vec![MetaWrite { metadata: FROM_HERE }] }))
    }

    async fn meta_delete(
        &self,
        request: Request<MetaDeleteRequest>,
    ) -> Result<Response<MetaDeleteResponse>, Status> {
        let number = request.into_inner().key;
        if !self.meta.delete(key(number)?) {
            return Err(Status::not_found("meta key not found"));
        }
        say!("machine API: META key {number:#04x} was removed");
        self.registry.look().await;
        Ok(Response::new(MetaDeleteResponse { messages: vec![MetaDelete { metadata: FROM_HERE }] }))
    }
}

#[tonic::async_trait]
impl<S: Source> StorageService for Services<S> {
    async fn disks(&self, _request: Request<()>) -> Result<Response<DisksResponse>, Status> {
        let disks = self.registry.specs(DISKS).await?.into_iter();
        let disks = disks.filter_map(|(name, spec)| Some(disk(&name, DiskSpec::decode(&spec[..]).ok()?)));
        let message = Disks { metadata: FROM_HERE, disks: disks.collect() };
        Ok(Response::new(DisksResponse { messages: vec![message] }))
    }
}

fn disk(name: &str, spec: DiskSpec) -> Disk {
    Disk {
        r#type: disk_type(&spec).into(),
        size: spec.size,
        model: spec.model,
        device_name: format!("/dev/{name}"),
        name: String::new(),
        serial: spec.serial,
        modalias: spec.modalias,
        uuid: spec.uuid,
        wwid: spec.wwid,
        bus_path: spec.bus_path,
        // Nothing of Talos runs from a disk here.
        system_disk: false,
        subsystem: spec.sub_system,
        readonly: spec.readonly,
    }
}

fn disk_type(spec: &DiskSpec) -> DiskType {
    match spec.transport.as_str() {
        _ if spec.cdrom => DiskType::Cd,
        "nvme" => DiskType::Nvme,
        "mmc" => DiskType::Sd,
        _ if spec.rotational => DiskType::Hdd,
        "" => DiskType::Unknown,
        _ => DiskType::Ssd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_of_the_types_that_talos_tells() {
        let of = |transport: &str, rotational, cdrom| {
            disk_type(&DiskSpec { transport: transport.into(), rotational, cdrom, ..DiskSpec::default() })
        };
        assert_eq!(of("sata", true, true), DiskType::Cd);
        assert_eq!(of("nvme", false, false), DiskType::Nvme);
        assert_eq!(of("mmc", false, false), DiskType::Sd);
        assert_eq!(of("virtio", true, false), DiskType::Hdd);
        assert_eq!(of("virtio", false, false), DiskType::Ssd);
        assert_eq!(of("", false, false), DiskType::Unknown);
    }

    #[test]
    fn a_key_is_a_byte() {
        assert_eq!(key(255).unwrap(), 255);
        assert_eq!(key(256).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
