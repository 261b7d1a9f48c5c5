//! What must hold of any image that a table can be built of.

use obs_common::unwind_row::{NO_INFORMATION, PAGE_BITS, PAGE_MASK, row_pc, row_rule};
use obs_unwind::{ElfImage, UnwindTable};

/// Builds the table of an image and checks what its readers rely on.
pub fn image(data: &[u8]) {
    let Ok(image) = ElfImage::parse(data) else { return };
    for segment in image.executable_segments() {
        assert!(segment.bytes > 0 && segment.address.checked_add(segment.bytes).is_some());
        let _ = image.load_bias(segment.address & !0xfff, segment.file_offset & !0xfff);
    }
    let Ok((table, notes)) = UnwindTable::build(&image) else { return };
    let (pages, rows, rules) = (table.pages(), table.rows(), table.rules());
    // Memory follows from what was read, and from the pages that a segment spans.
    let read = notes.rows_read + 4 * (notes.functions + notes.go_functions + notes.stubs_recognised) + data.len() as u64;
    assert!(rows.len() as u64 <= 8 * read + 64, "{} rows from {read}", rows.len());
    assert_eq!(pages.first(), Some(&0));
    assert_eq!(pages.last().map(|last| *last as usize), Some(rows.len()));
    assert!(pages.is_sorted());
    assert_eq!(rows.first().map(|row| row_pc(*row)), Some(0));
    assert_eq!(rules.first(), Some(&Default::default()));
    assert!(rows.iter().all(|row| (row_rule(*row) as usize) < rules.len()));
    assert!(rows.windows(2).all(|pair| row_rule(pair[0]) != row_rule(pair[1])), "rows that were not merged");
    for (page, bounds) in pages.windows(2).enumerate() {
        let in_page = &rows[bounds[0] as usize..bounds[1] as usize];
        assert!(in_page.is_sorted_by_key(|row| row_pc(*row)));
        assert!(in_page.windows(2).all(|pair| row_pc(pair[0]) < row_pc(pair[1])));
        let address = (table.first_page() + page as u64) << PAGE_BITS;
        let found = table.find(address | u64::from(PAGE_MASK)).expect("a page of the table has a rule everywhere");
        let last = rows[bounds[1] as usize - 1];
        assert_eq!(found, rules[row_rule(last) as usize]);
    }
    // What lies outside of executable segments has no information.
    for segment in image.executable_segments() {
        let end = segment.address + segment.bytes;
        let covered = image.executable_segments().iter().any(|s| end >= s.address && end - s.address < s.bytes);
        if !covered {
            assert_eq!(table.find(end).unwrap_or_default(), rules[NO_INFORMATION as usize]);
        }
    }
}
