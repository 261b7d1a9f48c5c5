//! Follows the path of a field through structures, anonymous members and typedefs.

use super::{
    Bit, Btf, BtfError, Field, Named,
    layout::{
        KIND_ARRAY, KIND_CONST, KIND_ENUM, KIND_ENUM64, KIND_FLOAT, KIND_INT, KIND_PTR, KIND_RESTRICT, KIND_STRUCT,
        KIND_TYPE_TAG, KIND_TYPEDEF, KIND_UNION, KIND_VOLATILE, MEMBER_BYTES, Type, kind_in_words, read_u32,
    },
};

/// Longest chain of typedefs, qualifiers and arrays that is followed: the kernel's bound (`MAX_RESOLVE_DEPTH`).
const CHAIN_MAX: usize = 32;
/// Deepest nesting of anonymous members that is searched.
const ANONYMOUS_DEPTH_MAX: u32 = 16;
/// Most members looked at for one step of one path. `task_struct` has about 270.
const MEMBERS_VISITED_MAX: u32 = 1 << 16;

/// What a step of a path led to.
struct Step {
    offset_bits: u64,
    width_bits: u32,
    type_id: u32,
}

impl Btf {
    pub(super) fn field_of(&self, type_id: u32, structure: &str, path: &str) -> Result<Field, BtfError> {
        let Step { offset_bits, width_bits, type_id: holder } = self.place_of(type_id, structure, path)?;
        if width_bits != 0 || !offset_bits.is_multiple_of(8) || self.is_partial_integer(holder)? {
            return Err(BtfError::BitField { structure: structure.to_owned(), field: path.to_owned() });
        }
        Ok(Field { offset_bytes: self.bytes_of(type_id, offset_bits)?, size_bytes: self.size_of_type(holder)? })
    }

    pub(super) fn bit_of(&self, type_id: u32, structure: &str, path: &str) -> Result<Bit, BtfError> {
        let place = self.place_of(type_id, structure, path)?;
        if place.width_bits != 1 {
            return Err(BtfError::NoField { structure: structure.to_owned(), field: path.to_owned() });
        }
        // Bits are counted from the lowest one of the lowest byte: obs runs on little-endian machines only.
        Ok(Bit { offset_bytes: self.bytes_of(type_id, place.offset_bits)?, mask: 1 << (place.offset_bits % 8) })
    }

    fn bytes_of(&self, type_id: u32, offset_bits: u64) -> Result<u32, BtfError> {
        u32::try_from(offset_bits / 8).map_err(|_| self.malformed(type_id, "a field lies beyond 4 GiB"))
    }

    /// Where a path leads to, in bits from the start of the structure.
    fn place_of(&self, type_id: u32, structure: &str, path: &str) -> Result<Step, BtfError> {
        let names = || (structure.to_owned(), path.to_owned());
        let mut place = Step { offset_bits: 0, width_bits: 0, type_id };
        for name in path.split('.') {
            let (bare, found) = self.strip(place.type_id)?;
            if !Named::Composite.has(found.kind) {
                let (structure, field) = names();
                return Err(BtfError::NotByValue { structure, field, found: kind_in_words(found.kind) });
            }
            let mut visits_left = MEMBERS_VISITED_MAX;
            let step = self.member(bare, name.as_bytes(), 0, &mut visits_left)?.ok_or_else(|| {
                let (structure, field) = names();
                BtfError::NoField { structure, field }
            })?;
            place = Step { offset_bits: place.offset_bits + step.offset_bits, ..step };
        }
        Ok(place)
    }

    /// The member of that name, also inside anonymous members.
    fn member(&self, holder: u32, name: &[u8], depth: u32, visits_left: &mut u32) -> Result<Option<Step>, BtfError> {
        if depth > ANONYMOUS_DEPTH_MAX {
            return Err(self.malformed(holder, "anonymous members are nested too deeply"));
        }
        let found = self.type_at(holder)?;
        if name.is_empty() || !Named::Composite.has(found.kind) {
            return Ok(None);
        }
        for index in 0..found.count as usize {
            *visits_left = visits_left.checked_sub(1).ok_or(self.malformed(holder, "too many members to search"))?;
            let at = found.body + index * MEMBER_BYTES;
            let member_name = self.name_bytes(read_u32(&self.data, at)?)?;
            let type_id = read_u32(&self.data, at + 4)?;
            let position = read_u32(&self.data, at + 8)?;
            let (offset_bits, width_bits) =
                if found.kind_flag { (position & 0xff_ffff, position >> 24) } else { (position, 0) };
            let offset_bits = u64::from(offset_bits);
            if member_name == name {
                return Ok(Some(Step { offset_bits, width_bits, type_id }));
            }
            if member_name.is_empty() {
                let (inner, _) = self.strip(type_id)?;
                if let Some(step) = self.member(inner, name, depth + 1, visits_left)? {
                    return Ok(Some(Step { offset_bits: step.offset_bits + offset_bits, ..step }));
                }
            }
        }
        Ok(None)
    }

    /// What remains of a type without its typedefs and qualifiers.
    fn strip(&self, type_id: u32) -> Result<(u32, Type), BtfError> {
        let mut current = type_id;
        for _ in 0..CHAIN_MAX {
            let found = self.type_at(current)?;
            match found.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    current = found.size_or_type;
                }
                _ => return Ok((current, found)),
            }
        }
        Err(self.malformed(type_id, "a chain of typedefs does not end"))
    }

    /// Whether a type is an integer that fills only part of its bytes: how bit fields were written before Linux 4.20.
    fn is_partial_integer(&self, type_id: u32) -> Result<bool, BtfError> {
        let (_, found) = self.strip(type_id)?;
        if found.kind != KIND_INT {
            return Ok(false);
        }
        let encoding = read_u32(&self.data, found.body)?;
        let (shift_bits, width_bits) = ((encoding >> 16) & 0xff, encoding & 0xff);
        Ok(shift_bits != 0 || u64::from(width_bits) != u64::from(found.size_or_type) * 8)
    }

    pub(super) fn size_of_type(&self, type_id: u32) -> Result<u32, BtfError> {
        let mut elements = 1_u64;
        let mut current = type_id;
        for _ in 0..CHAIN_MAX {
            let (_, found) = self.strip(current)?;
            let one = match found.kind {
                KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => found.size_or_type,
                // Pointers of the kernels that obs runs on (64-bit).
                KIND_PTR => 8,
                KIND_ARRAY => {
                    let count = read_u32(&self.data, found.body + 8)?;
                    let product = elements.checked_mul(u64::from(count));
                    elements = product.ok_or(self.malformed(type_id, "an array is too large"))?;
                    current = read_u32(&self.data, found.body)?;
                    continue;
                }
                _ => return Err(self.malformed(type_id, "a type without a size is asked for its size")),
            };
            let size = elements.checked_mul(u64::from(one)).and_then(|size| u32::try_from(size).ok());
            return size.ok_or(self.malformed(type_id, "a type is too large"));
        }
        Err(self.malformed(type_id, "a chain of arrays does not end"))
    }
}
