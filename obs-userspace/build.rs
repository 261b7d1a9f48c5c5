//! Builds the BPF objects.
fn main() {}
