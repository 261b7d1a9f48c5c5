//! Which maps of an object none of its programs uses.
//!
//! The modules that objects share declare their maps, and the linker keeps every one of them in every object. An unwinder's maps take
//! 30 MB; an object that walks no stack is not to pay for them. aya creates all, so these are created as small as can be.

use aya_obj::generated::bpf_map_type;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind};
use std::collections::HashSet;

/// The section in which maps are declared.
const MAPS: &str = "maps";
/// Entries of a map that nobody uses.
const ENTRIES_MIN: u32 = 1;
/// Bytes of a ring buffer that nobody uses: a page.
const RING_BYTES_MIN: u32 = 4_096;

/// The maps that no program refers to, and with how many entries each is to be created. None if the object cannot be read: then the
/// loader says what is wrong with it.
pub(crate) fn maps(bytes: &[u8]) -> Vec<(String, u32)> {
    find(bytes).unwrap_or_default()
}

fn find(bytes: &[u8]) -> Option<Vec<(String, u32)>> {
    let file = object::File::parse(bytes).ok()?;
    let declared = file.section_by_name(MAPS)?;
    let definitions = declared.data().ok()?;
    let used: HashSet<_> = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .flat_map(|section| section.relocations())
        .filter_map(|(_, relocation)| match relocation.target() {
            RelocationTarget::Symbol(index) => Some(index),
            _ => None,
        })
        .collect();
    let symbols = file.symbols().filter(|symbol| symbol.section_index() == Some(declared.index()));
    let unused = symbols.filter(|symbol| !used.contains(&symbol.index())).filter_map(|symbol| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        // A definition begins with the map's type.
        let begin = usize::try_from(symbol.address()).ok()?;
        let kind = u32::from_ne_bytes(definitions.get(begin..begin + 4)?.try_into().ok()?);
        let is_ring = kind == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
        Some((name.to_owned(), if is_ring { RING_BYTES_MIN } else { ENTRIES_MIN }))
    });
    Some(unused.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_has_none() {
        assert_eq!(maps(b""), []);
        assert_eq!(maps(&[0x7f; 200]), []);
    }
}
