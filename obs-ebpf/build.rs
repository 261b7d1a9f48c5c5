//! Lets the BPF programs be looked at on the host (clippy, rustdoc): there, the machine that they are for is the host.
//! When they are built for BPF, whoever builds them says which machine it is.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if target != "bpf" {
        println!("cargo::rustc-cfg=bpf_target_arch=\"{target}\"");
    }
}
