//! The lines of a unit, in blocks of rows.

use super::{
    BuildError,
    builder::Builder,
    debug::{Debug, Unit},
    files::Files,
    format::{GAP_FILE, fold, put},
};

/// Most rows of a block.
const ROWS_PER_BLOCK: usize = 128;

/// Most bytes between two functions whose rows are in one block.
const GAP_BYTES_MAX: u64 = 64;

/// From an address on: file as the unit's list counts (0: unknown), and line (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    address: u64,
    file: u32,
    line: u32,
}

/// Rows that are not written yet.
#[derive(Debug, Default)]
struct Block {
    rows: Vec<Row>,
    end: u64,
}

/// Writes the lines of a unit.
pub(super) fn write<'a>(
    builder: &mut Builder,
    debug: &Debug<'a>,
    unit: &Unit<'a>,
    files: &mut Files,
) -> Result<(), BuildError> {
    let Some(program) = unit.line_program.clone() else { return Ok(()) };
    let mut rows = program.rows();
    let mut block = Block::default();
    // The last row of a sequence, whose end is not known yet; and where its code ends.
    let mut last: Option<Row> = None;
    let mut code_end = None;
    let mut is_begun = false;
    // Ends: each turn reads at least one byte of the program.
    while let Some((_, row)) = rows.next_row()? {
        debug.spend(1)?;
        let address = row.address();
        let is_end = row.end_sequence();
        if !std::mem::replace(&mut is_begun, !is_end) {
            // Lines of what the linker has dropped begin outside of all code.
            (last, code_end) = (None, builder.code_end(address));
        }
        let Some(code_end) = code_end else { continue };
        if let Some(known) = last
            && address > known.address
        {
            block.add(builder, files, known, address.min(code_end))?;
        }
        if is_end {
            last = None;
            continue;
        }
        // Rows that go back are damaged, or too clever for us.
        if last.is_some_and(|known| address < known.address) {
            continue;
        }
        let line = row.line().map_or(0, |line| u32::try_from(line.get()).unwrap_or(0));
        let file = files.number(builder, debug, unit, row.file_index())?;
        last = Some(Row { address, file, line });
    }
    block.write(builder, files)
}

impl Block {
    /// Adds a row that is true up to `end`.
    fn add(&mut self, builder: &mut Builder, files: &Files, row: Row, end: u64) -> Result<(), BuildError> {
        if row.address >= end {
            return Ok(());
        }
        if let Some(last) = self.rows.last().copied() {
            if row.address == self.end && (last.file, last.line) == (row.file, row.line) {
                self.end = end;
                return Ok(());
            }
            let is_near = row.address >= self.end && row.address - self.end <= GAP_BYTES_MAX;
            if self.rows.len() + 1 >= ROWS_PER_BLOCK || !is_near {
                self.write(builder, files)?;
            } else if row.address > self.end {
                self.rows.push(Row { address: self.end, file: GAP_FILE, line: 0 });
            }
        }
        self.rows.push(row);
        self.end = end;
        Ok(())
    }

    fn write(&mut self, builder: &mut Builder, files: &Files) -> Result<(), BuildError> {
        let Some(first) = self.rows.first() else { return Ok(()) };
        let start = first.address;
        let mut bytes = Vec::with_capacity(8 + self.rows.len() * 4);
        put(&mut bytes, files.unit_number());
        put(&mut bytes, self.rows.len() as u64);
        let mut previous = Row { address: start, file: 0, line: 0 };
        for row in &self.rows {
            put(&mut bytes, row.address - previous.address);
            // The lowest bit says whether another file follows.
            let is_other = row.file != previous.file;
            let difference = i64::from(row.line) - i64::from(previous.line);
            put(&mut bytes, fold(difference) << 1 | u64::from(is_other));
            if is_other {
                put(&mut bytes, row.file.into());
            }
            previous = *row;
        }
        let block = builder.append(&bytes)?;
        builder.line_block(start, self.end, block)?;
        self.rows.clear();
        Ok(())
    }
}
