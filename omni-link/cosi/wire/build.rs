//! Compiles the protobuf files with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["cosi/resource/state.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".cosi.resource").compile_fds(files)?;
    Ok(())
}
