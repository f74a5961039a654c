//! `bootlace get`: any resource, as `omnictl get` shows it.

use std::path::Path;

use cosi::client::GrpcState;
use cosi::{
    Event, EventType, Kind, LabelQuery, LabelTerm, ListOptions, Resource, State, WatchOptions, WatchTarget,
};
use futures_util::StreamExt;
use serde::Serialize;

use super::CliError;
use super::output::{Format, print, table, write_out};

mod types;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Resource type: a full name, or a short one such as `machines`, `infraMachineStatus`, `cluster`
    #[arg(value_name = "TYPE")]
    typ: String,
    /// Only the resource with this id
    id: Option<String>,
    /// Namespace, for types that are not known
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only resources with these labels: `key`, `!key`, `key=value`, separated by commas
    #[arg(short = 'l', long, value_name = "QUERY")]
    selector: Option<String>,
    /// Only resources whose id matches this regular expression
    #[arg(long, value_name = "REGEXP")]
    id_match_regexp: Option<String>,
    /// Go on as resources change
    #[arg(short, long)]
    watch: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One resource as it is printed.
#[derive(Debug, Serialize)]
struct Printed {
    metadata: Metadata,
    spec: serde_yaml_ng::Value,
}

#[derive(Debug, Serialize)]
struct Metadata {
    namespace: String,
    r#type: String,
    id: String,
    version: String,
    owner: String,
    phase: &'static str,
    created: String,
    updated: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    labels: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    finalizers: Vec<String>,
}

pub(super) async fn run(socket: &Path, args: Args) -> Result<(), CliError> {
    let state = super::connect(socket).await?;
    let kind = kind(&state, &args).await?;
    let selector = args.selector.as_deref().map(selector).transpose()?;
    if args.watch {
        return watch(&state, kind, &args, selector).await;
    }
    let mut found = match &args.id {
        Some(id) => vec![state.get(&kind.pointer(id)).await?],
        None => {
            let options = ListOptions {
                label_queries: selector.into_iter().collect(),
                id_query: args.id_match_regexp.clone(),
            };
            state.list(&kind, &options).await?
        }
    };
    found.sort_by(|a, b| a.id().cmp(b.id()));
    let printed: Vec<Printed> = found.iter().map(printed).collect();
    match (&args.id, args.output) {
        (Some(_), _) => match printed.first() {
            Some(one) => print(args.output, one, || overview(&found)),
            None => Ok(()),
        },
        // Documents, as omnictl prints them.
        (None, Format::Yaml) => printed.iter().try_for_each(document),
        (None, _) => print(args.output, &printed, || overview(&found)),
    }
}

async fn watch(
    state: &GrpcState,
    kind: Kind,
    args: &Args,
    selector: Option<LabelQuery>,
) -> Result<(), CliError> {
    let target = WatchTarget { kind, id: args.id.clone() };
    let options = WatchOptions {
        // A watch of one resource begins with it in any case.
        bootstrap_contents: args.id.is_none(),
        label_queries: selector.into_iter().collect(),
        id_query: args.id_match_regexp.clone(),
        ..WatchOptions::default()
    };
    let mut events = state.watch(&target, &options).await?;
    if args.output == Format::Table {
        write_out(&format!("{:<2} {}\n", "*", row_text(&HEADS.map(str::to_owned))))?;
    }
    while let Some(batch) = events.next().await {
        for event in batch? {
            show_event(&event, args.output)?;
        }
    }
    Err(CliError::Failed("the watch ended".into()))
}

fn show_event(event: &Event, format: Format) -> Result<(), CliError> {
    let sign = match event.typ {
        EventType::Created => "+",
        EventType::Updated => "",
        EventType::Destroyed => "-",
        EventType::Errored => {
            return Err(CliError::Failed(event.error.clone().unwrap_or_else(|| "the watch failed".into())));
        }
        EventType::Bootstrapped | EventType::Noop => return Ok(()),
    };
    match format {
        Format::Table => write_out(&format!("{sign:<2} {}\n", row_text(&row(&event.resource)))),
        Format::Yaml => document(&printed(&event.resource)),
        Format::Json => {
            let text = serde_json::to_string(&printed(&event.resource))
                .map_err(|error| CliError::Failed(error.to_string()))?;
            write_out(&format!("{text}\n"))
        }
    }
}

