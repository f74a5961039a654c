//! `bootlace-image oci`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use bootlace_image::binary::Arch;
use bootlace_image::oci::{self, Image, Layer, Layout, Naming};
use bootlace_image::parts::{self, BINARY, STATE_DIR};
use bootlace_image::rootfs::Rootfs;
use clap::Args;
use serde_json::json;

use super::{Parts, epoch, report};

#[derive(Debug, Args)]
pub(crate) struct OciArgs {
    /// The appliance, a static binary, for each architecture
    #[arg(long = "bootlace", value_name = "ARCH=FILE", required = true, value_parser = parts::parse_arch_file)]
    binaries: Vec<(Arch, PathBuf)>,
    #[command(flatten)]
    parts: Parts,
    /// Certificate authorities, in one PEM file
    #[arg(long, value_name = "FILE", default_value = parts::CA_FILE)]
    ca: PathBuf,
    /// The image's name in the layout
    #[arg(long, value_name = "TAG", default_value = concat!("v", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// A label, such as org.opencontainers.image.source=URL
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The layout to write: a directory, or an archive when the name ends in .tar
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

pub(crate) fn run(args: &OciArgs) -> Result<()> {
    let mut base = parts::authorities(&args.ca)?;
    for directory in [STATE_DIR, "/etc/bootlace", "/run", "/tmp"] {
        base.directory(directory)?;
    }
    let layer = |what, tree: &Rootfs| Layer::new(what, tree);
    let mut shared = vec![layer("directories and certificate authorities", &base)?];
    for (what, tree) in args.parts.read()? {
        shared.push(layer(what, &tree)?);
    }

    let mut images = Vec::new();
    for (arch, path) in &args.binaries {
        ensure!(
            !images.iter().any(|image: &Image| image.arch == *arch),
            "--bootlace {}= is there twice",
            arch.name()
        );
        let mut layers = shared.clone();
        layers.push(layer("appliance", &parts::binary(path, *arch)?)?);
        let config = json!({
            "User": "0:0",
            "Entrypoint": [BINARY, "run"],
            "Env": ["PATH=/", format!("SSL_CERT_FILE={}", parts::CA_FILE)],
            "Volumes": { STATE_DIR: {} },
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
        });
        images.push(Image { arch: *arch, layers, config });
    }
    let mut labels: BTreeMap<String, String> = args.labels.iter().cloned().collect();
    for (key, value) in [
        ("org.opencontainers.image.title", "bootlace"),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ("org.opencontainers.image.licenses", "Apache-2.0"),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let layout = Layout::build(&images, &args.tag, &labels, Naming::MultiArch, epoch()?)?;
    oci::write(&layout, &args.output)?;
    let archs: Vec<&str> = images.iter().map(|image| image.arch.name()).collect();
    report(&args.output, &format!("container image {} for {}", args.tag, archs.join(" and ")), layout.size());
    for image in &images {
        for layer in &image.layers {
            println!(
                "  {}: {}, {}",
                image.arch.name(),
                layer.what(),
                bootlace_image::output::size(layer.size())
            );
        }
    }
    Ok(())
}
