//! The arrows between the crates, and the purity of the pure ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Which crates of ours a crate may use. A crate that is not named here has no arrow.
const ARROWS: &[(&str, &[&str])] = &[
    ("netboot", &[]),
    ("netboot-assets", &["netboot"]),
    ("netboot-link", &["netboot", "netboot-assets"]),
    ("cosi-wire", &[]),
    ("cosi", &["cosi-wire"]),
    ("provider", &[]),
    ("siderolink", &[]),
    ("hub", &["agent-wire", "cosi", "cosi-wire", "omni-auth", "provider", "siderolink"]),
    ("omni-auth", &[]),
    ("omni-link", &["agent-wire", "cosi", "cosi-wire", "omni-auth", "power", "provider"]),
    ("power", &[]),
    ("agent-wire", &[]),
    ("bootlace-agent", &["agent-wire", "cosi-wire", "siderolink"]),
    ("bootlace-image", &[]),
    ("bootlace-box", &["bootlace-agent", "bootlace-image"]),
    ("standin-os", &["agent-wire", "bootlace-agent", "siderolink"]),
    (
        "bootlace",
        &[
            "agent-wire",
            "cosi",
            "cosi-wire",
            "hub",
            "netboot",
            "netboot-assets",
            "netboot-link",
            "omni-auth",
            "omni-link",
            "power",
            "provider",
        ],
    ),
    // The bed drives the real binaries; in its own process it uses only what has no I/O.
    ("testbed", &["agent-wire", "netboot", "provider"]),
    // The simulator is the other end of the wire: the pure machines only.
    ("bootlace-bench", &["netboot"]),
];

/// Everything that may be below the pure crates, proc macros and their parts aside. A crate is added here by a
/// person who has seen that the pure crate uses nothing of it that reads a clock, a file, a socket or a random source.
const BELOW_THE_PURE: &[(&str, &[&str])] = &[
    (
        "netboot",
        &[
            "bytes",
            "serde",
            "serde_core",
            "thiserror",
            "uuid",
            // Below uuid, for version 4 UUIDs, which other crates of the workspace draw; `new_v4` is forbidden below.
            "cfg-if",
            "getrandom",
            "libc",
            "rand_core",
        ],
    ),
    (
        "provider",
        &[
            "bytes",
            "itoa",
            "memchr",
            "prost",
            "prost-types",
            "serde",
            "serde_core",
            "serde_json",
            "thiserror",
            "zmij",
            // The id of a schematic is a hash. Of the machine it asks only which instructions the processor has.
            "block-buffer",
            "cfg-if",
            "cpufeatures",
            "crypto-common",
            "digest",
            "hybrid-array",
            "sha2",
            "typenum",
            // The operator's machine configuration is YAML: text in, values out. Its maps are hashed with a seed of
            // chance and kept in the order of the text, so that chance shows nowhere.
            "equivalent",
            "hashbrown",
            "indexmap",
            "ryu",
            "serde_yaml_ng",
            "unsafe-libyaml",
        ],
    ),
];

/// Words that no source of a pure crate may contain outside its tests.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stdin",
    "std::net::Tcp",
    "std::net::ToSocketAddrs",
    "std::net::Udp",
    "std::os::",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "Instant::now",
    "SystemTime::now",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "getrandom",
    "new_v4",
    "println!",
    "eprintln!",
    "rand::",
    "tokio",
    "unsafe ",
];

const PURE: [&str; 2] = ["netboot", "provider"];

/// Runtimes and I/O crates; named for a clear message, the lists above catch more.
const NEVER_BELOW_THE_PURE: &[&str] =
    &["async-std", "hyper", "mio", "nix", "rustix", "smol", "socket2", "tokio", "tonic"];

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(vec![
            "--offline".into(),
            "--filter-platform".into(),
            "x86_64-unknown-linux-gnu".into(),
        ])
        .exec()
        .expect("cargo metadata works")
}

/// Folders by package name.
fn folders(metadata: &Metadata) -> BTreeMap<String, PathBuf> {
    let folder = |package: &cargo_metadata::Package| {
        (package.name.to_string(), package.manifest_path.parent().expect("a file has a folder").into())
    };
    metadata.workspace_packages().into_iter().map(folder).collect()
}

#[test]
fn the_arrows_between_our_crates_are_the_ones_we_drew() {
    let metadata = metadata();
    let ours: BTreeSet<String> = folders(&metadata).into_keys().collect();
    let drawn: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(allowed) = drawn.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the list of arrows", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            // Tests may cross: a contract test needs both ends.
            let arrow = dependency.kind != DependencyKind::Development && ours.contains(&dependency.name);
            if arrow && !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} must not depend on {}", package.name, dependency.name));
            }
        }
    }
    let gone =
        drawn.keys().filter(|name| !ours.contains(**name)).map(|name| format!("there is no crate {name}"));
    wrong.extend(gone);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All crates below `root` by normal dependencies, without what runs in the compiler only.
fn below(metadata: &Metadata, root: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("metadata resolves");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let is_macro = |id: &PackageId| metadata[id].targets.iter().any(cargo_metadata::Target::is_proc_macro);
    let root = metadata.workspace_packages().into_iter().find(|package| package.name == root);
    let mut open = vec![&root.expect("the crate is in the workspace").id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && !is_macro(&dependency.pkg) && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn below_a_pure_crate_is_only_what_was_looked_at() {
    let metadata = metadata();
    for (pure, allowed) in BELOW_THE_PURE {
        let below = below(&metadata, pure);
        let never: Vec<_> = NEVER_BELOW_THE_PURE.iter().filter(|name| below.contains(**name)).collect();
        assert!(never.is_empty(), "{pure} pulls in I/O: {never:?}");
        let unknown: Vec<_> = below.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "{pure} pulls in crates nobody looked at: {unknown:?}");
        let ours: BTreeSet<String> = folders(&metadata).into_keys().collect();
        assert!(below.is_disjoint(&ours), "{pure} depends on another crate of ours");
    }
}

#[test]
fn the_source_of_a_pure_crate_touches_no_clock_no_file_no_socket_and_no_chance() {
    let folders = folders(&metadata());
    let mut found = Vec::new();
    for pure in PURE {
        let sources = sources(&folders[pure].join("src"));
        assert!(!sources.is_empty(), "{pure} has sources");
        for path in sources {
            let text = fs::read_to_string(&path).expect("a source is readable");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let words = IMPURE.iter().filter(|word| code.contains(**word));
                found.extend(words.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The Rust files below a folder without those of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder is readable").flatten() {
        let path = entry.path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            files.push(path);
        }
    }
    files
}
