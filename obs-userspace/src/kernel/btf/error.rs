//! Why the kernel's types do not answer.

use std::path::PathBuf;

use super::{FILE_BYTES_MAX, PATH_VARIABLE, layout::MAGIC};

/// Why the kernel's types do not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error(
        "{why}; a kernel built without CONFIG_DEBUG_INFO_BTF does not publish its types: name a BTF file made for this very \
         kernel in {PATH_VARIABLE}"
    )]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("the kernel's types in {path} are larger than {FILE_BYTES_MAX} bytes: this is no BTF file of a kernel")]
    TooLarge {
        /// What was read.
        path: PathBuf,
    },
    /// The bytes are not BTF of this machine's byte order.
    #[error("not BTF: it begins with {found:#06x} rather than {MAGIC:#06x} (an ELF file? extract its section .BTF)")]
    WrongMagic {
        /// The first two bytes.
        found: u16,
    },
    /// The bytes contradict themselves.
    #[error("malformed BTF at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A type of a kind that this reader does not know, whose length is therefore unknown.
    #[error("BTF type {type_id} is of the unknown kind {kind}: the file is newer than this version of obs")]
    UnknownKind {
        /// The number of the type.
        type_id: u32,
        /// Its kind.
        kind: u32,
    },
    /// The kernel has no such type.
    #[error("this kernel has no structure {name}")]
    NoType {
        /// What was asked for.
        name: String,
    },
    /// The structure has no such field.
    #[error("this kernel's {structure} has no field {field}")]
    NoField {
        /// What was asked for.
        structure: String,
        /// The path that was asked for.
        field: String,
    },
    /// The field is narrower than a byte, or does not begin at one: it has no offset in bytes.
    #[error("{structure}.{field} is a bit field: it has no offset in bytes")]
    BitField {
        /// What was asked for.
        structure: String,
        /// The path that was asked for.
        field: String,
    },
    /// A path goes on after something that is not a structure held by value.
    #[error(
        "{structure}.{field}: the path goes on after a member that is {found}; ask for what it holds by its own name"
    )]
    NotByValue {
        /// What was asked for.
        structure: String,
        /// The path that was asked for.
        field: String,
        /// What the member is.
        found: &'static str,
    },
    /// Several structures share the name and disagree.
    #[error("this kernel has several structures named {structure} that disagree about {field}")]
    Ambiguous {
        /// What was asked for.
        structure: String,
        /// The path that was asked for, or `size`.
        field: String,
    },
}
