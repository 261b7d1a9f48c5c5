//! The bytes of the format: header, types and what follows them.

use super::BtfError;

pub(super) const MAGIC: u16 = 0xeb9f;
pub(super) const HEADER_BYTES: usize = 24;
pub(super) const TYPE_BYTES: usize = 12;
pub(super) const MEMBER_BYTES: usize = 12;

pub(super) const KIND_INT: u32 = 1;
pub(super) const KIND_PTR: u32 = 2;
pub(super) const KIND_ARRAY: u32 = 3;
pub(super) const KIND_STRUCT: u32 = 4;
pub(super) const KIND_UNION: u32 = 5;
pub(super) const KIND_ENUM: u32 = 6;
pub(super) const KIND_FWD: u32 = 7;
pub(super) const KIND_TYPEDEF: u32 = 8;
pub(super) const KIND_VOLATILE: u32 = 9;
pub(super) const KIND_CONST: u32 = 10;
pub(super) const KIND_RESTRICT: u32 = 11;
pub(super) const KIND_FUNC: u32 = 12;
pub(super) const KIND_FUNC_PROTO: u32 = 13;
pub(super) const KIND_VAR: u32 = 14;
pub(super) const KIND_DATASEC: u32 = 15;
pub(super) const KIND_FLOAT: u32 = 16;
pub(super) const KIND_DECL_TAG: u32 = 17;
pub(super) const KIND_TYPE_TAG: u32 = 18;
pub(super) const KIND_ENUM64: u32 = 19;

/// The fixed part of a type, and where what follows it begins.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub(super) name: u32,
    pub(super) kind: u32,
    /// Members, values or parameters that follow.
    pub(super) count: u32,
    /// Whether the offsets of members carry the width of bit fields.
    pub(super) kind_flag: bool,
    /// The size in bytes, or the type referred to.
    pub(super) size_or_type: u32,
    pub(super) body: usize,
}

pub(super) fn read_u32(data: &[u8], offset: usize) -> Result<u32, BtfError> {
    let bytes = data.get(offset..).and_then(|tail| tail.first_chunk::<4>());
    bytes.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(BtfError::Malformed { offset, what: "the file ends too early" })
}

pub(super) fn read_type(data: &[u8], offset: usize) -> Result<Type, BtfError> {
    let info = read_u32(data, offset + 4)?;
    Ok(Type {
        name: read_u32(data, offset)?,
        kind: (info >> 24) & 0x1f,
        count: info & 0xffff,
        kind_flag: info >> 31 == 1,
        size_or_type: read_u32(data, offset + 8)?,
        body: offset + TYPE_BYTES,
    })
}

/// The bytes that follow the fixed part of a type; nothing for an unknown kind.
pub(super) fn body_bytes(kind: u32, count: u32) -> Option<usize> {
    let count = count as usize;
    Some(match kind {
        KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_FUNC | KIND_FLOAT
        | KIND_TYPE_TAG => 0,
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
        _ => return None,
    })
}

pub(super) fn kind_in_words(kind: u32) -> &'static str {
    match kind {
        KIND_PTR => "a pointer",
        KIND_ARRAY => "an array",
        KIND_INT | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT => "a number",
        _ => "no structure",
    }
}
