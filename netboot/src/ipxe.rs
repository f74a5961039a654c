//! The scripts that iPXE runs, built from typed commands.
//!
//! Only commands of the iPXE of 2019 that Debian ships are used. That iPXE splits a line at blanks, knows no
//! quoting, and treats `||`, `&&`, `;` and a leading `#` as syntax; so whatever comes from outside goes into a
//! [`Word`], which can hold none of that, and no `${…}` of its own either.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::firmware::Arch;

mod kernel_args;

pub use kernel_args::{AgentTls, COMMAND_LINE_MAX, KernelArgs};

/// What cannot be part of a script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A piece that iPXE would read as syntax or as more than one word.
    #[error("not a plain word for an iPXE script: {0:?}")]
    NotAWord(String),
    /// A part of a path that is no plain file name.
    #[error("not a plain file name: {0:?}")]
    NotAName(String),
    /// More kernel arguments than a kernel reads.
    #[error("kernel arguments of {0} bytes: a kernel reads {COMMAND_LINE_MAX}")]
    TooLong(usize),
}

/// One word of a script: not empty, printable ASCII, no blanks, no syntax, no settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word(String);

impl Word {
    /// Takes text from outside.
    ///
    /// # Errors
    ///
    /// [`ScriptError::NotAWord`] when iPXE would read it as anything but this text.
    pub fn new(text: impl Into<String>) -> Result<Self, ScriptError> {
        let text = text.into();
        let syntax = text.starts_with('#')
            || text.starts_with(':')
            || matches!(text.as_str(), "" | "||" | "&&" | ";")
            || text.contains("${");
        if syntax || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScriptError::NotAWord(text));
        }
        Ok(Self(text))
    }

    /// One part of a path: letters, digits, `.`, `_`, `+`, `-`, `~`; neither `.` nor `..`.
    fn file_name(text: &str) -> Result<&str, ScriptError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-~".contains(&byte);
        if text.is_empty() || text == "." || text == ".." || !text.bytes().all(plain) {
            return Err(ScriptError::NotAName(text.to_owned()));
        }
        Ok(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the appliance serves HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    address: Ipv4Addr,
    port: u16,
}

impl BaseUrl {
    /// `http://address:port`. An address, never a name: machines ask before they have name servers.
    #[must_use]
    pub const fn new(address: Ipv4Addr, port: u16) -> Self {
        Self { address, port }
    }

    /// `address:port`.
    #[must_use]
    pub fn authority(self) -> String {
        format!("{}:{}", self.address, self.port)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.address, self.port)
    }
}

/// One command of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A fixed line: no text from outside can get here.
    Fixed(&'static str),
    /// A command, and what to do when it fails; nothing means to go on.
    Otherwise(Box<Self>, &'static str),
    /// Fetch another script and run it instead of this one.
    Chain(Word),
    /// Drop every image that was loaded.
    Imgfree,
    /// Load a kernel and give it its command line.
    Kernel {
        /// Where it is.
        url: Word,
        /// What it is told.
        args: KernelArgs,
    },
    /// Load an initial file system.
    Initrd(Word),
    /// Start what was loaded.
    Boot,
    /// Gives up, so that the firmware goes on to its next boot device. A plain `exit` counts as success, and
    /// EDK2 opens its menu instead.
    Exit,
    /// Start from the first disk by the BIOS.
    SanbootFirstDisk,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(line) => f.write_str(line),
            Self::Otherwise(command, "") => write!(f, "{command} ||"),
            Self::Otherwise(command, otherwise) => write!(f, "{command} || {otherwise}"),
            Self::Chain(url) => write!(f, "chain --replace {url}"),
            Self::Imgfree => f.write_str("imgfree"),
            Self::Kernel { url, args } => write!(f, "kernel {url} {args}"),
            Self::Initrd(url) => write!(f, "initrd {url}"),
            Self::Boot => f.write_str("boot"),
            Self::Exit => f.write_str("exit 1"),
            Self::SanbootFirstDisk => f.write_str("sanboot --no-describe --drive 0x80"),
        }
    }
}

/// A script, one command a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(Vec<Command>);

impl Script {
    /// A script that does nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The same with one more command.
    #[must_use]
    pub fn command(mut self, command: Command) -> Self {
        self.0.push(command);
        self
    }

    /// The text that iPXE runs.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("#!ipxe\n")?;
        self.0.iter().try_for_each(|command| writeln!(f, "{command}"))
    }
}

