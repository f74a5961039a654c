//! Builds the disk image that the stand-in installs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use standin_os::disk::{self, Inputs};
use standin_os::uki;

/// Build the stand-in's disk image, which boots with BIOS and UEFI.
#[derive(Debug, Parser)]
#[command(
    name = "standin-image",
    version,
    after_help = "Needs the packages fdisk mtools dosfstools syslinux syslinux-common systemd-boot-efi binutils.

Example:
  standin-image --kernel /boot/vmlinuz-6.1.0-56-cloud-amd64 --initramfs standin.initramfs -o metal-amd64.raw"
)]
struct Cli {
    /// The kernel
    #[arg(long, value_name = "VMLINUZ")]
    kernel: PathBuf,
    /// The stand-in's initramfs, made by `bootlace-image initramfs`
    #[arg(long, value_name = "FILE")]
    initramfs: PathBuf,
    /// The kernel command line of a boot from disk
    #[arg(long, default_value = "console=ttyS0 quiet panic=10 standin.boot=disk")]
    cmdline: String,
    /// systemd's EFI stub
    #[arg(long, value_name = "FILE", default_value = uki::STUB)]
    stub: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let Cli { kernel, initramfs, cmdline, stub, output } = Cli::parse();
    let inputs = Inputs { kernel: &kernel, initramfs: &initramfs, cmdline: &cmdline, stub: &stub };
    match disk::build(&inputs, &output) {
        Ok(length) => {
            println!("{}: {} MiB, boots with BIOS and UEFI", output.display(), length / (1024 * 1024));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("standin-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}
