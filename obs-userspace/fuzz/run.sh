#!/bin/sh
# Builds the fuzz targets with the stable compiler, fills their corpora with seeds, and runs each for so many seconds.
# Usage: obs-userspace/fuzz/run.sh SECONDS [TARGET…]
# Needs cargo-fuzz and a C++ compiler. RUSTC_BOOTSTRAP=1 lets a stable compiler take the flags of the sanitizers.
set -eu
cd "$(dirname "$0")"
[ $# -gt 0 ] || { echo "usage: $0 SECONDS [TARGET…]" >&2; exit 2; }
seconds=$1
shift
[ $# -gt 0 ] || set -- frames journal block
export RUSTC_BOOTSTRAP=1
# What targets write, they write to memory.
OBS_FUZZ_DIR=$(mktemp -d /dev/shm/obs-fuzz-XXXXXX)
export OBS_FUZZ_DIR
trap 'rm -rf "$OBS_FUZZ_DIR"' EXIT
cargo run --quiet --bin seeds
for target; do
    cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
done
