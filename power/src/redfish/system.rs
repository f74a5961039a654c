//! What a controller tells, read with tolerance: a wrong type is as good as nothing.

use serde_json::Value;
use uuid::Uuid;

use super::wire::{Answer, Target};
use crate::http::one_line;

/// AMI's refusal of a setting that is for the next start only: those have a resource of their own.
const AMI_FUTURE_STATE: &str = "OperationSupportedInFutureStateURI";

/// AMI's refusal of a change without `If-Match`.
const AMI_PRECONDITION: &str = "PreconditionHeaderMissing";

/// Longest name of a product that is repeated.
const NAME_LIMIT: usize = 60;

/// The service root.
pub(super) struct Root {
    pub(super) systems: String,
    pub(super) sessions: String,
    /// Vendor, product and version, for people.
    pub(super) name: String,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            systems: "/redfish/v1/Systems".to_owned(),
            sessions: "/redfish/v1/SessionService/Sessions".to_owned(),
            name: String::new(),
        }
    }
}

impl Root {
    /// What is missing is where the standard has it. `None`: this is no service root.
    pub(super) fn of(root: &Value, target: &Target) -> Option<Self> {
        let systems = link(root.get("Systems")?, target)?;
        let version = text(root, "RedfishVersion");
        let mut name = match (text(root, "Vendor"), text(root, "Product")) {
            (Some(vendor), Some(product)) if !product.starts_with(vendor) => format!("{vendor} {product}"),
            (vendor, product) => product.or(vendor).unwrap_or_default().to_owned(),
        };
        if let Some(version) = version {
            let gap = if name.is_empty() { "" } else { ", " };
            name = format!("{name}{gap}Redfish {version}");
        }
        let name = name.chars().filter(|c| !c.is_control()).take(NAME_LIMIT).collect();
        let sessions = root.pointer("/Links/Sessions").and_then(|sessions| link(sessions, target));
        Some(Self { systems, sessions: sessions.unwrap_or_else(|| Self::default().sessions), name })
    }
}

/// One ComputerSystem.
pub(super) struct System {
    pub(super) path: String,
    pub(super) value: Value,
    etag: Option<String>,
}

impl System {
    /// `None`: this is no JSON object.
    pub(super) fn of(path: &str, answer: &Answer) -> Option<Self> {
        let value = json(answer).filter(Value::is_object)?;
        Some(Self { path: path.to_owned(), etag: etag(answer, &value), value })
    }

    /// Whether it has power; `None` when the controller does not know.
    pub(super) fn powered_on(&self) -> Option<bool> {
        match text(&self.value, "PowerState")? {
            "On" | "PoweringOn" | "PoweringOff" | "Paused" => Some(true),
            "Off" => Some(false),
            _ => None,
        }
    }

    /// Whether it is that machine. Some controllers turn the first three fields of a UUID around.
    pub(super) fn is(&self, machine: Uuid) -> bool {
        let Some(Ok(uuid)) = text(&self.value, "UUID").map(str::parse::<Uuid>) else { return false };
        uuid == machine || uuid.to_bytes_le() == *machine.as_bytes()
    }

    fn reset(&self) -> Option<&Value> {
        self.value.get("Actions")?.get("#ComputerSystem.Reset")
    }

    /// Where resets are ordered.
    pub(super) fn reset_target(&self, target: &Target) -> String {
        let given =
            self.reset().and_then(|reset| text(reset, "target")).and_then(|path| target.path_of(path));
        given.unwrap_or_else(|| format!("{}/Actions/ComputerSystem.Reset", self.path.trim_end_matches('/')))
    }

    /// The kinds of reset that it has, when it says so itself.
    pub(super) fn reset_kinds(&self) -> Option<Vec<String>> {
        texts(self.reset()?.get("ResetType@Redfish.AllowableValues")?)
    }

    /// Where it says which kinds of reset it has.
    pub(super) fn action_info(&self, target: &Target) -> Option<String> {
        target.path_of(text(self.reset()?, "@Redfish.ActionInfo")?)
    }

    /// Where settings for the next start are written, by the controllers that keep them apart.
    pub(super) fn settings(&self, target: &Target) -> Option<String> {
        link(self.value.pointer("/@Redfish.Settings/SettingsObject")?, target)
    }

    /// The same with AMI, which names it in its manual only.
    pub(super) fn ami_settings(&self) -> String {
        format!("{}/SD", self.path.trim_end_matches('/'))
    }

