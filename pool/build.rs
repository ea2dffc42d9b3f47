//! Compiles the Open Inference Protocol's messages, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/open_inference.proto");
    let messages = protox::compile(["proto/open_inference.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        // Raw contents stay slices of what was received.
        .bytes("ModelInferRequest.raw_input_contents")
        .bytes("ModelInferResponse.raw_output_contents")
        .compile_fds(messages)?;
    Ok(())
}
