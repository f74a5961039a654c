//! `bootlace-bench`: one subcommand a load, and `suite` for all of them against all servers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bootlace_bench::cost::{Server, own_cpu};
use bootlace_bench::report::Report;
use bootlace_bench::{dhcp, http, idle, limit, storm, suite, svg, tftp};
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A PXE client simulator: load on a boot server, and what it costs the server
#[derive(Debug, Parser)]
#[command(name = "bootlace-bench", version)]
struct Cli {
    #[command(subcommand)]
    load: Load,
    #[command(flatten)]
    out: Out,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
struct Out {
    /// How the result is written
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Format,
    /// Also as a plot
    #[arg(long, value_name = "FILE.svg", global = true)]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// DHCP questions on port 67 or 4011
    Dhcp(dhcp::Load),
    /// A file by TFTP to many clients
    Tftp(tftp::Load),
    /// A file by HTTP to many clients
    Http(http::Files),
    /// Small HTTP requests after one another
    Script(http::Requests),
    /// Whole boots, all at once
    Storm(storm::Load),
    /// Time from start to first offer, and memory at rest
    Idle(idle::Load),
    /// A server that does nothing: what the machine itself costs
    #[command(subcommand)]
    Limit(limit::Limit),
    /// All loads against us and every peer that is installed
    Suite(suite::Suite),
}

fn main() -> ExitCode {
    // Thousands of clients are thousands of sockets; servers that are started inherit it.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootlace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let server = &cli.server;
    let mut report = match &cli.load {
        Load::Dhcp(load) => load.run(server)?,
        Load::Tftp(load) => load.run(server)?,
        Load::Http(load) => load.run(server)?,
        Load::Script(load) => load.run(server)?,
        Load::Storm(load) => load.run(server)?,
        Load::Idle(load) => load.run()?,
        Load::Limit(limit) => limit.run()?,
        Load::Suite(suite) => return suite.run(),
    };
    // The limit that sends windows is the server itself.
    if !matches!(cli.load, Load::Limit(_)) {
        report.client_cpu_s = own_cpu()?;
    }
    show(&report, &cli.out)
}

fn show(report: &Report, out: &Out) -> Result<()> {
    match out.output {
        Format::Table => print!("{}", report.text()),
        Format::Json => println!("{}", serde_json::to_string(report)?),
    }
    if let Some(path) = &out.plot {
        std::fs::write(path, svg::plot(report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
