#!/bin/sh
# Fills the corpora of the fuzz targets from small ELF files of this machine. Seeds are not kept in the repository.
# Usage: obs-unwind/fuzz/seeds.sh [FOLDER…]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- /usr/bin /usr/lib
mkdir -p "$here/corpus/elf" "$here/corpus/eh_frame" "$here/corpus/unwind"
section=$(mktemp)
trap 'rm -f "$section"' EXIT
find "$@" -type f -size -33k -size +1k 2>/dev/null | sort | while read -r file; do
    [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
    name=$(sha1sum "$file" | cut -c 1-16)
    cp "$file" "$here/corpus/elf/$name"
    if objcopy -O binary --only-section=.eh_frame "$file" "$section" 2>/dev/null && [ -s "$section" ]; then
        { printf '\000\000'; cat "$section"; } > "$here/corpus/eh_frame/$name"
        { printf '\002\000'; cat "$section"; } > "$here/corpus/eh_frame/$name-debug"
    fi
done | head -n 400
head -c 1500 /dev/urandom > "$here/corpus/unwind/random"
echo "seeds: $(ls "$here/corpus/elf" | wc -l) images, $(ls "$here/corpus/eh_frame" | wc -l) sections"
