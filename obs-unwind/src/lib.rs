//! Turns an ELF file's call frame information into the compact unwind rows that the kernel side reads, and unwinds
//! over the same rows in user space.
//!
//! [`ElfImage::parse`] reads what a loader has to know of a file: where its executable segments lie, its build id.
//! [`UnwindTable::build`] makes the table from `.eh_frame`, `.debug_frame`, Go's own function table and what is known
//! of stubs that compilers and linkers describe nowhere. [`unwind()`] walks a stack over any number of such tables;
//! memory is read through a closure, so that a test's stack is an array.
//!
//! A file is hostile until it is parsed: each walk over it has a bound in [`limits`], and what breaks a bound is a
//! [`BuildError`]. A broken function description costs that function its rows, not the file its table.

mod builder;
mod cfi;
mod code;
mod elf;
mod error;
mod expression;
mod fdes;
mod gaps;
mod go;
pub mod limits;
mod table;
mod unwind;

pub use builder::Notes;
pub use elf::{BuildId, ElfImage, ExecutableSegment, Machine, load_bias};
pub use error::{BuildError, ElfError};
pub use table::{UnwindTable, find};
pub use unwind::{Found, Frame, Registers, State, Step, Walk, step, unwind};