fn document(printed: &Printed) -> Result<(), CliError> {
    let text = serde_yaml_ng::to_string(printed).map_err(|error| CliError::Failed(error.to_string()))?;
    write_out(&format!("---\n{text}"))
}

const HEADS: [&str; 5] = ["NAMESPACE", "TYPE", "ID", "VERSION", "PHASE"];

fn row(resource: &Resource) -> [String; 5] {
    let metadata = &resource.metadata;
    [
        metadata.namespace.clone(),
        metadata.typ.split('.').next().unwrap_or_default().to_owned(),
        metadata.id.clone(),
        metadata.version.to_string(),
        metadata.phase.to_string(),
    ]
}

/// A line of a table that has no end: the widths are guessed.
fn row_text(cells: &[String; 5]) -> String {
    let [namespace, typ, id, version, phase] = cells;
    format!("{namespace:<16} {typ:<24} {id:<38} {version:<9} {phase}")
}

fn overview(resources: &[Resource]) -> comfy_table::Table {
    table(&HEADS, resources.iter().map(|resource| row(resource).to_vec()))
}

fn printed(resource: &Resource) -> Printed {
    let metadata = &resource.metadata;
    // What is not known to the server has no YAML form.
    let spec = serde_yaml_ng::from_str(&resource.spec.yaml)
        .unwrap_or_else(|_| serde_yaml_ng::Value::String(resource.spec.yaml.clone()));
    Printed {
        metadata: Metadata {
            namespace: metadata.namespace.clone(),
            r#type: metadata.typ.clone(),
            id: metadata.id.clone(),
            version: metadata.version.to_string(),
            owner: metadata.owner.clone(),
            phase: metadata.phase.as_str(),
            created: time(metadata.created),
            updated: time(metadata.updated),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            finalizers: metadata.finalizers.clone(),
        },
        spec,
    }
}

fn time(timestamp: prost_types::Timestamp) -> String {
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos)
        .map_or_else(|_| String::new(), |time| time.to_string())
}

/// The type by its full name, by a name that we know, or by what the server's definitions say.
async fn kind(state: &GrpcState, args: &Args) -> Result<Kind, CliError> {
    if let Some(known) = types::known(&args.typ) {
        let namespace = args.namespace.as_deref().unwrap_or(known.namespace);
        return Ok(Kind::new(namespace, known.typ));
    }
    let definitions = Kind::new("meta", "ResourceDefinitions.meta.cosi.dev");
    let definitions = state.list(&definitions, &ListOptions::default()).await.unwrap_or_default();
    if let Some((namespace, typ)) =
        definitions.iter().find_map(|found| types::defined(&args.typ, &found.spec.yaml))
    {
        return Ok(Kind::new(args.namespace.clone().unwrap_or(namespace), typ));
    }
    match &args.namespace {
        Some(namespace) if args.typ.contains('.') => Ok(Kind::new(namespace, &args.typ)),
        _ => Err(CliError::Failed(format!(
            "no type `{}`; known are {}, or give a full name and -n",
            args.typ,
            types::names().join(", ")
        ))),
    }
}

fn selector(text: &str) -> Result<LabelQuery, CliError> {
    let term = |text: &str| match (text.strip_prefix('!'), text.split_once('=')) {
        (Some(key), _) => Ok(LabelTerm::exists(key.trim()).inverted()),
        (None, Some((key, value))) => Ok(LabelTerm::equal(key.trim(), value.trim())),
        (None, None) if !text.trim().is_empty() => Ok(LabelTerm::exists(text.trim())),
        (None, None) => Err(CliError::Failed(format!("`{text}` is no label"))),
    };
    Ok(LabelQuery::new(text.split(',').map(term).collect::<Result<Vec<_>, _>>()?))
}

#[cfg(test)]
mod tests;
