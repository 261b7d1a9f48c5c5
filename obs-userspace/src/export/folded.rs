//! Folded stacks: `process;root;…;leaf COUNT`, one line per different stack.

use std::io::{self, Write};

use super::{check::Checked, stacks::Stacks};

/// Writes the stacks in the order of their names from the root on. Stacks that count nothing have no line.
pub(super) fn write(checked: &Checked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let stacks = Stacks::new(checked);
    for (sample, count) in stacks.merged().filter(|(_, count)| *count > 0) {
        for (depth, name) in stacks.names.path(sample).enumerate() {
            if depth > 0 {
                out.write_all(b";")?;
            }
            out.write_all(stacks.names.text(name).as_bytes())?;
        }
        writeln!(out, " {count}")?;
    }
    Ok(())
}
