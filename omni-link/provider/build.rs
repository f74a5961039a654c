//! Compiles the resource messages with protox: no protoc is needed.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

const PROTOS: [&str; 9] = [
    "proto/account.proto",
    "proto/infra.proto",
    "proto/machine.proto",
    "proto/machine_status.proto",
    "proto/request.proto",
    "proto/siderolink.proto",
    "proto/system.proto",
    "proto/private.proto",
    "proto/inventory.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let set = protox::compile(PROTOS, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.message_attribute(".", "#[derive(serde::Serialize)]");
    config.message_attribute(".", "#[allow(missing_docs, reason = \"the proto file documents them\")]");
    config.enum_attribute(".", "#[allow(missing_docs, reason = \"the proto file documents them\")]");
    yaml_names(&set, &mut config);
    config.compile_fds(set)?;
    Ok(())
}

/// Field names in YAML are those that Omni renders: the Go struct's names in lower case.
fn yaml_names(set: &FileDescriptorSet, config: &mut prost_build::Config) {
    for file in &set.file {
        if file.package() == "google.protobuf" {
            continue;
        }
        for message in &file.message_type {
            yaml_names_of(&format!(".{}", file.package()), message, config);
        }
    }
}

fn yaml_names_of(parent: &str, message: &DescriptorProto, config: &mut prost_build::Config) {
    let path = format!("{parent}.{}", message.name());
    for field in &message.field {
        let mut attribute = format!("rename = \"{}\"", field.name().replace('_', ""));
        match (field.r#type(), field.type_name()) {
            (Type::Message, ".google.protobuf.Timestamp") => {
                attribute.push_str(", serialize_with = \"crate::yaml::timestamp\"");
            }
            (Type::Enum, name) if field.label() != Label::Repeated => {
                let helper = enum_path(name);
                attribute
                    .push_str(&format!(", serialize_with = \"crate::yaml::name::<_, crate::{helper}>\""));
            }
            _ => {}
        }
        config.field_attribute(format!("{path}.{}", field.name()), format!("#[serde({attribute})]"));
    }
    for nested in &message.nested_type {
        yaml_names_of(&path, nested, config);
    }
}

/// The Rust path of an enum: prost puts nested types into a module named after their parent.
fn enum_path(name: &str) -> String {
    let name = name.trim_start_matches('.');
    let (package, rest) = match name.strip_prefix("specs.") {
        Some(rest) => ("specs", rest),
        None => ("private", name.rsplit_once('.').map_or(name, |(_, last)| last)),
    };
    match rest.split_once('.') {
        Some((parent, nested)) => format!("{package}::{}::{nested}", snake(parent)),
        None => format!("{package}::{rest}"),
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