    /// Its versions as `If-Match` takes them: as given, then in the strong form that some demand.
    pub(super) fn etags(&self) -> Vec<String> {
        let Some(given) = &self.etag else { return vec!["*".to_owned()] };
        let strong = given.strip_prefix("W/").map(str::to_owned);
        [Some(given.clone()), strong, Some("*".to_owned())].into_iter().flatten().collect()
    }

    /// What it boots next, when that is not the network.
    pub(super) fn other_boot(&self) -> Option<String> {
        let boot = self.value.get("Boot").unwrap_or(&Value::Null);
        let field = |name| text(boot, name).unwrap_or("nothing");
        let (enabled, source) = (field("BootSourceOverrideEnabled"), field("BootSourceOverrideTarget"));
        let kept = source == "Pxe" && matches!(enabled, "Once" | "Continuous");
        (!kept).then(|| one_line(format!("{source}, {enabled}").as_bytes()))
    }
}

/// The kinds of reset in an ActionInfo.
pub(super) fn kinds_of_action_info(info: &Value) -> Option<Vec<String>> {
    let parameters = info.get("Parameters")?.as_array()?;
    let reset = parameters.iter().find(|parameter| text(parameter, "Name") == Some("ResetType"))?;
    texts(reset.get("AllowableValues")?)
}

/// The members of a collection, at most that many.
pub(super) fn members(collection: &Value, target: &Target, most: usize) -> Option<Vec<String>> {
    let members = collection.get("Members")?.as_array()?;
    Some(members.iter().take(most).filter_map(|member| link(member, target)).collect())
}

/// How far a task is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Running,
    Done,
    Failed(String),
}

/// What the monitor of a task says. An answer that is no task is the answer to what was asked.
pub(super) fn progress(answer: &Answer) -> Progress {
    if answer.status().as_u16() == 202 {
        return Progress::Running;
    }
    let value = json(answer).unwrap_or(Value::Null);
    match text(&value, "TaskState") {
        Some("New" | "Starting" | "Running" | "Pending" | "Stopping" | "Service") => Progress::Running,
        Some("Killed" | "Exception" | "Cancelled" | "Cancelling") => Progress::Failed(detail(answer)),
        _ => Progress::Done,
    }
}

/// Whether the controller keeps settings for the next start elsewhere.
pub(super) fn wants_future(answer: &Answer) -> bool {
    says(answer, AMI_FUTURE_STATE)
}

/// Whether it wants to be told, or told otherwise, which version is to be changed.
pub(super) fn wants_etag(answer: &Answer) -> bool {
    let status = answer.status();
    matches!(status.as_u16(), 412 | 428) || (status.is_client_error() && says(answer, AMI_PRECONDITION))
}

/// Whether it wants user and password with each request (RFC 9110, 11.6.1).
pub(super) fn wants_basic(answer: &Answer) -> bool {
    let wanted = answer.headers().get_all(http::header::WWW_AUTHENTICATE);
    wanted
        .iter()
        .any(|scheme| scheme.as_bytes().get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"basic")))
}

fn says(answer: &Answer, word: &str) -> bool {
    answer.body().windows(word.len()).any(|part| part == word.as_bytes())
}

/// Why it refused: the first message that says something, or the beginning of whatever came.
pub(super) fn detail(answer: &Answer) -> String {
    let Some(value) = json(answer) else { return one_line(answer.body()) };
    let error = value.get("error").unwrap_or(&value);
    let messages = [error.get("@Message.ExtendedInfo"), error.get("Messages")];
    let message = messages
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
        .find_map(|message| text(message, "Message").filter(|text| !text.trim().is_empty()));
    let identity = || {
        let first = messages.into_iter().flatten().find_map(|messages| messages.get(0));
        first.and_then(|message| text(message, "MessageId"))
    };
    match message.or_else(|| text(error, "message")).or_else(identity) {
        Some(text) => one_line(text.as_bytes()),
        None => one_line(answer.body()),
    }
}

/// The body, when it is JSON.
pub(super) fn json(answer: &Answer) -> Option<Value> {
    serde_json::from_slice(answer.body()).ok()
}

/// A link to another resource.
pub(super) fn link(value: &Value, target: &Target) -> Option<String> {
    target.path_of(text(value, "@odata.id")?)
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let texts: Vec<String> = value.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (!texts.is_empty()).then_some(texts)
}

fn etag(answer: &Answer, value: &Value) -> Option<String> {
    let header = answer.headers().get(http::header::ETAG).and_then(|etag| etag.to_str().ok());
    header.or_else(|| text(value, "@odata.etag")).map(str::to_owned)
}
