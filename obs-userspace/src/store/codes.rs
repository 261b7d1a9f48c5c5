//! The numbers that our enums have on disk. They never change; a new variant takes the next one.

use super::bytes::{Malformed, Parsed};
use crate::model::{profile::FrameKind, stack::StackEnd};

pub(super) fn of_frame_kind(kind: FrameKind) -> u8 {
    match kind {
        FrameKind::User => 0,
        FrameKind::UserInlined => 1,
        FrameKind::Jit => 2,
        FrameKind::Kernel => 3,
        FrameKind::KernelInlined => 4,
        FrameKind::Wait => 5,
    }
}

pub(super) fn frame_kind(code: u8) -> Parsed<FrameKind> {
    Ok(match code {
        0 => FrameKind::User,
        1 => FrameKind::UserInlined,
        2 => FrameKind::Jit,
        3 => FrameKind::Kernel,
        4 => FrameKind::KernelInlined,
        5 => FrameKind::Wait,
        _ => return Err(Malformed("a frame is of no known kind")),
    })
}

/// 0 is "nothing said".
pub(super) fn of_cut(cut: Option<StackEnd>) -> u8 {
    match cut {
        None => 0,
        Some(StackEnd::Complete) => 1,
        Some(StackEnd::FramePointerChain) => 2,
        Some(StackEnd::TooDeep) => 3,
        Some(StackEnd::NoProcessTable) => 4,
        Some(StackEnd::NoMapping) => 5,
        Some(StackEnd::NoFileTable) => 6,
        Some(StackEnd::TableNotReady) => 7,
        Some(StackEnd::NoRow) => 8,
        Some(StackEnd::UnsupportedRule) => 9,
        Some(StackEnd::ReadFailed) => 10,
        Some(StackEnd::NotInSnapshot) => 11,
        Some(StackEnd::ReturnAddressZero) => 12,
        Some(StackEnd::NotAscending) => 13,
        Some(StackEnd::NoRegisters) => 14,
        Some(StackEnd::WalkFailed) => 15,
        Some(StackEnd::Lost) => 16,
        Some(StackEnd::Gone) => 17,
    }
}

pub(super) fn cut(code: u8) -> Parsed<Option<StackEnd>> {
    Ok(Some(match code {
        0 => return Ok(None),
        1 => StackEnd::Complete,
        2 => StackEnd::FramePointerChain,
        3 => StackEnd::TooDeep,
        4 => StackEnd::NoProcessTable,
        5 => StackEnd::NoMapping,
        6 => StackEnd::NoFileTable,
        7 => StackEnd::TableNotReady,
        8 => StackEnd::NoRow,
        9 => StackEnd::UnsupportedRule,
        10 => StackEnd::ReadFailed,
        11 => StackEnd::NotInSnapshot,
        12 => StackEnd::ReturnAddressZero,
        13 => StackEnd::NotAscending,
        14 => StackEnd::NoRegisters,
        15 => StackEnd::WalkFailed,
        16 => StackEnd::Lost,
        17 => StackEnd::Gone,
        _ => return Err(Malformed("a stack was cut for no known reason")),
    }))
}

/// What a series holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeriesKind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

pub(super) fn of_series_kind(kind: SeriesKind) -> u8 {
    match kind {
        SeriesKind::Counter => 0,
        SeriesKind::Gauge => 1,
        SeriesKind::Histogram => 2,
    }
}

pub(super) fn series_kind(code: u8) -> Parsed<SeriesKind> {
    Ok(match code {
        0 => SeriesKind::Counter,
        1 => SeriesKind::Gauge,
        2 => SeriesKind::Histogram,
        _ => return Err(Malformed("a series is of no known kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_leads_back() {
        for code in 0..=u8::MAX {
            if let Ok(kind) = frame_kind(code) {
                assert_eq!(of_frame_kind(kind), code);
            }
            if let Ok(end) = cut(code) {
                assert_eq!(of_cut(end), code);
            }
            if let Ok(kind) = series_kind(code) {
                assert_eq!(of_series_kind(kind), code);
            }
        }
        assert_eq!(cut(17), Ok(Some(StackEnd::Gone)));
        assert!(cut(18).is_err() && frame_kind(6).is_err() && series_kind(3).is_err());
    }
}
