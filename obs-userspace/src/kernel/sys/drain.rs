//! Takes everything out of a hash map in few system calls (`BPF_MAP_LOOKUP_AND_DELETE_BATCH`, Linux 5.6).
//!
//! Each entry is looked up and deleted under the lock of its bucket, so that nothing counted in between is lost. Buckets
//! are visited in order: what is added behind the visitor stays for the next time.

use std::{
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_cmd, bpf_map_type};

use super::{
    SysError,
    bpf::{Batch, MapShape, call},
};

/// Times that one call is repeated because an interrupt held a bucket's lock.
const BUSY_RETRIES_MAX: u32 = 64;
/// `ENOTSUPP`: the kernel's own number for "this map cannot do that", which libc does not name.
const ENOTSUPP: i32 = 524;

/// Why a map could not be emptied.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The map, or the kernel, has no such operation: read and delete entry by entry instead.
    #[error("the kernel cannot look up and delete entries of map {name} in batches (Linux 5.6 can)")]
    Unsupported {
        /// The map's name.
        name: String,
    },
    /// The kernel refused. The entries handed out before are no longer in the map.
    #[error(transparent)]
    Refused(#[from] SysError),
}

/// What emptying a map took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Entries handed out, and no longer in the map.
    pub entries: u64,
    /// System calls made.
    pub calls: u64,
}

/// Empties one hash map, again and again, into buffers of its own.
///
/// `V` is the value of one CPU. Buffers hold one batch: (size of `K` + size of `V` × values per key) × batch bytes, and
/// grow to at most the map's entries if one bucket holds more than a batch.
pub struct HashDrain<K, V> {
    map: OwnedFd,
    name: String,
    entries_max: usize,
    values_per_key: usize,
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
}

impl<K: aya::Pod, V: aya::Pod> HashDrain<K, V> {
    /// Prepares to empty a hash map, per CPU or not, least-recently-used or not, `batch` entries at a time.
    ///
    /// # Errors
    ///
    /// The map is of another type, or its keys and values have other sizes.
    pub fn new(map: BorrowedFd<'_>, batch: usize) -> Result<Self, SysError> {
        let shape = MapShape::check::<K, V>(map)?;
        let is_hash = [
            bpf_map_type::BPF_MAP_TYPE_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_HASH,
            bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH,
            bpf_map_type::BPF_MAP_TYPE_LRU_PERCPU_HASH,
        ]
        .iter()
        .any(|kind| *kind as u32 == shape.info.kind);
        if !is_hash {
            return Err(SysError::invalid(format!("draining map {}", shape.info.name), "it is no hash map"));
        }
        let map = map.try_clone_to_owned();
        let map = map.map_err(|source| SysError::new("duplicating a map's descriptor", source))?;
        let mut drain = Self {
            map,
            name: shape.info.name,
            entries_max: shape.info.max_entries as usize,
            values_per_key: shape.values_per_key,
            keys: Vec::new(),
            values: Vec::new(),
        };
        drain.resize(batch.clamp(1, drain.entries_max));
        Ok(drain)
    }

    fn resize(&mut self, batch: usize) {
        self.keys.resize(batch, MaybeUninit::zeroed());
        self.values.resize(batch * self.values_per_key, MaybeUninit::zeroed());
    }

