//! `bootlace hub`: the accounts of the embedded hub, as `omnictl infraprovider` keeps those of Omni.

use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use hub::accounts::{self, AccountError, ProviderSummary};
use jiff::Timestamp;
use omni_auth::ServiceAccountKey;
use serde::Serialize;

use super::CliError;
use super::output::{Format, print, table, write_out};

/// As `omnictl infraprovider create`.
const DEFAULT_LIFETIME: &str = "8760h";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Providers that link to this hub
    Provider {
        #[command(subcommand)]
        command: Provider,
    },
    /// Keys of administrators, for omnictl and other clients
    Admin {
        #[command(subcommand)]
        command: Admin,
    },
}

#[derive(Subcommand)]
pub(super) enum Provider {
    /// Make a provider and its service account, and print its environment
    #[command(after_help = "The key is printed once and not kept.

Example:
  bootlace hub provider create edge-2 > edge-2.env")]
    Create {
        /// Provider id
        id: String,
        /// Endpoint to print [default: the hub's own address]
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// How long the key is good for
        #[arg(long, default_value = DEFAULT_LIFETIME, value_parser = duration)]
        ttl: Duration,
    },
    /// Make another key for a provider; the former ones work until they end
    #[command(
        name = "renewkey",
        alias = "renew",
        after_help = "Example:
  bootlace hub provider renewkey edge-2"
    )]
    Renew {
        /// Provider id
        id: String,
        /// Endpoint to print [default: the hub's own address]
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// How long the key is good for
        #[arg(long, default_value = DEFAULT_LIFETIME, value_parser = duration)]
        ttl: Duration,
    },
    /// List the providers and when their keys end
    #[command(after_help = "Example:
  bootlace hub provider list -o json")]
    List {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Remove a provider, its account and its machines
    #[command(after_help = "Example:
  bootlace hub provider delete edge-2")]
    Delete {
        /// Provider id
        id: String,
        /// How long to wait for its end; it goes on after that
        #[arg(long, default_value = "1m", value_parser = duration)]
        timeout: Duration,
    },
}

#[derive(Subcommand)]
pub(super) enum Admin {
    /// Make a key for an administrator, and print its environment
    #[command(after_help = "Example:
  bootlace hub admin create ops > ops.env")]
    Create {
        /// Account name
        name: String,
        /// Endpoint to print [default: the hub's own address]
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// How long the key is good for
        #[arg(long, default_value = DEFAULT_LIFETIME, value_parser = duration)]
        ttl: Duration,
    },
}

#[derive(Serialize)]
struct Row {
    id: String,
    name: String,
    version: String,
    removing: bool,
    keys: Vec<Key>,
}

#[derive(Serialize)]
struct Key {
    fingerprint: String,
    expires: String,
}

/// `own_endpoint`: where the hub of the configuration listens.
pub(super) async fn run(socket: &Path, own_endpoint: &str, command: Command) -> Result<(), CliError> {
    let state = super::connect(socket).await?;
    let now = SystemTime::now();
    match command {
        Command::Provider { command: Provider::Create { id, endpoint, ttl } } => {
            let (_, key) = accounts::create_provider(&state, &id, now, ttl).await?;
            environment(endpoint.as_deref().unwrap_or(own_endpoint), &key)
        }
        Command::Provider { command: Provider::Renew { id, endpoint, ttl } } => {
            let key = accounts::renew_provider(&state, &id, now, ttl).await?;
            environment(endpoint.as_deref().unwrap_or(own_endpoint), &key)
        }
        Command::Provider { command: Provider::List { output } } => {
            let rows: Vec<Row> = accounts::list_providers(&state).await?.into_iter().map(row).collect();
            print(output, &rows, || overview(&rows))
        }
        Command::Provider { command: Provider::Delete { id, timeout } } => {
            accounts::delete_provider(&state, &id, timeout).await?;
            write_out(&format!("{id} deleted\n"))
        }
        Command::Admin { command: Admin::Create { name, endpoint, ttl } } => {
            let key = accounts::create_admin_key(&state, &name, now, ttl).await?;
            environment(endpoint.as_deref().unwrap_or(own_endpoint), &key)
        }
    }
}

impl From<AccountError> for CliError {
    fn from(error: AccountError) -> Self {
        Self::Other(error.into())
    }
}

/// The lines of an environment file, as omnictl prints them.
fn environment(endpoint: &str, key: &ServiceAccountKey) -> Result<(), CliError> {
    write_out(&format!("OMNI_ENDPOINT={endpoint}\nOMNI_SERVICE_ACCOUNT_KEY={}\n", key.encode().as_str()))
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a duration such as 720h".to_owned())
}

fn row(summary: ProviderSummary) -> Row {
    Row {
        id: summary.id,
        name: summary.name,
        version: summary.version,
        removing: summary.removing,
        keys: summary
            .keys
            .into_iter()
            .map(|key| Key { fingerprint: key.fingerprint, expires: day(key.expires) })
            .collect(),
    }
}

fn day(time: SystemTime) -> String {
    Timestamp::try_from(time)
        .map_or_else(|_| "-".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn overview(rows: &[Row]) -> comfy_table::Table {
    table(
        &["ID", "NAME", "VERSION", "KEYS", "LAST KEY ENDS"],
        rows.iter().map(|row| {
            vec![
                row.id.clone(),
                if row.name.is_empty() { "-".into() } else { row.name.clone() },
                if row.version.is_empty() { "-".into() } else { row.version.clone() },
                row.keys.len().to_string(),
                row.keys.first().map_or_else(|| "-".into(), |key| key.expires.clone()),
            ]
        }),
    )
}
