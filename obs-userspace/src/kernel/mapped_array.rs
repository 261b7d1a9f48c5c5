//! Array maps that this process writes through its own address space.

use std::os::fd::AsFd as _;

use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::load::{KernelError, Object};

/// The kernel counts every mapped page of a map as this process's memory, used or not; so arrays are mapped in steps of so many
/// bytes, as far as they are used.
const STEP_BYTES: usize = 512 << 10;

/// An array map whose elements this process writes through its own address space.
pub(super) struct MappedArray<T> {
    /// The beginning of a range of addresses that is reserved for all of the array.
    elements: *mut T,
    length: u32,
    bytes: usize,
    /// How far the map stands behind the range.
    mapped_bytes: usize,
    name: &'static str,
    map: MapData,
}

// SAFETY: the pointer is to memory that this value alone unmaps, and writing needs `&mut self`.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: Copy> MappedArray<T> {
    /// Takes an array out of an object. An element of the map may hold many of ours.
    pub(super) fn take(object: &mut Object, name: &'static str) -> Result<Self, KernelError> {
        let missing = KernelError::Missing { object: object.name, part: name };
        let Some(Map::Array(map)) = object.ebpf.take_map(name) else { return Err(missing) };
        let fail = |why: String| KernelError::Map { map: name, why };
        let info = map.info().map_err(|error| fail(error.to_string()))?;
        let bytes = info.max_entries() as usize * info.value_size() as usize;
        // The kernel rounds elements up to 8 bytes; only then do they lie side by side.
        let length = u32::try_from(bytes / size_of::<T>()).ok().filter(|_| info.value_size().is_multiple_of(8));
        let length = length.ok_or_else(|| fail("its elements have an unexpected size".to_owned()))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let reserved = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE) };
        let reserved = reserved.map_err(|error| fail(format!("no addresses can be reserved for it: {error}")))?;
        Ok(Self { elements: reserved.cast(), length, bytes, mapped_bytes: 0, name, map })
    }

    /// How many elements there are.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Writes elements that no program reads yet.
    ///
    /// # Errors
    /// If the map cannot be mapped as far as this.
    pub(super) fn write(&mut self, first: u32, elements: &[T]) -> Result<(), KernelError> {
        let end = first as usize + elements.len();
        assert!(end <= self.length as usize, "the place was handed out by the array's own space");
        self.map_up_to(end * size_of::<T>())?;
        // SAFETY: the range was just checked and is mapped, and the source is another allocation.
        unsafe {
            std::ptr::copy_nonoverlapping(elements.as_ptr(), self.elements.add(first as usize), elements.len());
        }
        Ok(())
    }

    /// Elements that were written before.
    pub(super) fn read(&self, first: u32, count: u32) -> &[T] {
        let end = first as usize + count as usize;
        if count == 0 {
            return &[];
        }
        assert!(end * size_of::<T>() <= self.mapped_bytes, "what was written is mapped");
        // SAFETY: the range was just checked; programs only read it, and writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.elements.add(first as usize), count as usize) }
    }

    fn map_up_to(&mut self, end_bytes: usize) -> Result<(), KernelError> {
        if end_bytes <= self.mapped_bytes {
            return Ok(());
        }
        let end_bytes = end_bytes.next_multiple_of(STEP_BYTES).min(self.bytes);
        let length = end_bytes - self.mapped_bytes;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let offset = self.mapped_bytes as u64;
        // SAFETY: the range is a part of what this value has reserved, and nothing was mapped there before.
        let mapped = unsafe {
            let start = self.elements.cast::<u8>().add(self.mapped_bytes).cast();
            mmap(start, length, protection, flags, self.map.fd().as_fd(), offset)
        };
        mapped.map_err(|error| KernelError::Map { map: self.name, why: format!("it cannot be mapped: {error}") })?;
        self.mapped_bytes = end_bytes;
        Ok(())
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: this value made the mappings of this range, and nobody else has its address.
        let unmapped = unsafe { munmap(self.elements.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