    /// Takes every entry out of the map. `take` is given the key and its values: one, or one for each possible CPU.
    ///
    /// # Errors
    ///
    /// [`DrainError::Unsupported`]; [`DrainError::Refused`], after which entries may have been handed out already.
    pub fn drain(&mut self, mut take: impl FnMut(&K, &[V])) -> Result<Drained, DrainError> {
        let mut drained = Drained::default();
        // The kernel's bookmark: the next bucket. It means nothing before the first call.
        let mut position = 0_u32;
        let mut is_first = true;
        let mut busy = 0;
        // Every call that succeeds advances by a bucket or more, and there are at most twice as many buckets as entries.
        let calls_max = self.entries_max as u64 * 4 + 64;
        while drained.calls < calls_max {
            drained.calls += 1;
            let mut next = position;
            let (outcome, count) = self.call((!is_first).then_some(&position), &mut next);
            for index in 0..count {
                let values = &self.values[index * self.values_per_key..][..self.values_per_key];
                // SAFETY: the buffers were zeroed and then written by the kernel only, and any bytes are a `K` or a `V` (both are
                // `Pod`); `MaybeUninit<V>` has the layout of `V`.
                let (key, values) = unsafe {
                    (
                        self.keys[index].assume_init_ref(),
                        std::slice::from_raw_parts(values.as_ptr().cast::<V>(), values.len()),
                    )
                };
                take(key, values);
            }
            drained.entries += count as u64;
            match outcome {
                // The end of the buckets.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(drained),
                Ok(()) => {
                    busy = 0;
                }
                // One bucket alone is larger than the buffers. Nothing was taken; the bookmark is at that bucket.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && self.keys.len() < self.entries_max => {
                    self.resize((self.keys.len() * 2).min(self.entries_max));
                }
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) && busy < BUSY_RETRIES_MAX =>
                {
                    busy += 1;
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP)) && is_first => {
                    return Err(DrainError::Unsupported { name: self.name.clone() });
                }
                // Among them EFAULT, after which the kernel's count means nothing.
                Err(error) => return Err(SysError::new(format!("draining map {}", self.name), error).into()),
            }
            position = next;
            is_first = false;
        }
        Err(SysError::invalid(format!("draining map {}", self.name), "the kernel's bookmark does not advance").into())
    }

    /// One batch: what the kernel said, and how many entries it wrote.
    fn call(&mut self, position: Option<&u32>, next: &mut u32) -> (std::io::Result<()>, usize) {
        let mut attributes = Batch {
            in_batch: position.map_or(0, |position| std::ptr::from_ref(position) as u64),
            out_batch: std::ptr::from_mut(next) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: self.map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: the map is a hash map (checked in `new`), whose bookmarks have 4 bytes; keys and values have the sizes of
        // this very map, and there is room for `count` of them; all outlive the call.
        let outcome = unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH, &mut attributes) };
        let outcome = outcome.map(drop);
        // Before the kernel has looked at the map it leaves the count as it was; these are the errors that say so.
        let wrote = match &outcome {
            Ok(()) => true,
            Err(error) => {
                matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOSPC | libc::EBUSY | libc::EAGAIN))
            }
        };
        let count = if wrote { (attributes.count as usize).min(self.keys.len()) } else { 0 };
        (outcome, count)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::fd::AsFd};

    use super::{
        super::bpf::{MapSpec, create_map, map_memory_bytes, update_element, update_element_per_cpu},
        *,
    };

    /// A map, or nothing without the privilege: these tests then say so and pass.
    fn map(kind: bpf_map_type, max_entries: u32) -> Option<OwnedFd> {
        let spec = MapSpec { kind, key_size_bytes: 8, value_size_bytes: 16, max_entries, flags: 0, name: "obs_test" };
        match create_map(&spec) {
            Ok(map) => Some(map),
            Err(error) if error.is_permission() => {
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn takes_every_entry_once() {
        for kind in [bpf_map_type::BPF_MAP_TYPE_HASH, bpf_map_type::BPF_MAP_TYPE_LRU_HASH] {
            let Some(map) = map(kind, 4_096) else { return };
            for batch in [1, 7, 1_000, 100_000] {
                let expected: BTreeMap<u64, [u64; 2]> = (0..1_000).map(|key| (key, [key * 3, !key])).collect();
                for (key, value) in &expected {
                    update_element(map.as_fd(), key, value).expect("room for all");
                }
                let mut drain = HashDrain::<u64, [u64; 2]>::new(map.as_fd(), batch).expect("the sizes agree");
                let mut found = BTreeMap::new();
                let drained = drain
                    .drain(|key, values| {
                        assert_eq!(values.len(), 1);
                        assert_eq!(found.insert(*key, values[0]), None, "taken twice");
                    })
                    .expect("supported since 5.6");
                assert_eq!((drained.entries, &found), (1_000, &expected), "{kind:?} by {batch}");
                let again = drain.drain(|_, _| panic!("the map is empty")).expect("supported");
                assert_eq!(again.entries, 0);
            }
        }
    }

    #[test]
    fn buckets_larger_than_a_batch_are_taken() {
        // 64 keys in 64 buckets: in each round some share one, almost surely.
        let Some(map) = map(bpf_map_type::BPF_MAP_TYPE_HASH, 64) else { return };
        let mut entries = 0;
        for round in 0..50_u64 {
            for key in 0..64 {
                update_element(map.as_fd(), &(round * 64 + key), &[0_u64, 0]).expect("room for all");
            }
            let mut drain = HashDrain::<u64, [u64; 2]>::new(map.as_fd(), 1).expect("the sizes agree");
            entries += drain.drain(|_, _| {}).expect("supported").entries;
            assert!(drain.keys.len() > 1, "no bucket held two entries");
        }
        assert_eq!(entries, 50 * 64);
    }

    #[test]
    fn hands_out_the_values_of_each_cpu() {
        let Some(map) = map(bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH, 512) else { return };
        let cpus = super::super::possible_cpus().expect("sysfs");
        for key in 0..100_u64 {
            let values: Vec<[u64; 2]> = (0..cpus as u64).map(|cpu| [key, cpu]).collect();
            update_element_per_cpu(map.as_fd(), &key, &values).expect("room for all");
        }
        let mut drain = HashDrain::<u64, [u64; 2]>::new(map.as_fd(), 16).expect("the sizes agree");
        let mut seen = 0;
        let drained = drain.drain(|key, values| {
            assert_eq!(values.len(), cpus);
            assert!(values.iter().enumerate().all(|(cpu, value)| *value == [*key, cpu as u64]));
            seen += 1;
        });
        assert_eq!((drained.expect("supported").entries, seen), (100, 100));
    }

    #[test]
    fn refuses_other_sizes_and_other_maps() {
        let Some(hash) = map(bpf_map_type::BPF_MAP_TYPE_HASH, 8) else { return };
        assert!(HashDrain::<u32, [u64; 2]>::new(hash.as_fd(), 8).is_err());
        assert!(HashDrain::<u64, u64>::new(hash.as_fd(), 8).is_err());
        assert!(update_element(hash.as_fd(), &0_u32, &[0_u64, 0]).is_err());
        assert!(update_element_per_cpu(hash.as_fd(), &0_u64, &[[0_u64, 0]]).is_err());
        let spec = MapSpec {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            key_size_bytes: 4,
            value_size_bytes: 8,
            max_entries: 8,
            flags: 0,
            name: "obs_test",
        };
        let array = create_map(&spec).expect("as permitted as the hash");
        assert!(HashDrain::<u32, u64>::new(array.as_fd(), 8).is_err());
        let null = std::fs::File::open("/dev/null").expect("exists");
        assert!(HashDrain::<u64, u64>::new(null.as_fd(), 8).is_err());
        assert!(map_memory_bytes(null.as_fd()).is_err());
        let memory = map_memory_bytes(hash.as_fd()).expect("it is a map");
        assert!(memory >= 8 * 24, "{memory} bytes cannot hold 8 entries of 24 bytes");
    }
}
