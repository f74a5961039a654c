//! What Image Factory is asked to build: Talos with extensions and kernel arguments.
//!
//! A schematic's name is the SHA-256 of its canonical YAML, so it is known before the factory was asked. The
//! canonical text is what the factory's own Go writer makes of it: four blanks deep, lists indented, empty
//! fields left out, strings plain where a reader would not take them for something else. The factory's answer
//! has the last word all the same (an enterprise factory adds its owner to what it was given).

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

mod scalar;

/// The id of the schematic that customizes nothing.
pub const EMPTY_ID: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
/// Entries of one list. A kernel reads 2,047 bytes of arguments, and there are some hundred extensions.
pub const ENTRIES_MAX: usize = 256;
/// Bytes of one text: twice what a kernel reads, so that what is refused was never going to boot.
pub const TEXT_MAX: usize = 4096;

/// What the discovery agent's image holds: firmware of every network card and processor it may meet, and the
/// agent. In the order of the Go provider, so that both ask for the same image.
pub const AGENT_EXTENSIONS: [&str; 10] = [
    "siderolabs/amd-ucode",
    "siderolabs/amdgpu-firmware",
    "siderolabs/bnx2-bnx2x",
    "siderolabs/chelsio-firmware",
    "siderolabs/i915-ucode",
    "siderolabs/intel-ice-firmware",
    "siderolabs/intel-ucode",
    "siderolabs/qlogic-firmware",
    "siderolabs/realtek-firmware",
    "siderolabs/metal-agent",
];

/// Why something cannot be part of a schematic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchematicError {
    /// Kernel arguments and extensions are words of printable ASCII, META values one line of it.
    #[error("not {what} for a schematic: {text:?}")]
    Text {
        /// What it was to be.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// Longer than anything that can be meant.
    #[error("{what} of {bytes} bytes, the limit is {TEXT_MAX}")]
    TooLong {
        /// What it was to be.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// More entries than anything that can be meant.
    #[error("more than {ENTRIES_MAX} entries of {0}")]
    TooMany(&'static str),
}

/// A customization of Talos.
///
/// Lists keep their order: another order is another schematic. [`Schematic::talos`] sorts what has no order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Schematic {
    kernel_args: Vec<String>,
    meta: Vec<(u8, String)>,
    extensions: Vec<String>,
}

impl Schematic {
    /// Customizes nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { kernel_args: Vec::new(), meta: Vec::new(), extensions: Vec::new() }
    }

    /// The discovery agent with these kernel arguments.
    ///
    /// # Errors
    /// As [`Self::kernel_arg`].
    pub fn agent<'a>(kernel_args: impl IntoIterator<Item = &'a str>) -> Result<Self, SchematicError> {
        let agent = Self { extensions: AGENT_EXTENSIONS.map(str::to_owned).to_vec(), ..Self::new() };
        kernel_args.into_iter().try_fold(agent, Self::kernel_arg)
    }

    /// Talos with these extensions, whose order does not matter, and these kernel arguments.
    ///
    /// # Errors
    /// As [`Self::kernel_arg`] and [`Self::extension`].
    pub fn talos<'a>(
        extensions: impl IntoIterator<Item = &'a str>,
        kernel_args: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, SchematicError> {
        let mut talos = extensions.into_iter().try_fold(Self::new(), Self::extension)?;
        talos.extensions.sort_unstable();
        talos.extensions.dedup();
        kernel_args.into_iter().try_fold(talos, Self::kernel_arg)
    }

    /// The same with one more kernel argument. One that begins with `-` takes a default argument away.
    ///
    /// # Errors
    /// When it is no word of printable ASCII, or there are too many.
    pub fn kernel_arg(mut self, text: &str) -> Result<Self, SchematicError> {
        self.kernel_args.push(word("a kernel argument", text)?);
        room("kernel arguments", self.kernel_args.len())?;
        Ok(self)
    }

    /// The same with one more official extension, like `siderolabs/amd-ucode`.
    ///
    /// # Errors
    /// When it is no word of printable ASCII, or there are too many.
    pub fn extension(mut self, name: &str) -> Result<Self, SchematicError> {
        self.extensions.push(word("an extension", name)?);
        room("extensions", self.extensions.len())?;
        Ok(self)
    }

    /// The same with a value for Talos' META partition.
    ///
    /// # Errors
    /// When the value is not one line of printable ASCII, or there are too many.
    pub fn meta(mut self, key: u8, value: &str) -> Result<Self, SchematicError> {
        let what = "a META value";
        if value.len() > TEXT_MAX {
            return Err(SchematicError::TooLong { what, bytes: value.len() });
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(SchematicError::Text { what, text: value.to_owned() });
        }
        self.meta.push((key, value.to_owned()));
        room("META values", self.meta.len())?;
        Ok(self)
    }

    /// The canonical text, byte for byte as the factory writes it.
    #[must_use]
    pub fn yaml(&self) -> String {
        if *self == Self::new() {
            return "customization: {}\n".to_owned();
        }
        let mut yaml = "customization:\n".to_owned();
        let list = |yaml: &mut String, depth: usize, name: &str, entries: &[String]| {
            if !entries.is_empty() {
                push_line(yaml, depth, format_args!("{name}:"));
            }
            for entry in entries {
                push_line(yaml, depth + 1, format_args!("- {}", scalar::written(entry)));
            }
        };
        list(&mut yaml, 1, "extraKernelArgs", &self.kernel_args);
        if !self.meta.is_empty() {
            push_line(&mut yaml, 1, format_args!("meta:"));
        }
        for (key, value) in &self.meta {
            push_line(&mut yaml, 2, format_args!("- key: {key}"));
            push_line(&mut yaml, 2, format_args!("  value: {}", scalar::written(value)));
        }
        if !self.extensions.is_empty() {
            push_line(&mut yaml, 1, format_args!("systemExtensions:"));
        }
        list(&mut yaml, 2, "officialExtensions", &self.extensions);
        yaml
    }

    /// The id that a factory without owners gives it: 64 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = Sha256::digest(self.yaml().as_bytes());
        hash.iter().fold(String::with_capacity(64), |mut id, byte| {
            write!(id, "{byte:02x}").expect("a string takes everything");
            id
        })
    }
}

fn push_line(yaml: &mut String, depth: usize, line: std::fmt::Arguments<'_>) {
    writeln!(yaml, "{:1$}{line}", "", depth * 4).expect("a string takes everything");
}

fn word(what: &'static str, text: &str) -> Result<String, SchematicError> {
    if text.len() > TEXT_MAX {
        return Err(SchematicError::TooLong { what, bytes: text.len() });
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SchematicError::Text { what, text: text.to_owned() });
    }
    Ok(text.to_owned())
}

fn room(what: &'static str, entries: usize) -> Result<(), SchematicError> {
    if entries > ENTRIES_MAX { Err(SchematicError::TooMany(what)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
