use super::*;

fn layer(text: &str) -> Layer {
    let mut tree = Rootfs::new();
    tree.file("/hello", 0o644, text).unwrap();
    Layer::new("hello", &tree).unwrap()
}

fn images() -> Vec<Image> {
    let image = |arch, text| Image { arch, layers: vec![layer("base"), layer(text)], config: json!({}) };
    vec![image(Arch::Amd64, "one"), image(Arch::Arm64, "two")]
}

fn file(tree: &Rootfs, path: &str) -> Vec<u8> {
    match tree.nodes().find(|(name, _)| *name == path) {
        Some((_, crate::rootfs::Node::File { data, .. })) => data.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

fn blob(tree: &Rootfs, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    let bytes = file(tree, &format!("blobs/{}", digest.replace(':', "/")));
    assert_eq!(super::digest(&bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_tag_is_an_index_of_all_architectures_and_each_has_a_name_of_its_own() {
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let layout = Layout::build(&images(), "v1", &labels, Naming::MultiArch, 86_400).unwrap();
    let tree = layout.tree().unwrap();
    let top = parsed(&file(&tree, "index.json"));
    let names: Vec<&Value> =
        top["manifests"].as_array().unwrap().iter().map(|entry| &entry["annotations"][REF_NAME]).collect();
    assert_eq!(names, ["v1", "v1-amd64", "v1-arm64"]);
    let index = parsed(&blob(&tree, &top["manifests"][0]));
    assert_eq!(index["manifests"][1]["platform"], json!({ "architecture": "arm64", "os": "linux" }));
    let manifest = parsed(&blob(&tree, &index["manifests"][1]));
    let config = parsed(&blob(&tree, &manifest["config"]));
    assert_eq!(config["config"]["Labels"]["a"], "b");
    assert_eq!(config["created"], "1970-01-02T00:00:00Z");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(blob(&tree, layer)[..4], [0x1f, 0x8b, 8, 0], "gzip without a name");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_a_layer_is_kept_once() {
    let build = || Layout::build(&images(), "v1", &BTreeMap::new(), Naming::MultiArch, 0).unwrap();
    let tree = build().tree().unwrap();
    assert_eq!(tree, build().tree().unwrap());
    // Two configurations, two manifests, an index, three layers.
    assert_eq!(tree.nodes().filter(|(path, _)| path.starts_with("blobs/sha256/")).count(), 8);
}

#[test]
fn talos_gets_one_image_directly_in_the_index() {
    let one = &images()[..1];
    let layout = Layout::build(one, "v1", &BTreeMap::new(), Naming::Single, 0).unwrap();
    let top = parsed(&file(&layout.tree().unwrap(), "index.json"));
    assert_eq!(top["manifests"][0]["mediaType"], MANIFEST);
    assert_eq!(top["manifests"][0]["platform"]["architecture"], "amd64");
    assert!(Layout::build(&images(), "v1", &BTreeMap::new(), Naming::Single, 0).is_err());
}

#[test]
fn a_bad_tag_is_refused() {
    for tag in ["", "-x", "a b", "a/b", &"x".repeat(101)] {
        assert!(Layout::build(&images(), tag, &BTreeMap::new(), Naming::MultiArch, 0).is_err(), "{tag}");
    }
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("home");
    fs::create_dir(&output).unwrap();
    let layout = Layout::build(&images(), "v1", &BTreeMap::new(), Naming::MultiArch, 0).unwrap();
    write(&layout, &output).unwrap();
    fs::write(output.join("blobs/stale"), b"").unwrap();
    write(&layout, &output).unwrap();
    assert!(!output.join("blobs/stale").exists(), "what was of an earlier build is gone");
    fs::remove_file(output.join(MARK)).unwrap();
    assert!(format!("{:#}", write(&layout, &output).unwrap_err()).contains("none of ours"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn times_are_written_as_rfc_3339() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_790_000_000, "2026-09-21T14:13:20Z"),
    ] {
        assert_eq!(timestamp(seconds), text);
    }
}
