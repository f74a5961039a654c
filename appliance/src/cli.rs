//! The command line.

mod console;
mod get;
mod hub;
mod journal;
mod logs;
mod machines;
mod operator;
mod output;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cosi::client::GrpcState;

use crate::config::{Config, ConfigError, Overrides};

/// `EX_USAGE`: the configuration is wrong; nothing was opened.
const EXIT_CONFIG: u8 = 64;
/// `EX_UNAVAILABLE`: the appliance does not answer.
const EXIT_UNAVAILABLE: u8 = 69;

#[derive(Parser)]
#[command(
    name = "bootlace",
    version,
    about = "Network-boots the machines beside it and links them to Omni",
    after_help = "Examples:
  bootlace run -c appliance.toml
  bootlace machines list
  bootlace machines accept 4c4c4544
  bootlace journal -f

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 wrong configuration, 69 the appliance does not answer."
)]
struct Cli {
    /// Configuration file [default: /etc/bootlace/appliance.toml if it exists]
    #[arg(short, long, global = true, env = "BOOTLACE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Operator socket of the appliance [default: bootlace.sock in state_dir]
    #[arg(long, global = true, env = "BOOTLACE_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the appliance
    #[command(after_help = "Examples:
  bootlace run -c appliance.toml
  bootlace run --api-advertise-address 192.0.2.10 --boot-assets-path ./assets
  bootlace run --check -c appliance.toml")]
    Run {
        #[command(flatten)]
        overrides: Box<Overrides>,
        /// Only check the configuration, then exit
        #[arg(long)]
        check: bool,
    },
    /// List, accept, reject, allocate and release machines
    Machines {
        #[command(subcommand)]
        command: machines::Command,
    },
    /// Show resources by type, as omnictl does
    #[command(after_help = "Examples:
  bootlace get machines
  bootlace get infraMachineStatus 4c4c4544-0042-4b10-8051-c7c04f4d3232 -o yaml
  bootlace get machines -l omni.sidero.dev/cluster=edge -w")]
    Get(get::Args),
    /// Accounts of the embedded hub
    Hub {
        #[command(subcommand)]
        command: hub::Command,
    },
    /// Show what happened on the boot path, step by step
    #[command(after_help = "Examples:
  bootlace journal
  bootlace journal 52:54:00:88:00:01
  bootlace journal -f -o json")]
    Journal(journal::Args),
    /// Show the kernel log of a machine
    #[command(after_help = "Examples:
  bootlace logs 4c4c4544
  bootlace logs 4c4c4544 -n 50 -f
  bootlace logs 192.0.2.77 -o json")]
    Logs(logs::Args),
    /// Show what this appliance is and does
    #[command(after_help = "Examples:
  bootlace status
  bootlace status -o json")]
    Status(console::StatusArgs),
    /// Show the status and the journal's last lines until it is ended: for the screen of the box
    #[command(after_help = "Examples:
  bootlace console > /dev/tty1
  bootlace console --plain > /dev/ttyS0")]
    Console(console::ConsoleArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  bootlace completion bash > /etc/bash_completion.d/bootlace")]
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Why a command did not succeed, with its exit code.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the appliance does not answer on {socket}: {source}; is `bootlace run` running, and are you its user?"
    )]
    Unavailable { socket: PathBuf, source: io::Error },
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl From<cosi::StateError> for CliError {
    fn from(error: cosi::StateError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Parses the arguments, does what they say, and turns errors into a line and an exit code.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`| head`) is no error.
        Err(CliError::Other(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootlace: {}", full_text(&error));
            match error {
                CliError::Config(_) => ExitCode::from(EXIT_CONFIG),
                CliError::Unavailable { .. } => ExitCode::from(EXIT_UNAVAILABLE),
                CliError::Failed(_) | CliError::Other(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn full_text(error: &CliError) -> String {
    match error {
        CliError::Other(error) => format!("{error:#}"),
        _ => error.to_string(),
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Run { overrides, check } => {
            let config = Config::load(cli.config.as_deref(), &overrides)?;
            if check {
                println!("the configuration is valid");
                return Ok(());
            }
            crate::run::start(config)?;
            Ok(())
        }
        Command::Machines { command } => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(machines::run(&socket, command))
        }
        Command::Get(args) => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(get::run(&socket, args))
        }
        Command::Hub { command } => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            let own = Config::load(cli.config.as_deref(), &Overrides::default())?.hub_endpoint();
            client_runtime()?.block_on(hub::run(&socket, &own, command))
        }
        Command::Journal(args) => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(journal::run(&socket, &args))
        }
        Command::Logs(args) => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(logs::run(&socket, &args))
        }
        Command::Status(args) => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(console::status(&socket, &args))
        }
        Command::Console(args) => {
            let socket = socket(&cli.socket, cli.config.as_deref())?;
            client_runtime()?.block_on(console::console(&socket, &args))
        }
        Command::Version => {
            println!("bootlace {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bootlace", &mut io::stdout());
            Ok(())
        }
    }
}

fn socket(named: &Option<PathBuf>, config: Option<&Path>) -> Result<PathBuf, CliError> {
    match named {
        Some(socket) => Ok(socket.clone()),
        None => Ok(Config::load(config, &Overrides::default())?.socket()),
    }
}

/// Connecting by hand first tells an appliance that is not there from one that refuses.
async fn reach(socket: &Path) -> Result<(), CliError> {
    let reached = tokio::net::UnixStream::connect(socket).await;
    reached.map(drop).map_err(|source| CliError::Unavailable { socket: socket.to_path_buf(), source })
}

async fn connect(socket: &Path) -> Result<GrpcState, CliError> {
    reach(socket).await?;
    GrpcState::connect_unix(socket).await.map_err(|error| CliError::Failed(error.to_string()))
}

fn client_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
