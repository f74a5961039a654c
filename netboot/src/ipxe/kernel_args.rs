//! What a kernel is told.

use std::fmt;

use super::{BaseUrl, ScriptError, Word};
use crate::firmware::Arch;

/// What Linux reads on x86 and ARM, without the final zero byte.
pub const COMMAND_LINE_MAX: usize = 2047;
/// What Talos runs on.
const PLATFORM: &str = "talos.platform=metal";

/// How an agent opens its tunnel over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentTls {
    /// TCP port.
    pub port: u16,
    /// It takes any certificate.
    pub skip_verify: bool,
}

/// The arguments on a kernel's command line, each a plain word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelArgs(Vec<Word>);

impl KernelArgs {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// What the discovery agent needs: where its configuration is, the consoles, and where it opens its tunnel.
    #[must_use]
    pub fn agent(base: BaseUrl, arch: Arch, test_mode: bool) -> Self {
        Self::agent_of(base, arch, &base.authority(), test_mode)
    }

    /// The same for an agent that opens its tunnel over TLS.
    #[must_use]
    pub fn agent_with_tls(base: BaseUrl, arch: Arch, test_mode: bool, tls: AgentTls) -> Self {
        let provider = format!("https://{}:{}", base.address, tls.port);
        let mut args = Self::agent_of(base, arch, &provider, test_mode);
        if tls.skip_verify {
            args.0.push(Word("metal.provider.tls.skip.verify=1".to_owned()));
        }
        args
    }

    fn agent_of(base: BaseUrl, arch: Arch, provider: &str, test_mode: bool) -> Self {
        let mut args = Self::join(base, arch);
        args.0.push(Word(format!("metal.provider.address={provider}")));
        if test_mode {
            args.0.push(Word("metal.provider.test.mode=1".to_owned()));
        }
        args
    }

    /// What Talos needs: where its configuration is, the consoles, and what it runs on.
    #[must_use]
    pub fn talos(base: BaseUrl, arch: Arch) -> Self {
        let mut args = Self::join(base, arch);
        args.0.push(Word(PLATFORM.to_owned()));
        args
    }

    /// The same for an image whose script Image Factory does not write.
    #[must_use]
    pub fn talos_without_factory(base: BaseUrl, arch: Arch) -> Self {
        Self::join(base, arch).without_factory()
    }

    /// The same with what Image Factory would have added and Talos does not start without: what it runs on, and two of
    /// the Kernel Self Protection Project, which its machined enforces.
    #[must_use]
    pub fn without_factory(mut self) -> Self {
        self.0.extend([PLATFORM, "slab_nomerge", "pti=on"].map(|word| Word(word.to_owned())));
        self
    }

    /// The setting `${uuid}` is filled in by iPXE, or by Talos when it finds it unfilled after an installation.
    fn join(base: BaseUrl, arch: Arch) -> Self {
        let serial = match arch {
            Arch::Amd64 => "console=ttyS0",
            Arch::Arm64 => "console=ttyAMA0",
        };
        Self(vec![
            Word(format!("talos.config={base}/config?u=${{uuid}}")),
            Word("console=tty0".to_owned()),
            Word(serial.to_owned()),
        ])
    }

    /// The same with one more argument from outside.
    ///
    /// # Errors
    ///
    /// [`ScriptError::NotAWord`] when iPXE would read it as anything but one word of this text.
    pub fn arg(mut self, text: &str) -> Result<Self, ScriptError> {
        self.0.push(Word::new(text)?);
        Ok(self)
    }

    /// The same with more arguments from outside, between blanks.
    ///
    /// # Errors
    ///
    /// As [`Self::arg`].
    pub fn args(self, text: &str) -> Result<Self, ScriptError> {
        text.split(' ').filter(|word| !word.is_empty()).try_fold(self, Self::arg)
    }

    /// The same with all of the other after it.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// How long the command line is.
    #[must_use]
    pub fn len(&self) -> usize {
        // `${uuid}` is 7 bytes here and 36 for the kernel.
        let filled_in = |word: &Word| word.0.len() + word.0.matches("${uuid}").count() * 29;
        self.0.iter().map(|word| filled_in(word) + 1).sum::<usize>().saturating_sub(1)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KernelArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            word.fmt(f)?;
        }
        Ok(())
    }
}
