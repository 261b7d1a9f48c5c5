//! What holds where no call frame information does: Go's own function table, recognised code, or nothing.

use crate::code::{self, STUB_BYTES};
use crate::elf::ElfImage;
use crate::error::BuildError;
use crate::go::GoTable;
use crate::limits::{ENTRY_BYTES, ENTRY_GAP_BYTES_MAX, GAP_BYTES_SCANNED_MAX, PADDING_BYTES_MAX};
use crate::table::Assembly;
use obs_common::unwind_row::{CfaKind, Rule};

/// Fills the addresses between described functions.
pub(crate) struct Gaps<'e, 'a> {
    image: &'e ElfImage<'a>,
    go: Option<GoTable<'a>>,
    left_to_scan: u64,
    /// Gaps that were nothing but padding.
    pub(crate) padding: u64,
    /// Functions that Go's own table described.
    pub(crate) go_functions: u64,
    /// Trampolines and stubs that were recognised by their instructions.
    pub(crate) recognised: u64,
}

impl<'e, 'a> Gaps<'e, 'a> {
    pub(crate) fn new(image: &'e ElfImage<'a>) -> Self {
        let go = image.pclntab.and_then(|table| GoTable::parse(table.data, image.machine()));
        Self { image, go, left_to_scan: GAP_BYTES_SCANNED_MAX, padding: 0, go_functions: 0, recognised: 0 }
    }

    /// Whether gaps may hold information that was found elsewhere than in call frame information.
    pub(crate) fn has_information(&self) -> bool {
        self.go.is_some()
    }

    /// Fills `[start, end)`, which begins where a segment begins or information ended, and ends where a segment ends or
    /// information begins. It lies within one executable segment.
    pub(crate) fn fill(&mut self, start: u64, end: u64, table: &mut Assembly) -> Result<(), BuildError> {
        if start >= end {
            return Ok(());
        }
        table.push(start, Rule::default())?;
        if let Some(go) = &mut self.go {
            self.go_functions += go.fill(start, end, self.image, table)?;
        }
        if let Some(entry) = self.image.entry().filter(|entry| self.go.is_none() && (start..end).contains(entry)) {
            // The dynamic linker's start code, for one, is assembly that nobody described; nothing called it.
            table.push(entry, Rule { cfa_kind: CfaKind::End as u8, ..Rule::default() })?;
            let bytes = end - entry;
            return if bytes > ENTRY_GAP_BYTES_MAX { table.push(entry + ENTRY_BYTES, Rule::default()) } else { Ok(()) };
        }
        let Some(code) = self.image.code_at(start) else { return Ok(()) };
        let code = usize::try_from(end - start).ok().and_then(|bytes| code.get(..bytes)).unwrap_or(code);
        if code.len() as u64 <= PADDING_BYTES_MAX && code::is_padding(self.image.machine(), code) {
            self.padding += u64::from(table.close_gap(start));
            return Ok(());
        }
        if self.go.is_none() && code.len() as u64 <= self.left_to_scan {
            self.left_to_scan -= code.len() as u64;
            self.recognise(start, code, table)?;
        }
        Ok(())
    }

    fn recognise(&mut self, start: u64, code: &[u8], table: &mut Assembly) -> Result<(), BuildError> {
        let machine = self.image.machine();
        if self.image.stubs.iter().any(|stubs| stubs.contains(&start)) {
            let lead = (STUB_BYTES as u64 - start % STUB_BYTES as u64) % STUB_BYTES as u64;
            let (stubs, _) = code.get(lead as usize..).unwrap_or_default().as_chunks::<STUB_BYTES>();
            for (bytes, at) in stubs.iter().zip((start + lead..).step_by(STUB_BYTES)) {
                let inside = self.image.stubs.iter().any(|stubs| stubs.contains(&at));
                let rules = code::stub(machine, bytes).filter(|_| inside);
                self.recognised += u64::from(rules.is_some());
                for (offset, rule) in rules.unwrap_or_default() {
                    table.push(at + offset, rule)?;
                }
                table.push(at + STUB_BYTES as u64, Rule::default())?;
            }
        } else if let Some(offset) = code::find_signal_return(machine, code) {
            let bytes = code::signal_return(machine, &code[offset as usize..]).unwrap_or(0);
            let in_segment = self.image.code_at((start + offset).wrapping_sub(1)).is_some();
            table.push_trampoline(start + offset, code::SIGNAL_RULE, in_segment)?;
            table.push(start + offset + bytes, Rule::default())?;
            self.recognised += 1;
        }
        Ok(())
    }
}
