//! bpf(2): the call itself, and maps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_cmd, bpf_map_type};

use super::SysError;

/// Bytes of an object's name, its NUL included (`BPF_OBJ_NAME_LEN`).
pub(super) const NAME_BYTES: usize = 16;
// The attributes of the commands used here, each as far as it is used: the kernel takes what is missing as zero. They
// are written without padding, so that no byte of them is undefined.

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_BYTES],
}

#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct Batch {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

#[repr(C)]
pub(super) struct ObjectInfo {
    pub(super) bpf_fd: u32,
    pub(super) info_len: u32,
    pub(super) info: u64,
}

#[repr(C)]
#[derive(Default)]
struct RawMapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; NAME_BYTES],
}

/// Makes the system call.
///
/// # Safety
///
/// Every address in `attributes` must be valid for what `command` does with it, for the length that it assumes.
pub(super) unsafe fn call<A>(command: bpf_cmd, attributes: &mut A) -> std::io::Result<i32> {
    let attributes: *mut A = attributes;
    // SAFETY: the attributes live for the call and their size is told; the addresses in them are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Makes a system call that answers with a new descriptor.
///
/// # Safety
///
/// That of [`call`]; and `command` must be one that returns a descriptor.
pub(super) unsafe fn call_for_fd<A>(command: bpf_cmd, attributes: &mut A) -> std::io::Result<OwnedFd> {
    // SAFETY: the caller's promise. The kernel opens BPF descriptors with close-on-exec.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel just opened this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn address_of<T: ?Sized>(value: &T) -> u64 {
    (&raw const *value).cast::<u8>() as u64
}

pub(super) fn name_bytes(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

pub(super) fn name_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A map to be created.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec<'a> {
    /// Its type.
    pub kind: bpf_map_type,
    /// Bytes of a key.
    pub key_size_bytes: u32,
    /// Bytes of a value (of one CPU's value, in a per-CPU map).
    pub value_size_bytes: u32,
    /// Most entries; bytes, for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// Its name, cut after 15 bytes.
    pub name: &'a str,
}

/// Creates a map that lives as long as the descriptor, and as the programs that use it.
///
/// # Errors
///
/// The kernel refuses.
pub fn create_map(spec: &MapSpec<'_>) -> Result<OwnedFd, SysError> {
    let mut attributes = MapCreate {
        map_type: spec.kind as u32,
        key_size: spec.key_size_bytes,
        value_size: spec.value_size_bytes,
        max_entries: spec.max_entries,
        map_flags: spec.flags,
        map_name: name_bytes(spec.name),
        ..MapCreate::default()
    };
    // SAFETY: there are no addresses in these attributes, and the command returns a descriptor.
    let created = unsafe { call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attributes) };
    created.map_err(|source| SysError::new(format!("creating a map of type {:?}", spec.kind), source))
}

/// What the kernel says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// The number of its type (`enum bpf_map_type`).
    pub kind: u32,
    /// Its id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size_bytes: u32,
    /// Bytes of a value (of one CPU's value, in a per-CPU map).
    pub value_size_bytes: u32,
    /// Most entries; bytes, for a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// Its name.
    pub name: String,
}

/// Asks what a map is. (Of a program's descriptor this tells nonsense; the kernel refuses whatever follows from it.)
///
/// # Errors
///
/// The descriptor is none of a BPF object.
pub fn map_info(map: BorrowedFd<'_>) -> Result<MapInfo, SysError> {
    let mut raw = RawMapInfo::default();
    let mut attributes = ObjectInfo {
        bpf_fd: map.as_raw_fd() as u32,
        info_len: size_of::<RawMapInfo>() as u32,
        info: &raw mut raw as u64,
    };
    // SAFETY: `info` addresses `info_len` writable bytes that outlive the call; any bytes are a valid `RawMapInfo`.
    let asked = unsafe { call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) };
    asked.map_err(|source| SysError::new("asking what a BPF map is", source))?;
    Ok(MapInfo {
        kind: raw.map_type,
        id: raw.id,
        key_size_bytes: raw.key_size,
        value_size_bytes: raw.value_size,
        max_entries: raw.max_entries,
        flags: raw.map_flags,
        name: name_text(&raw.name),
    })
}

/// The memory that a map takes in the kernel, in bytes (`memlock` in `/proc/self/fdinfo`): all that it can hold for maps
/// that are allocated at once, what it holds now for the others (since Linux 6.4; an estimate before).
///
/// # Errors
///
/// `/proc` cannot be read, or the descriptor is none of a map.
pub fn map_memory_bytes(map: BorrowedFd<'_>) -> Result<u64, SysError> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let attempted = || format!("reading a map's memory from {path}");
    let text = std::fs::read_to_string(&path).map_err(|source| SysError::new(attempted(), source))?;
    memlock(&text)
        .ok_or_else(|| SysError::invalid(attempted(), "there is no line memlock: the descriptor is none of a map"))
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Sets an element of a map whose values are not per CPU.
///
/// # Errors
///
/// The types have other sizes than the map's keys and values, or the kernel refuses.
pub fn update_element<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> Result<(), SysError> {
    update(map, key, std::slice::from_ref(value), false)
}

/// Sets an element of a per-CPU map: one value for each possible CPU.
///
/// # Errors
///
/// As [`update_element`]; values of a size that is no multiple of 8 bytes; another number of values than of CPUs.
pub fn update_element_per_cpu<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    values: &[V],
) -> Result<(), SysError> {
    update(map, key, values, true)
}

fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, values: &[V], per_cpu: bool) -> Result<(), SysError> {
    let shape = MapShape::check::<K, V>(map)?;
    if shape.per_cpu != per_cpu || values.len() != shape.values_per_key {
        return Err(SysError::invalid("setting an element of a map", "another number of values than the map has"));
    }
    let mut attributes = Element {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: address_of(key),
        value: address_of(values),
        flags: 0,
    };
    // SAFETY: key and values have the sizes of this map, checked above, and outlive the call, which reads them.
    let updated = unsafe { call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes) };
    updated.map(drop).map_err(|source| SysError::new("setting an element of a map", source))
}

/// The value of a key, in a map whose values are not per CPU; nothing if the map does not hold the key.
///
/// # Errors
///
/// The types have other sizes than the map's keys and values, or the kernel refuses.
pub fn element<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> Result<Option<V>, SysError> {
    let attempted = "looking up an element of a map";
    if MapShape::check::<K, V>(map)?.per_cpu {
        return Err(SysError::invalid(attempted, "its values are per CPU"));
    }
    let mut value = std::mem::MaybeUninit::<V>::zeroed();
    let mut attributes = Element {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: address_of(key),
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value have the sizes of this map, checked above, and outlive the call, which writes the value only.
    match unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attributes) } {
        // SAFETY: the value was zeroed and then written by the kernel only, and any bytes are a `V` (it is `Pod`).
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(SysError::new(attempted, error)),
    }
}

/// What must be known of a map before the kernel may be given addresses of its keys and values.
pub(super) struct MapShape {
    pub(super) info: MapInfo,
    pub(super) per_cpu: bool,
    pub(super) values_per_key: usize,
}

impl MapShape {
    /// Fails unless `K` and `V` have the sizes that the kernel will read and write.
    pub(super) fn check<K, V>(map: BorrowedFd<'_>) -> Result<Self, SysError> {
        let info = map_info(map)?;
        let attempted = || format!("accessing map {} ({})", info.id, info.name);
        let per_cpu = [
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
        ]
        .iter()
        .any(|kind| *kind as u32 == info.kind);
        if info.key_size_bytes as usize != size_of::<K>() || info.value_size_bytes as usize != size_of::<V>() {
            let sizes = (info.key_size_bytes, info.value_size_bytes, size_of::<K>(), size_of::<V>());
            let why =
                format!("its keys and values have {} and {} bytes, not {} and {}", sizes.0, sizes.1, sizes.2, sizes.3);
            return Err(SysError::invalid(attempted(), why));
        }
        // The kernel rounds each CPU's value up to 8 bytes; a slice of `V` has that stride for such sizes only.
        if per_cpu && !size_of::<V>().is_multiple_of(8) {
            return Err(SysError::invalid(attempted(), "values of per-CPU maps must be multiples of 8 bytes"));
        }
        let values_per_key = if per_cpu { super::possible_cpus()? } else { 1 };
        Ok(Self { info, per_cpu, values_per_key })
    }
}

/// Maps the first bytes of an mmapable array into this process and releases them again.
///
/// # Errors
///
/// The map was not created with `BPF_F_MMAPABLE`, or there is no memory.
pub fn try_mmap(map: impl AsFd, length_bytes: usize) -> Result<(), SysError> {
    super::ring::Mapping::new(map.as_fd(), length_bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_memory_of_a_map() {
        assert_eq!(memlock("pos:\t0\nmap_type:\t1\nmemlock:\t8192\nmap_id:\t3\n"), Some(8192));
        assert_eq!(memlock("pos:\t0\nflags:\t02\n"), None);
        assert_eq!(memlock("memlock:\tlots\n"), None);
    }

    #[test]
    fn names_are_cut_and_end_in_a_nul() {
        assert_eq!(&name_bytes("obs"), b"obs\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&name_bytes("a_name_that_is_too_long"), b"a_name_that_is_\0");
        assert_eq!(name_text(&name_bytes("obs")), "obs");
    }

    #[test]
    fn attributes_have_no_padding() {
        assert_eq!(size_of::<MapCreate>(), 28 + NAME_BYTES);
        assert_eq!(size_of::<Element>(), 32);
        assert_eq!(size_of::<Batch>(), 56);
        assert_eq!(size_of::<RawMapInfo>(), 40);
    }
}
