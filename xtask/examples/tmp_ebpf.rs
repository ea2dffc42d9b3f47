#![allow(unused, missing_docs)]
#[path = "../src/ebpf/mod.rs"]
mod ebpf;
#[path = "../src/packages.rs"]
mod packages;
#[path = "../src/workspace.rs"]
mod workspace;
fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("build") => ebpf::build(ebpf::Options { check: false }),
        Some("check") => ebpf::check(),
        _ => ebpf::bench_probes(std::env::args().nth(2).map_or(5, |n| n.parse().unwrap())).map(|b| println!("{b:?}")),
    }
}
