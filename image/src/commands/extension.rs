//! `bootlace-image extension`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use bootlace_image::binary::Arch;
use bootlace_image::extension::{self, Settings};
use bootlace_image::oci::{self, Image, Layer, Layout, Naming};
use bootlace_image::parts;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Parts, epoch, report};

#[derive(Debug, Args)]
pub(crate) struct ExtensionArgs {
    /// The architecture of the machine that runs it
    #[arg(long, value_enum, default_value = "amd64")]
    arch: Arch,
    /// The appliance, a static binary
    #[arg(long, value_name = "FILE")]
    bootlace: PathBuf,
    #[command(flatten)]
    parts: Parts,
    /// The host's directory for the state; below /var the service waits until the machine is installed
    #[arg(long, value_name = "DIR", default_value = extension::VOLATILE_STATE)]
    state: String,
    /// The least version of Talos
    #[arg(long, value_name = "VERSION", default_value = "v1.9.0")]
    talos: String,
    /// dir and tar have manifest.yaml and rootfs in them; oci is an image layout of them
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What to write [format by its name: .tar is tar, anything else dir]
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Dir,
    Tar,
    Oci,
}

pub(crate) fn run(args: &ExtensionArgs) -> Result<()> {
    let is_tar = oci::is_tar(&args.output);
    let format = args.format.unwrap_or(if is_tar { Format::Tar } else { Format::Dir });
    ensure!(format != Format::Tar || is_tar, "-o {}: name an archive .tar", args.output.display());
    ensure!(format != Format::Dir || !is_tar, "-o {}: a directory is not called .tar", args.output.display());
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        talos: talos_version(&args.talos)?,
        state: args.state.clone(),
    };
    let binary = parts::binary(&args.bootlace, args.arch)?;
    let rest = args.parts.read()?.map(|(_, tree)| tree);
    let tree = extension::build(&settings, std::iter::once(binary).chain(rest))?;
    if format == Format::Oci {
        let layers = vec![Layer::new("extension", &tree)?];
        let images = [Image { arch: args.arch, layers, config: json!({}) }];
        let labels = BTreeMap::from([(
            "org.opencontainers.image.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        )]);
        let layout = Layout::build(
            &images,
            concat!("v", env!("CARGO_PKG_VERSION")),
            &labels,
            Naming::Single,
            epoch()?,
        )?;
        oci::write(&layout, &args.output)?;
    } else {
        oci::write_tree(&tree, &args.output, extension::MARK)?;
    }
    report(&args.output, &format!("system extension for {}", args.arch.name()), tree.bytes());
    Ok(())
}

/// Talos compares versions as three numbers.
fn talos_version(text: &str) -> Result<String> {
    let numbers: Vec<&str> = text.strip_prefix('v').unwrap_or(text).split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (numbers.len() == 3 && numbers.iter().all(is_number))
        .then(|| format!("v{}", numbers.join(".")))
        .with_context(|| format!("--talos {text:?} is no version such as v1.9.0"))
}
