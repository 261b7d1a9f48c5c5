//! Recognises the few DWARF expressions that compilers, linkers and hand-written assembly use in call frame information.

use crate::limits::EXPRESSION_OPERATIONS_MAX;
use gimli::{EndianSlice, LittleEndian, Operation};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// A recognised expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// `register + offset`.
    Register { register: u16, offset: i64 },
    /// `[register + offset] + addend`.
    Deref { register: u16, offset: i64, addend: i64 },
    /// `register + offset + ((ip_register & 15) >= threshold ? 8 : 0)`.
    Plt { register: u16, offset: i64, ip_register: u16, threshold: u8 },
}

/// One operation, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Register(u16, i64),
    Constant(i64),
    Add(i64),
    Deref,
    And,
    GreaterOrEqual,
    ShiftLeft,
    Plus,
}

/// Recognises an expression; `None` when it has another form.
pub(crate) fn recognise(expression: gimli::Expression<Reader<'_>>, encoding: gimli::Encoding) -> Option<Known> {
    let mut tokens = [Token::Plus; EXPRESSION_OPERATIONS_MAX];
    let mut count = 0;
    let mut operations = expression.operations(encoding);
    while let Some(operation) = operations.next().ok()? {
        if matches!(operation, Operation::Nop) {
            continue;
        }
        *tokens.get_mut(count)? = token(&operation)?;
        count += 1;
    }
    match tokens.get(..count)? {
        [Token::Register(register, offset)] => Some(Known::Register { register: *register, offset: *offset }),
        [Token::Register(register, offset), rest @ ..] => match rest {
            [
                Token::Register(ip_register, 0),
                Token::Constant(15),
                Token::And,
                Token::Constant(threshold @ 0..=15),
                Token::GreaterOrEqual,
                Token::Constant(3),
                Token::ShiftLeft,
                Token::Plus,
            ] => Some(Known::Plt {
                register: *register,
                offset: *offset,
                ip_register: *ip_register,
                threshold: *threshold as u8,
            }),
            _ => {
                let (before, after) = match rest.iter().position(|token| *token == Token::Deref) {
                    Some(at) => (&rest[..at], Some(&rest[at + 1..])),
                    None => (rest, None),
                };
                let offset = offset.checked_add(sum(before)?)?;
                match after {
                    Some(after) => Some(Known::Deref { register: *register, offset, addend: sum(after)? }),
                    None => Some(Known::Register { register: *register, offset }),
                }
            }
        },
        _ => None,
    }
}

/// What a run of `plus_uconst N` and `constN plus` adds up to.
fn sum(mut tokens: &[Token]) -> Option<i64> {
    let mut sum = 0_i64;
    loop {
        match tokens {
            [] => return Some(sum),
            [Token::Add(value), rest @ ..] | [Token::Constant(value), Token::Plus, rest @ ..] => {
                sum = sum.checked_add(*value)?;
                tokens = rest;
            }
            _ => return None,
        }
    }
}

fn token(operation: &Operation<Reader<'_>>) -> Option<Token> {
    Some(match operation {
        Operation::RegisterOffset { register, offset, .. } => Token::Register(register.0, *offset),
        Operation::UnsignedConstant { value } => Token::Constant(i64::try_from(*value).ok()?),
        Operation::SignedConstant { value } => Token::Constant(*value),
        Operation::PlusConstant { value } => Token::Add(i64::try_from(*value).ok()?),
        Operation::Deref { size: 8, space: false, .. } => Token::Deref,
        Operation::And => Token::And,
        Operation::Ge => Token::GreaterOrEqual,
        Operation::Shl => Token::ShiftLeft,
        Operation::Plus => Token::Plus,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gimli::{Expression, constants as dw};

    fn known(bytes: &[u8]) -> Option<Known> {
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
        recognise(Expression(EndianSlice::new(bytes, LittleEndian)), encoding)
    }

    #[test]
    fn the_linkers_stub_expression_is_known_by_its_threshold() {
        let mut bytes = vec![
            dw::DW_OP_breg7.0,
            8,
            dw::DW_OP_breg16.0,
            0,
            dw::DW_OP_lit15.0,
            dw::DW_OP_and.0,
            dw::DW_OP_lit11.0,
            dw::DW_OP_ge.0,
            dw::DW_OP_lit3.0,
            dw::DW_OP_shl.0,
            dw::DW_OP_plus.0,
        ];
        assert_eq!(known(&bytes), Some(Known::Plt { register: 7, offset: 8, ip_register: 16, threshold: 11 }));
        bytes[6] = dw::DW_OP_lit9.0;
        assert_eq!(known(&bytes), Some(Known::Plt { register: 7, offset: 8, ip_register: 16, threshold: 9 }));
        bytes[8] = dw::DW_OP_lit4.0;
        assert_eq!(known(&bytes), None);
    }

    #[test]
    fn frames_behind_a_saved_pointer_are_known() {
        let realigned = [dw::DW_OP_breg6.0, 0x78, dw::DW_OP_deref.0];
        assert_eq!(known(&realigned), Some(Known::Deref { register: 6, offset: -8, addend: 0 }));
        let openssl = [dw::DW_OP_breg7.0, 0x98, 1, dw::DW_OP_deref.0, dw::DW_OP_plus_uconst.0, 8];
        assert_eq!(known(&openssl), Some(Known::Deref { register: 7, offset: 152, addend: 8 }));
    }

    #[test]
    fn sums_are_folded_and_overflow_is_not_known() {
        let sum = [dw::DW_OP_breg7.0, 8, dw::DW_OP_lit16.0, dw::DW_OP_plus.0, dw::DW_OP_plus_uconst.0, 4];
        assert_eq!(known(&sum), Some(Known::Register { register: 7, offset: 28 }));
        let mut long = vec![dw::DW_OP_breg7.0, 8, dw::DW_OP_constu.0];
        long.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, dw::DW_OP_plus.0]);
        assert_eq!(known(&long), None);
    }

    #[test]
    fn an_expression_longer_than_the_bound_is_not_known() {
        let mut bytes = vec![dw::DW_OP_breg7.0, 8];
        for _ in 0..EXPRESSION_OPERATIONS_MAX {
            bytes.extend([dw::DW_OP_plus_uconst.0, 1]);
        }
        assert_eq!(known(&bytes), None);
    }
}