/// The first script of every machine: ask the appliance what to boot.
///
/// The interface that brought the script is up, so it asks at once and without a prompt. Only when that fails
/// it goes through all interfaces, each alone and over IPv4 alone (iPXE waits many seconds for IPv6 routers
/// that do not exist), and after ten rounds starts the machine anew. `ifconf` opens the interface and waits for
/// its link by itself; a command for that alone came after 2019.
#[must_use]
pub fn init_script(base: BaseUrl) -> Script {
    // `netX` is the interface opened last: the one that can reach us. `uristring` keeps blanks and `#` inside.
    let ask = || {
        Command::Chain(Word(format!(
            "{base}/ipxe/boot.ipxe?uuid=${{uuid}}&mac=${{netX/mac:hexhyp}}&domain=${{domain:uristring}}\
             &hostname=${{hostname:uristring}}&serial=${{serial:uristring}}&arch=${{buildarch}}"
        )))
    };
    let or_go_on = |command: Command| Command::Otherwise(Box::new(command), "");
    let script = Script::new()
        .command(or_go_on(ask()))
        .command(Command::Fixed("set round:int32 0"))
        .command(Command::Fixed(":round"))
        .command(Command::Fixed("sleep 2"))
        .command(or_go_on(ask()));
    let script = [
        "set nic:int32 0",
        ":nic",
        "isset ${net${nic}/mac} || goto end_of_round",
        "ifclose",
        "ifconf --configurator dhcp net${nic} || goto next_nic",
    ]
    .into_iter()
    .fold(script, |script, line| script.command(Command::Fixed(line)))
    .command(or_go_on(ask()));
    [
        ":next_nic",
        "inc nic",
        "goto nic",
        ":end_of_round",
        "inc round",
        "iseq ${round} 10 || goto round",
        "echo The boot appliance does not answer, starting over",
        "reboot",
    ]
    .into_iter()
    .fold(script, |script, line| script.command(Command::Fixed(line)))
}

/// How a machine is sent on to its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskMethod {
    /// iPXE exits and the firmware tries its next boot device.
    #[default]
    IpxeExit,
    /// The script is not found, and iPXE gives up.
    #[serde(rename = "http-404")]
    Http404,
    /// iPXE starts the first BIOS disk itself, for firmware that would start over after an exit.
    IpxeSanboot,
}

impl fmt::Display for DiskMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IpxeExit => "ipxe-exit",
            Self::Http404 => "http-404",
            Self::IpxeSanboot => "ipxe-sanboot",
        })
    }
}

/// Text that names no method to boot from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of ipxe-exit, http-404, ipxe-sanboot")]
pub struct ParseDiskMethodError;

impl FromStr for DiskMethod {
    type Err = ParseDiskMethodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::IpxeExit, Self::Http404, Self::IpxeSanboot]
            .into_iter()
            .find(|method| method.to_string() == text)
            .ok_or(ParseDiskMethodError)
    }
}

/// What sends a machine to its disk; `None` where the answer is 404.
#[must_use]
pub fn disk_script(method: DiskMethod) -> Option<Script> {
    match method {
        DiskMethod::IpxeExit => Some(Script::new().command(Command::Exit)),
        DiskMethod::IpxeSanboot => Some(Script::new().command(Command::SanbootFirstDisk)),
        DiskMethod::Http404 => None,
    }
}

/// Boots the discovery agent from the asset directory.
///
/// # Errors
///
/// [`ScriptError::TooLong`] when the arguments do not fit a kernel's command line.
pub fn agent_script(base: BaseUrl, arch: Arch, args: &KernelArgs) -> Result<Script, ScriptError> {
    linux(
        base,
        &format!("{base}/assets"),
        &format!("kernel-{arch}"),
        &format!("initramfs-metal-{arch}.xz"),
        args,
    )
}

/// Boots a Talos image of Image Factory from the asset cache.
///
/// # Errors
///
/// [`ScriptError::NotAName`] when schematic or version is no plain file name, [`ScriptError::TooLong`] when the
/// arguments do not fit a kernel's command line.
pub fn talos_script(
    base: BaseUrl,
    schematic: &str,
    version: &str,
    arch: Arch,
    args: &KernelArgs,
) -> Result<Script, ScriptError> {
    let (schematic, version) = (Word::file_name(schematic)?, Word::file_name(version)?);
    let folder = format!("{base}/image/{schematic}/{version}");
    linux(base, &folder, &format!("kernel-{arch}"), &format!("initramfs-{arch}.xz"), args)
}

/// The kernel is told its initramfs by name: the EFI build of 2019 does not hand it over otherwise. What fails
/// half-way (the appliance restarted) is started over; leaving iPXE would strand a machine with empty disks.
fn linux(
    base: BaseUrl,
    folder: &str,
    kernel: &str,
    initrd: &str,
    args: &KernelArgs,
) -> Result<Script, ScriptError> {
    let args = KernelArgs::new().arg(&format!("initrd={initrd}"))?.and(args);
    if args.len() > COMMAND_LINE_MAX {
        return Err(ScriptError::TooLong(args.len()));
    }
    let or_start_over = |command: Command| Command::Otherwise(Box::new(command), "goto failed");
    let kernel = Command::Kernel { url: Word::new(format!("{folder}/{kernel}"))?, args };
    let initrd = Command::Initrd(Word::new(format!("{folder}/{initrd}"))?);
    let init = Command::Chain(Word::new(format!("{base}/ipxe/init.ipxe"))?);
    Ok(Script::new()
        .command(Command::Imgfree)
        .command(or_start_over(kernel))
        .command(or_start_over(initrd))
        .command(or_start_over(Command::Boot))
        .command(Command::Fixed(":failed"))
        .command(Command::Fixed("echo This did not start, asking again"))
        .command(Command::Fixed("sleep 5"))
        .command(Command::Otherwise(Box::new(init), "reboot")))
}

#[cfg(test)]
mod tests;
