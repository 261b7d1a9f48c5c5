//! The wire format of protocol buffers: fields by number, with no schema.

use anyhow::{Result, bail, ensure};

/// One field's value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire types 1 and 5, which no message read here uses.
    Fixed,
    /// Wire type 2: a message, a string, or packed numbers.
    Bytes(&'a [u8]),
}

/// The fields of a message in their order: number and value.
pub(crate) fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => fixed(&mut bytes, 8)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?)?;
                ensure!(length <= bytes.len(), "a field of {length} bytes where {} are left", bytes.len());
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Value::Bytes(value)
            }
            5 => fixed(&mut bytes, 4)?,
            wire_type => bail!("wire type {wire_type} does not exist"),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

/// The numbers of a repeated field's value: one, or packed ones.
pub(crate) fn numbers(value: Value<'_>) -> Result<Vec<u64>> {
    match value {
        Value::Varint(number) => Ok(vec![number]),
        Value::Fixed => bail!("a fixed number where a varint was expected"),
        Value::Bytes(mut bytes) => {
            let mut numbers = Vec::new();
            while !bytes.is_empty() {
                numbers.push(varint(&mut bytes)?);
            }
            Ok(numbers)
        }
    }
}

fn fixed<'a>(bytes: &mut &[u8], length: usize) -> Result<Value<'a>> {
    ensure!(length <= bytes.len(), "a fixed number that is cut short");
    *bytes = &bytes[length..];
    Ok(Value::Fixed)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else { bail!("a number that is cut short") };
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number longer than 64 bits")
}
