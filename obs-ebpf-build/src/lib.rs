//! Finds a compiler for the BPF virtual machine and builds `obs-ebpf` with it.
