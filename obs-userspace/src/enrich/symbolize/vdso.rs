//! The kernel's virtual shared object: every 64-bit process has the same one, so ours serves for all.

use std::{fs::File, os::unix::fs::FileExt};

use crate::enrich::process::Procfs;

/// Most bytes of a virtual shared object; it has two or three pages.
const VDSO_BYTES_MAX: u64 = 256 << 10;

/// The bytes of our own one; `None` if there is none.
#[must_use]
pub fn image() -> Option<Vec<u8>> {
    let regions = Procfs::new().executable_mappings(std::process::id()).ok()?;
    let region = regions.iter().find(|region| &*region.path == "[vdso]")?;
    let bytes = region.end.checked_sub(region.start).filter(|bytes| *bytes <= VDSO_BYTES_MAX)?;
    let mut image = vec![0; usize::try_from(bytes).ok()?];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut image, region.start).ok()?;
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::super::{elf::ElfHeaders, symbols};
    use super::*;

    #[test]
    fn it_has_the_clock() {
        let image = image().unwrap();
        let headers = ElfHeaders::read(image.as_slice()).unwrap();
        let text = headers.section(".text").unwrap();
        let addresses: Vec<u64> = (text.address..text.address + text.size).collect();
        let found = symbols::find(image.as_slice(), &headers, &addresses).unwrap();
        let has = |name: &str| found.iter().flatten().any(|symbol| symbol.name.contains(name));
        assert!(has("clock_gettime"));
        assert!(!has("malloc"));
    }
}
