//! Compiles the `.proto` files without protoc, and writes their descriptors for gRPC reflection.

#[cfg_attr(not(feature = "wire"), expect(clippy::unnecessary_wraps, reason = "fails only with the feature"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "wire")]
    wire::compile()?;
    Ok(())
}

#[cfg(feature = "wire")]
mod wire {
    use std::path::PathBuf;

    use prost::Message as _;

    const FILES: &[&str] = &[
        "quorate/v1/common.proto",
        "quorate/v1/kv.proto",
        "quorate/v1/batch.proto",
        "quorate/v1/watch.proto",
        "quorate/v1/lease.proto",
        "quorate/v1/lock.proto",
        "quorate/v1/election.proto",
        "quorate/v1/discovery.proto",
        "quorate/v1/cluster.proto",
        "quorate/v1/admin.proto",
        "quorate/peer/v1/peer.proto",
        "etcd/kv.proto",
        "etcd/auth.proto",
        "etcd/rpc.proto",
        "etcd/lock.proto",
        "etcd/election.proto",
    ];

    pub fn compile() -> Result<(), Box<dyn std::error::Error>> {
        println!("cargo:rerun-if-changed=quorate");
        println!("cargo:rerun-if-changed=etcd");
        let descriptors = protox::compile(FILES, ["."])?;
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
        // `bytes::Bytes` for bytes fields: decoding a value then shares the received buffer.
        tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
        Ok(())
    }
}
