//! Schematics and images for providers that ask Omni for them.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use omni_auth::Role;
use ring::digest::{SHA256, digest};
use tonic::{Request, Response, Status};

use super::{Management, api, role};
use crate::image_factory::{FactoryUrl, ImageFactory, SchematicError};
use crate::limits::{MAX_ASSET_NAME, MAX_SCHEMATIC};
use api::boot_asset_url_request::BootAssetKind;

/// What a provider gets that does not say which Talos it means: the version that this hub was tested with.
const DEFAULT_TALOS_VERSION: &str = "1.13.7";
/// Who may have images made.
const ROLES: [Role; 3] = [Role::InfraProvider, Role::Operator, Role::Admin];

/// Has the factory make a schematic.
pub(super) async fn create_schematic(
    service: &Management,
    request: Request<api::CreateSchematicFromRawRequest>,
) -> Result<Response<api::CreateSchematicResponse>, Status> {
    allowed(&request)?;
    let raw = request.into_inner().raw_schematic;
    if raw.len() > MAX_SCHEMATIC {
        return Err(Status::invalid_argument(format!("the schematic is larger than {MAX_SCHEMATIC} bytes")));
    }
    let yaml = std::str::from_utf8(&raw)
        .map_err(|_| Status::invalid_argument("failed to unmarshal raw schematic: it is no text"))?;
    // Whether it is a schematic is for the factory to say; only what cannot be one is not sent there.
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(yaml)
        .map_err(|error| Status::invalid_argument(format!("failed to unmarshal raw schematic: {error}")))?;
    if !value.is_mapping() && !value.is_null() {
        return Err(Status::invalid_argument("failed to unmarshal raw schematic: it is no mapping"));
    }
    let schematic_id = factory(service)?.ensure_schematic(yaml).await.map_err(|error| match error {
        SchematicError::Refused(text) => Status::invalid_argument(text),
        SchematicError::Unavailable(text) => Status::unavailable(text),
    })?;
    Ok(Response::new(api::CreateSchematicResponse {
        schematic_id,
        ..api::CreateSchematicResponse::default()
    }))
}

/// Says where an image is.
pub(super) fn boot_asset(
    service: &Management,
    request: Request<api::BootAssetUrlRequest>,
) -> Result<Response<api::BootAssetUrlResponse>, Status> {
    allowed(&request)?;
    let factory = factory(service)?;
    locate(&request.into_inner(), factory.base_url(), factory.pxe_base_url()).map(Response::new)
}

fn allowed<T>(request: &Request<T>) -> Result<(), Status> {
    let role = role(request)?;
    if ROLES.contains(&role) {
        Ok(())
    } else {
        Err(Status::permission_denied(format!("role {role} may not have images made")))
    }
}

fn factory(service: &Management) -> Result<&dyn ImageFactory, Status> {
    let none = || Status::unavailable("this hub was started without an Image Factory");
    service.0.config.image_factory.as_deref().ok_or_else(none)
}

/// The image's place, as a function of what was asked and where the factory is.
fn locate(
    request: &api::BootAssetUrlRequest,
    base_url: &str,
    pxe_base_url: &str,
) -> Result<api::BootAssetUrlResponse, Status> {
    let file = file_name(request)?;
    let asked = match request.talos_version.as_str() {
        "" => DEFAULT_TALOS_VERSION,
        version => version,
    };
    let version = asked.trim_start_matches('v');
    if !is_version(version) {
        return Err(invalid(&format!("Talos version {asked:?} is no version like 1.13.7")));
    }
    if !is_segment(&request.schematic_id) {
        return Err(invalid(&format!("schematic id {:?} is not possible", request.schematic_id)));
    }
    let pxe = request.boot_asset_kind() == BootAssetKind::Pxe;
    let (base, directory) = if pxe { (pxe_base_url, "pxe") } else { (base_url, "image") };
    let url = FactoryUrl::parse(base)
        .ok_or_else(|| Status::internal("the Image Factory's URL of this hub is not usable"))?;
    let path = format!("{directory}/{}/v{version}/{file}", request.schematic_id);
    let key =
        [url.public().as_str(), directory, &request.schematic_id, &format!("v{version}"), &file].join("\0");
    let mut headers = HashMap::new();
    // Firmware that fetches a script sends no headers.
    let place = if pxe || request.standalone_url {
        url.standalone()
    } else {
        if let Some(credentials) = url.credentials() {
            headers.insert("Authorization".to_owned(), format!("Basic {}", STANDARD.encode(credentials)));
        }
        url.public()
    };
    Ok(api::BootAssetUrlResponse {
        url: format!("{place}/{path}"),
        headers,
        image_factory_host: url.host().to_owned(),
        storage_key: hex(digest(&SHA256, key.as_bytes()).as_ref()),
    })
}

/// What the factory calls the file.
fn file_name(request: &api::BootAssetUrlRequest) -> Result<String, Status> {
    let segment = |what: &str, text: &str| {
        if is_segment(text) { Ok(()) } else { Err(invalid(&format!("{what} {text:?} is not possible"))) }
    };
    segment("platform", &request.platform)?;
    segment("architecture", &request.architecture)?;
    let secure = if request.secure_boot { "-secureboot" } else { "" };
    let stem = format!("{}-{}{secure}", request.platform, request.architecture);
    match BootAssetKind::try_from(request.boot_asset_kind) {
        Ok(BootAssetKind::Pxe) => Ok(stem),
        Ok(BootAssetKind::Iso) => Ok(format!("{stem}.iso")),
        Ok(BootAssetKind::Disk) => {
            segment("disk format", &request.format)?;
            Ok(format!("{stem}.{}", request.format))
        }
        Ok(BootAssetKind::Unset) => Err(invalid("the kind is not set")),
        Err(_) => Err(invalid(&format!("kind {} is not known", request.boot_asset_kind))),
    }
}

fn invalid(text: &str) -> Status {
    Status::invalid_argument(format!("invalid boot asset request: {text}"))
}

/// Text that can be one part of a URL's path and leads nowhere else.
fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_ASSET_NAME && text.bytes().all(plain) && !matches!(text, "." | "..")
}

/// `1.13.7`, also with a part behind it.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let tail = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'));
    text.len() <= MAX_ASSET_NAME
        && tail
        && (1..=3).contains(&numbers.split('.').count())
        && numbers.split('.').all(number)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests;
