//! `bootlace`: the network-boot appliance and its command line.
//!
//! * [`config`]: `appliance.toml` and flags, validated before anything opens.
//! * [`run`]: builds the parts top-down and runs them until the first one ends.
//! * [`policy`]: what a machine that asks gets: a script, its configuration, or a refusal with its reason.
//! * [`recorder`]: the boot journal on disk.
//! * [`status`]: what it is doing, in one answer.
//! * [`tls`]: what machines are shown over TLS, and whom they are to trust.
//! * [`sys`]: the allocator's settings.
//! * [`operator`]: the operator API on a unix socket; [`cli`] is its client.

mod cli;
mod config;
mod events;
mod log;
mod operator;
mod policy;
mod recorder;
mod run;
mod status;
mod sys;
mod tls;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
