//! Numbers and strings as bytes, and back. What is read is hostile until parsed: nothing here panics or trusts a length.

/// In what a file contradicts its format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

/// A frame that reaches beyond the end of its file.
pub(super) const UNFINISHED: Malformed = Malformed("a frame is not whole");

impl Malformed {
    /// Whether more bytes at the end could make it right.
    pub(super) fn is_unfinished(&self) -> bool {
        *self == UNFINISHED
    }
}

pub(super) type Parsed<T> = Result<T, Malformed>;

/// Seven bits per byte, the lowest first; the last byte is below 128.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small negative numbers become small odd ones.
pub(super) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to parse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn u8(&mut self) -> Parsed<u8> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn varint(&mut self) -> Parsed<u64> {
        // Most numbers are small.
        let mut byte = self.u8()?;
        let mut value = u64::from(byte & 0x7f);
        let mut shift = 7;
        while byte >= 0x80 {
            byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && bits > 1) {
                return Err(Malformed("a number has more than 64 bits"));
            }
            value |= bits << shift;
            shift += 7;
        }
        Ok(value)
    }

    pub(super) fn u32(&mut self) -> Parsed<u32> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number has more than 32 bits"))
    }

    /// A number of things that each take at least a byte of what follows, and of which there may be `max`.
    pub(super) fn count(&mut self, max: usize) -> Parsed<usize> {
        let count = self.number(max)?;
        if count > self.rest.len() { Err(Malformed("it ends too early")) } else { Ok(count) }
    }

    /// A number up to `max`.
    pub(super) fn number(&mut self, max: usize) -> Parsed<usize> {
        let number = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if number > max { Err(Malformed("a number is beyond its bound")) } else { Ok(number) }
    }

    pub(super) fn take(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Bytes with their length before them.
    pub(super) fn bytes(&mut self) -> Parsed<&'a [u8]> {
        let length = self.count(usize::MAX)?;
        self.take(length)
    }

    /// The same, as what is to be parsed by itself.
    pub(super) fn part(&mut self) -> Parsed<Self> {
        Ok(Self::new(self.bytes()?))
    }

    pub(super) fn end(&self) -> Parsed<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_the_bytes_that_the_format_says() {
        let mut out = Vec::new();
        for value in [0, 127, 128, 300, u64::MAX] {
            put_varint(&mut out, value);
        }
        assert_eq!(
            out,
            [0, 127, 128, 1, 172, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            "little end first, seven bits each"
        );
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert!(Cursor::new(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).varint().is_err());
        assert!(Cursor::new(&[128; 100]).varint().is_err());
        assert!(Cursor::new(&[128]).varint().is_err());
    }

    #[test]
    fn a_count_cannot_exceed_what_follows() {
        assert_eq!(Cursor::new(&[2, 0, 0]).count(10), Ok(2));
        assert!(Cursor::new(&[3, 0, 0]).count(10).is_err());
        assert!(Cursor::new(&[2, 0, 0]).count(1).is_err());
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(value: u64, signed: i64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_bytes(&mut out, &bytes);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.bytes(), Ok(&bytes[..]));
            prop_assert_eq!(cursor.end(), Ok(()));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}
