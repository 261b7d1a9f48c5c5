//! Reads where the running kernel keeps the fields of its structures.
//!
//! The BPF programs of obs know no offset of a kernel structure: each is looked up here, in the kernel's own type
//! information (BTF), and handed to the program as a constant when it is loaded. See
//! <https://docs.kernel.org/bpf/btf.html> for the format.
//!
//! **Boundary:** a parser of bytes. The file may be one that the user brought ([`PATH_VARIABLE`]), so every offset, count
//! and type number in it is doubted: nothing panics, and each loop has a bound named below.
//!
//! Cost: the file is read into memory (about 6 MB for a distribution's kernel) and freed when the [`Btf`] is dropped. One
//! pass finds where each type begins; names are indexed only for the kinds of type that somebody asks for.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::OnceLock,
};

mod error;
mod fields;
mod layout;
#[cfg(test)]
mod tests;

pub use self::error::BtfError;
use self::layout::{
    HEADER_BYTES, KIND_FUNC, KIND_STRUCT, KIND_TYPEDEF, KIND_UNION, MAGIC, Type, body_bytes, read_type, read_u32,
};

/// Where the kernel publishes its types.
pub const DEFAULT_PATH: &str = "/sys/kernel/btf/vmlinux";
/// The environment variable that names another file, for kernels built without BTF.
pub const PATH_VARIABLE: &str = "OBS_KERNEL_BTF";

/// Largest file that is read. Distribution kernels have 4 to 10 MB.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most types in a file: the kernel's own bound (`BTF_MAX_TYPE`).
pub const TYPES_MAX: usize = 0xf_ffff;
/// Longest name that is compared: the kernel's bound on symbol names (`KSYM_NAME_LEN`).
const NAME_BYTES_MAX: usize = 512;
/// Most structures of one name that are compared with one another.
const SAME_NAME_MAX: usize = 16;

/// Where a field is, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the structure.
    pub offset_bytes: u32,
    /// Bytes that the field takes (a whole array's, for an array). Kernels differ in this too.
    pub size_bytes: u32,
}

/// Where a field of a single bit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// Bytes from the start of the structure to the byte that holds it.
    pub offset_bytes: u32,
    /// The bit in that byte.
    pub mask: u8,
}

/// The kinds of type that are looked up by name.
#[derive(Clone, Copy)]
enum Named {
    /// Structures and unions.
    Composite,
    Function,
    Typedef,
}

impl Named {
    fn has(self, kind: u32) -> bool {
        match self {
            Self::Composite => kind == KIND_STRUCT || kind == KIND_UNION,
            Self::Function => kind == KIND_FUNC,
            Self::Typedef => kind == KIND_TYPEDEF,
        }
    }
}

/// (hash of the name, number of the type), sorted.
type NameIndex = Box<[(u32, u32)]>;

/// The types of a kernel.
pub struct Btf {
    data: Vec<u8>,
    strings_start: usize,
    strings_end: usize,
    /// Where each type begins; type 0 (`void`) has no bytes and stands as 0.
    starts: Vec<u32>,
    composites: OnceLock<NameIndex>,
    functions: OnceLock<NameIndex>,
    typedefs: OnceLock<NameIndex>,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Btf").field("bytes", &self.data.len()).field("types", &self.starts.len()).finish()
    }
}

/// The file to read: the one that [`PATH_VARIABLE`] names, else [`DEFAULT_PATH`].
#[must_use]
pub fn path() -> PathBuf {
    path_or_default(std::env::var_os(PATH_VARIABLE))
}

fn path_or_default(named: Option<OsString>) -> PathBuf {
    match named {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        Some(_) | None => PathBuf::from(DEFAULT_PATH),
    }
}

impl Btf {
    /// Reads the types of a kernel from a file; see [`path`] for which one.
    ///
    /// # Errors
    ///
    /// [`BtfError::Read`], [`BtfError::TooLarge`], and those of [`Btf::parse`].
    pub fn open(path: &Path) -> Result<Self, BtfError> {
        let failed = |why| BtfError::Read { path: path.to_owned(), why };
        let file = File::open(path).map_err(failed)?;
        let expected = file.metadata().map_err(failed)?.len().min(FILE_BYTES_MAX);
        // One byte more than expected lets the reader see the end of the file without growing the buffer.
        let mut data = Vec::with_capacity(usize::try_from(expected).unwrap_or(0).saturating_add(1));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 > FILE_BYTES_MAX {
            return Err(BtfError::TooLarge { path: path.to_owned() });
        }
        Self::parse(data)
    }

