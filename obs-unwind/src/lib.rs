//! Turns ELF call frame information into compact unwind rows, and unwinds over them.
