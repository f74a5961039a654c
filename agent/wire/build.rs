//! Compiles the protobuf files beside it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "provision.proto",
        "events.proto",
        "machine.proto",
        "agent.proto",
        "status.proto",
        "tunnel.proto",
        "talos_hardware.proto",
        "talos_block.proto",
        "talos_common.proto",
        "talos_network.proto",
        "talos_runtime.proto",
        "storage.proto",
        "cosi_meta.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::SmallBuffers")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
