//! `[boot]`: what machines boot, and where that comes from.

use std::path::PathBuf;

use netboot_assets::factory::FactoryConfig;
use power::PxeMode;
use provider::machine_config::ExtraDocuments;

use super::check::Checker;
use super::file;
use super::flags::Overrides;
use super::{Boot, ConfigError};

/// Image Factory's schematic without any customization.
const EMPTY_SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
/// Room for some thirty images of Talos.
const IMAGE_CACHE_MB: u32 = 4096;

impl Checker<'_> {
    pub(super) fn boot(
        &self,
        boot: &file::Boot,
        omni_ca_file: Option<PathBuf>,
        flags: &Overrides,
    ) -> Result<Boot, ConfigError> {
        Ok(Boot {
            assets_path: flags
                .boot_assets_path
                .clone()
                .or_else(|| boot.assets_path.clone())
                .unwrap_or_else(|| PathBuf::from("/assets")),
            disk_method: self.pick(
                &flags.boot_from_disk_method,
                "--boot-from-disk-method",
                &boot.from_disk_method,
                "boot.from_disk_method",
                "ipxe-exit",
                |method| method.parse().map_err(|_| "use ipxe-exit, http-404 or ipxe-sanboot"),
            )?,
            pxe_mode: self.pick(
                &flags.ipmi_pxe_boot_mode,
                "--ipmi-pxe-boot-mode",
                &boot.pxe_mode,
                "boot.pxe_mode",
                "uefi",
                |mode| match mode {
                    "bios" => Ok(PxeMode::Bios),
                    "uefi" => Ok(PxeMode::Uefi),
                    _ => Err("use bios or uefi"),
                },
            )?,
            schematic: self.pick(&None, "", &boot.schematic, "boot.schematic", EMPTY_SCHEMATIC, |id| {
                let ok = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
                ok.then(|| id.to_owned()).ok_or("a schematic id is 64 hexadecimal digits")
            })?,
            factory: self.factory(boot, omni_ca_file, flags)?,
            image_cache_bytes: {
                let mb = flags.boot_image_cache_mb.or(boot.image_cache_mb).unwrap_or(IMAGE_CACHE_MB);
                u64::from(mb) << 20
            },
            extra_documents: self.extra_documents(boot, flags)?,
            extra_kernel_args: self.kernel_args(&boot.extra_kernel_args, "boot.extra_kernel_args")?,
        })
    }

    /// The factory's certificate may be signed by the authority that signs Omni's.
    fn factory(
        &self,
        boot: &file::Boot,
        ca_file: Option<PathBuf>,
        flags: &Overrides,
    ) -> Result<FactoryConfig, ConfigError> {
        let default = FactoryConfig::default();
        let url = |url: &str| {
            let ok = url.starts_with("https://") || url.starts_with("http://");
            ok.then(|| url.trim_end_matches('/').to_owned()).ok_or("write https://<host>")
        };
        Ok(FactoryConfig {
            base_url: self.pick(
                &flags.image_factory_base_url,
                "--image-factory-base-url",
                &boot.image_factory_base_url,
                "boot.image_factory_base_url",
                &default.base_url,
                url,
            )?,
            pxe_base_url: self.pick(
                &flags.image_factory_pxe_base_url,
                "--image-factory-pxe-base-url",
                &boot.image_factory_pxe_base_url,
                "boot.image_factory_pxe_base_url",
                &default.pxe_base_url,
                url,
            )?,
            ca_file,
            timeout: default.timeout,
        })
    }

    /// Checked before anything opens: a machine that gets a wrong document does not join.
    fn extra_documents(&self, boot: &file::Boot, flags: &Overrides) -> Result<ExtraDocuments, ConfigError> {
        let path = flags.extra_machine_config_path.as_ref().or(boot.extra_machine_config_path.as_ref());
        let Some(path) = path else { return Ok(ExtraDocuments::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        ExtraDocuments::parse(&text).map_err(|error| ConfigError::Invalid {
            place: path.display().to_string(),
            message: error.to_string(),
        })
    }
}
