//! Columns of numbers: the values of one series one after another, as small as their nature allows.

use super::{
    bytes::{Cursor, Malformed, Parsed, put_varint, unzigzag, zigzag},
    values::whole,
};

/// Differences, divided by what divides them all.
const DELTAS: u8 = 0;
/// Differences of differences: for what grows evenly.
const SECOND_DELTAS: u8 = 1;
/// Floating-point numbers that are decimals: the places after the point, then whole numbers.
const DECIMALS: u8 = 0x10;
const PLACES_MAX: u8 = 9;
/// Floating-point numbers that are multiples of 2^-30, as durations are that the kernel side counts: then whole numbers.
const TICKS: u8 = 0x30;
const TICKS_PER_UNIT: f64 = 1_073_741_824.0;
/// Other floating-point numbers: the bytes in which each differs from the one before.
const BITS: u8 = 0x20;

/// Writes whole numbers. How many there are is known to the reader.
pub(super) fn put_whole(out: &mut Vec<u8>, values: &[u64]) {
    let Some(first) = values.first() else { return };
    let deltas = || values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) as i64);
    let divisor = deltas().fold(0, |divisor, delta| greatest_divisor(divisor, delta.unsigned_abs())).max(1);
    let mut simple = vec![DELTAS];
    put_varint(&mut simple, *first);
    put_varint(&mut simple, divisor);
    for delta in deltas() {
        // A divisor of 2^63 is the one that is no i64; its only multiples here are 0 and -2^63.
        let quotient = i64::try_from(divisor).map_or(-i64::from(delta != 0), |divisor| delta / divisor);
        put_varint(&mut simple, zigzag(quotient));
    }
    let mut second = vec![SECOND_DELTAS];
    put_varint(&mut second, *first);
    let mut before = 0;
    for delta in deltas() {
        put_varint(&mut second, zigzag(delta.wrapping_sub(before)));
        before = delta;
    }
    out.extend_from_slice(if second.len() < simple.len() { &second } else { &simple });
}

fn greatest_divisor(mut left: u64, mut right: u64) -> u64 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

/// Reads so many whole numbers.
pub(super) fn read_whole(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<u64>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mode = cursor.u8()?;
    let mut value = cursor.varint()?;
    let mut values = vec![value];
    match mode {
        DELTAS => {
            let divisor = cursor.varint()?;
            for _ in 1..count {
                value = value.wrapping_add((unzigzag(cursor.varint()?) as u64).wrapping_mul(divisor));
                values.push(value);
            }
        }
        SECOND_DELTAS => {
            let mut delta = 0_u64;
            for _ in 1..count {
                delta = delta.wrapping_add(unzigzag(cursor.varint()?) as u64);
                value = value.wrapping_add(delta);
                values.push(value);
            }
        }
        _ => return Err(Malformed("a column of numbers is of no known form")),
    }
    Ok(values)
}

/// Writes floating-point numbers, exactly.
pub(super) fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    if values.is_empty() {
        return;
    }
    let decimals = (0..=PLACES_MAX).map(|places| (DECIMALS | places, power_of_ten(places)));
    for (form, factor) in decimals.chain([(TICKS, TICKS_PER_UNIT)]) {
        if let Some(scaled) = values.iter().map(|value| scaled(*value, factor)).collect::<Option<Vec<u64>>>() {
            out.push(form);
            put_whole(out, &scaled);
            return;
        }
    }
    out.push(BITS);
    let mut before = 0;
    for value in values {
        let changed = value.to_bits() ^ before;
        before = value.to_bits();
        let (skipped, rest) = (changed.leading_zeros() as u8 / 8, changed.trailing_zeros() as u8 / 8);
        if changed == 0 {
            out.push(0x80);
            continue;
        }
        out.push(skipped << 4 | rest);
        out.extend_from_slice(&changed.to_be_bytes()[skipped.into()..(8 - rest).into()]);
    }
}

/// A value as a whole number of so many to the unit, if that leads back to the same bits.
fn scaled(value: f64, factor: f64) -> Option<u64> {
    let scaled = whole((value * factor).round())?;
    (unscaled(scaled as u64, factor).to_bits() == value.to_bits()).then_some(scaled as u64)
}