    /// Finds the types in the bytes of a BTF file.
    ///
    /// # Errors
    ///
    /// [`BtfError::WrongMagic`], [`BtfError::Malformed`] and [`BtfError::UnknownKind`].
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |offset, what| BtfError::Malformed { offset, what };
        let magic = data.first_chunk::<2>().ok_or(malformed(0, "shorter than its header"))?;
        let magic = u16::from_ne_bytes(*magic);
        if magic != MAGIC {
            return Err(BtfError::WrongMagic { found: magic });
        }
        let field = |offset| read_u32(&data, offset).map(|value| value as usize);
        let header_bytes = field(4)?;
        if header_bytes < HEADER_BYTES {
            return Err(malformed(4, "the header's length is too small"));
        }
        let section = |offset_at: usize| -> Result<(usize, usize), BtfError> {
            let start = field(offset_at)?.checked_add(header_bytes);
            let start = start.filter(|start| *start <= data.len());
            let start = start.ok_or(malformed(offset_at, "a section begins after the end"))?;
            let end = start.checked_add(field(offset_at + 4)?).filter(|end| *end <= data.len());
            Ok((start, end.ok_or(malformed(offset_at + 4, "a section ends after the end"))?))
        };
        let (types_start, types_end) = section(8)?;
        let (strings_start, strings_end) = section(16)?;
        // With a NUL at both ends every offset inside names a string that ends inside.
        let strings = &data[strings_start..strings_end];
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(malformed(strings_start, "the strings do not begin and end with a NUL"));
        }

        let mut btf = Self {
            starts: Vec::with_capacity(((types_end - types_start) / 24).min(TYPES_MAX)),
            data,
            strings_start,
            strings_end,
            composites: OnceLock::new(),
            functions: OnceLock::new(),
            typedefs: OnceLock::new(),
        };
        btf.starts.push(0);
        let mut position = types_start;
        while position < types_end {
            if btf.starts.len() > TYPES_MAX {
                return Err(malformed(position, "more types than the kernel allows"));
            }
            let start = u32::try_from(position).map_err(|_| malformed(position, "beyond 4 GiB"))?;
            let found = read_type(&btf.data, position)?;
            let type_id = btf.starts.len() as u32;
            let body_bytes =
                body_bytes(found.kind, found.count).ok_or(BtfError::UnknownKind { type_id, kind: found.kind })?;
            position = found.body + body_bytes;
            if position > types_end {
                return Err(malformed(start as usize, "a type ends after its section"));
            }
            btf.starts.push(start);
        }
        btf.starts.shrink_to_fit();
        Ok(btf)
    }

    /// Where a field is, and how large. `path` names a member, or members of members held by value, joined by dots;
    /// members of anonymous structures and unions are found by their own names, as in C.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`], [`BtfError::NoField`], [`BtfError::BitField`], [`BtfError::NotByValue`] (a path through a
    /// pointer or an array), [`BtfError::Ambiguous`], [`BtfError::Malformed`].
    pub fn field(&self, structure: &str, path: &str) -> Result<Field, BtfError> {
        self.agreed(structure, path, |type_id| self.field_of(type_id, structure, path))
    }

    /// Where a field is, in bytes from the start of the structure: [`Btf::field`] without the size.
    ///
    /// # Errors
    ///
    /// Those of [`Btf::field`].
    pub fn field_offset_bytes(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        self.field(structure, path).map(|field| field.offset_bytes)
    }

    /// Where a bit field is that is one bit wide.
    ///
    /// # Errors
    ///
    /// Those of [`Btf::field`]; [`BtfError::NoField`] if the field is no such bit.
    pub fn bit(&self, structure: &str, path: &str) -> Result<Bit, BtfError> {
        self.agreed(structure, path, |type_id| self.bit_of(type_id, structure, path))
    }

    /// The offsets of several (structure, path) pairs, in the order asked for.
    ///
    /// # Errors
    ///
    /// Those of [`Btf::field`], of the first pair that fails.
    pub fn resolve<const N: usize>(&self, fields: &[(&str, &str); N]) -> Result<[u32; N], BtfError> {
        let mut offsets = [0; N];
        for (offset, (structure, path)) in offsets.iter_mut().zip(fields) {
            *offset = self.field_offset_bytes(structure, path)?;
        }
        Ok(offsets)
    }

    /// The size in bytes of a structure, a union, or a typedef of anything that has a size.
    ///
    /// # Errors
    ///
    /// [`BtfError::NoType`], [`BtfError::Ambiguous`], [`BtfError::Malformed`].
    pub fn size_bytes(&self, structure: &str) -> Result<u32, BtfError> {
        self.agreed(structure, "size", |type_id| self.size_of_type(type_id))
    }

    /// Whether the kernel describes a function of this name (a condition for `fentry`, not a promise).
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.function_type_id(name).is_some()
    }

    /// The number of the type of the function of this name, as `attach_btf_id` wants it for `fentry` and iterators.
    #[must_use]
    pub fn function_type_id(&self, name: &str) -> Option<u32> {
        self.types_named(Named::Function, name).next()
    }

    /// Whether the kernel describes a tracepoint of this name (a condition for `tp_btf`, not a promise).
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoint_type_id(name).is_some()
    }

    /// The number of the type of the tracepoint of this name, as `attach_btf_id` wants it for `tp_btf`.
    #[must_use]
    pub fn tracepoint_type_id(&self, name: &str) -> Option<u32> {
        self.types_named(Named::Typedef, &format!("btf_trace_{name}")).next()
    }

    /// How many types there are.
    #[must_use]
    pub fn type_count(&self) -> usize {
        self.starts.len()
    }

    /// Asks every structure of a name (typedefs, if there is none) and insists that those that answer agree.
    fn agreed<T: PartialEq>(
        &self,
        structure: &str,
        field: &str,
        ask: impl Fn(u32) -> Result<T, BtfError>,
    ) -> Result<T, BtfError> {
        let mut candidates: Vec<u32> = self.types_named(Named::Composite, structure).take(SAME_NAME_MAX).collect();
        if candidates.is_empty() {
            candidates.extend(self.types_named(Named::Typedef, structure).take(SAME_NAME_MAX));
        }
        let mut answer = None;
        let mut refusal = None;
        for candidate in candidates {
            match (ask(candidate), &answer) {
                (Ok(found), None) => answer = Some(found),
                (Ok(found), Some(known)) if found == *known => {}
                (Ok(_), Some(_)) => {
                    return Err(BtfError::Ambiguous { structure: structure.to_owned(), field: field.to_owned() });
                }
                (Err(error), _) => {
                    refusal.get_or_insert(error);
                }
            }
        }
        let refusal = || refusal.unwrap_or(BtfError::NoType { name: structure.to_owned() });
        answer.ok_or_else(refusal)
    }

    fn types_named<'a>(&'a self, named: Named, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let index = match named {
            Named::Composite => &self.composites,
            Named::Function => &self.functions,
            Named::Typedef => &self.typedefs,
        };
        let index = index.get_or_init(|| self.index(named));
        let hash = hash_of(name.as_bytes());
        let first = index.partition_point(|(other, _)| *other < hash);
        let same_hash = index[first..].iter().take_while(move |(other, _)| *other == hash);
        same_hash.map(|(_, type_id)| *type_id).filter(move |type_id| {
            // What was indexed could be read, so that the errors here are out of reach.
            let found = self.type_at(*type_id);
            found.and_then(|found| self.name_bytes(found.name)).is_ok_and(|bytes| bytes == name.as_bytes())
        })
    }

    fn index(&self, named: Named) -> NameIndex {
        let ids = 1..self.starts.len() as u32;
        let entries = ids.filter_map(|type_id| {
            let found = self.type_at(type_id).ok()?;
            if found.name == 0 || !named.has(found.kind) {
                return None;
            }
            let name = self.name_bytes(found.name).ok()?;
            Some((hash_of(name), type_id))
        });
        let mut entries: Vec<(u32, u32)> = entries.collect();
        entries.sort_unstable();
        entries.into_boxed_slice()
    }

    fn type_at(&self, type_id: u32) -> Result<Type, BtfError> {
        match self.starts.get(type_id as usize) {
            Some(0) => Ok(Type { name: 0, kind: 0, count: 0, kind_flag: false, size_or_type: 0, body: 0 }),
            Some(start) => read_type(&self.data, *start as usize),
            None => Err(BtfError::Malformed { offset: 0, what: "a type refers to one that does not exist" }),
        }
    }

    /// A name, without its NUL. Names longer than [`NAME_BYTES_MAX`] are cut: none that anybody asks for is as long.
    fn name_bytes(&self, offset: u32) -> Result<&[u8], BtfError> {
        let strings = &self.data[self.strings_start..self.strings_end];
        let tail = strings.get(offset as usize..).filter(|tail| !tail.is_empty());
        let tail = tail.ok_or(BtfError::Malformed {
            offset: self.strings_start.saturating_add(offset as usize),
            what: "a name lies outside the strings",
        })?;
        let tail = &tail[..tail.len().min(NAME_BYTES_MAX)];
        Ok(&tail[..tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len())])
    }

    fn malformed(&self, type_id: u32, what: &'static str) -> BtfError {
        BtfError::Malformed { offset: self.starts.get(type_id as usize).copied().unwrap_or(0) as usize, what }
    }
}

/// FNV-1a: names are short, and equal hashes are told apart by the names themselves.
fn hash_of(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