fn unscaled(scaled: u64, factor: f64) -> f64 {
    scaled as i64 as f64 / factor
}

fn power_of_ten(places: u8) -> f64 {
    10_f64.powi(places.into())
}

/// Reads so many floating-point numbers.
pub(super) fn read_floats(cursor: &mut Cursor<'_>, count: usize) -> Parsed<Vec<f64>> {
    const FORM: Malformed = Malformed("a column of values is of no known form");
    if count == 0 {
        return Ok(Vec::new());
    }
    let mode = cursor.u8()?;
    let factor = match mode & 0x0f {
        0 if mode == TICKS => Some(TICKS_PER_UNIT),
        places if mode & 0xf0 == DECIMALS && places <= PLACES_MAX => Some(power_of_ten(places)),
        _ => None,
    };
    if let Some(factor) = factor {
        return Ok(read_whole(cursor, count)?.into_iter().map(|value| unscaled(value, factor)).collect());
    }
    if mode != BITS {
        return Err(FORM);
    }
    let mut values = Vec::new();
    let mut bits = 0;
    for _ in 0..count {
        let form = cursor.u8()?;
        let (skipped, rest) = (usize::from(form >> 4), usize::from(form & 0x0f));
        let kept = 8_usize.checked_sub(skipped + rest).ok_or(FORM)?;
        let mut changed = [0; 8];
        changed[skipped..skipped + kept].copy_from_slice(cursor.take(kept)?);
        bits ^= u64::from_be_bytes(changed);
        values.push(f64::from_bits(bits));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole_bytes(values: &[u64]) -> usize {
        let mut out = Vec::new();
        put_whole(&mut out, values);
        assert_eq!(read_whole(&mut Cursor::new(&out), values.len()).unwrap(), values);
        out.len()
    }

    fn float_bytes(values: &[f64]) -> usize {
        let mut out = Vec::new();
        put_floats(&mut out, values);
        let mut cursor = Cursor::new(&out);
        let read = read_floats(&mut cursor, values.len()).unwrap();
        assert!(cursor.is_empty());
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(values));
        out.len()
    }

    #[test]
    fn one_byte_per_value_suffices_for_what_is_regular() {
        let pages: Vec<u64> = (0..100).map(|index| 1_000_000_000 + index * index % 7 * 4096).collect();
        assert!(whole_bytes(&pages) <= 110);
        let evenly: Vec<u64> = (0..100).map(|index| 1_000_000_000 + index * 123_457).collect();
        assert!(whole_bytes(&evenly) <= 110);
        let load: Vec<f64> = (0..100).map(|index| f64::from(150 + index % 9) / 100.0).collect();
        assert!(float_bytes(&load) <= 110);
        let ticks: Vec<f64> =
            (0..100).map(|index| f64::from(index * index % 37 + 1_000_001) / TICKS_PER_UNIT).collect();
        assert!(float_bytes(&ticks) <= 110);
        float_bytes(&[0.1, 1.0 / 3.0, 1.0 / 3.0, f64::MAX]);
    }

    #[test]
    fn the_largest_differences_are_kept() {
        whole_bytes(&[0, 1 << 63, 0, u64::MAX, 1, 1 << 63]);
        whole_bytes(&[1 << 63, 0, 0]);
        whole_bytes(&[7]);
        whole_bytes(&[]);
        float_bytes(&[]);
    }

    proptest! {
        #[test]
        fn whole_numbers_are_kept(values: Vec<u64>) {
            whole_bytes(&values);
        }

        #[test]
        fn floats_keep_every_bit(bits: Vec<u64>, hundredths: Vec<i32>) {
            float_bytes(&bits.iter().map(|bits| f64::from_bits(*bits)).collect::<Vec<_>>());
            float_bytes(&hundredths.iter().map(|value| f64::from(*value) / 100.0).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, count in 0..2000_usize) {
            let _ = read_whole(&mut Cursor::new(&bytes), count);
            let _ = read_floats(&mut Cursor::new(&bytes), count);
        }
    }
}
