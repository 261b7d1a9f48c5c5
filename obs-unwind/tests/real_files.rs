//! Tables of files of the machine and of random call frame information, against `gimli`'s own evaluation of all
//! registers at every row boundary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic anywhere")]

mod support;

use gimli::{BaseAddresses, CfaRule, CieOrFde, EndianSlice, LittleEndian, RegisterRule, UnwindSection as _, X86_64};
use obs_common::unwind_row::{CfaKind, FpKind, RBX_LOST, RBX_UNCHANGED, RaKind, Rule};
use obs_unwind::{BuildError, BuildId, ElfImage, UnwindTable};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Row = gimli::UnwindTableRow<usize>;

/// Calls `check` with each row of an `.eh_frame`, and the address that it ends at.
fn each_row(section: &[u8], address: u64, mut check: impl FnMut(&Row, u64, bool)) -> usize {
    let section = gimli::EhFrame::new(section, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(address);
    let mut context = gimli::UnwindContext::new();
    let mut entries = section.entries(&bases);
    let mut rows = 0;
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) =
            partial.parse(|section: &gimli::EhFrame<Reader<'_>>, bases, at| section.cie_from_offset(bases, at))
        else {
            continue;
        };
        let Ok(mut table) = fde.rows(&section, &bases, &mut context) else { continue };
        while let Ok(Some(row)) = table.next_row() {
            let end = row.end_address().min(fde.end_address());
            if row.start_address() < end {
                check(row, end, fde.is_signal_trampoline());
                rows += 1;
            }
        }
    }
    rows
}

/// Whether a rule says what `gimli`'s row says.
fn agrees(row: &Row, rule: &Rule, signal: bool) -> bool {
    let kind = |kind: CfaKind| rule.cfa_kind == kind as u8;
    let ra = row.register(X86_64::RA);
    if ra == Some(RegisterRule::Undefined) {
        return kind(CfaKind::End);
    }
    let plain_sp =
        matches!(row.register(X86_64::RSP), None | Some(RegisterRule::SameValue | RegisterRule::ValOffset(0)));
    let cfa = match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let expected = match register {
                X86_64::RSP => CfaKind::Sp,
                X86_64::RBP => CfaKind::Fp,
                _ => CfaKind::Register,
            };
            // Where rbx is, tables only say if they need it.
            let rbx = match row.register(X86_64::RBX) {
                None | Some(RegisterRule::SameValue) => i64::from(RBX_UNCHANGED),
                Some(RegisterRule::Offset(bytes)) if (-255 * 8..=-16).contains(&bytes) && bytes % 8 == 0 => -bytes / 8,
                _ => i64::from(RBX_LOST),
            };
            let arg = match expected {
                CfaKind::Register => rule.arg == register.0 as u8,
                _ => rule.arg == RBX_LOST || i64::from(rule.arg) == rbx,
            };
            kind(expected) && i64::from(rule.cfa_offset) == offset && arg
        }
        CfaRule::Expression(_) => {
            [CfaKind::SpDeref, CfaKind::FpDeref, CfaKind::Plt, CfaKind::Unsupported].into_iter().any(kind)
        }
    };
    let ra = match ra {
        Some(RegisterRule::Offset(bytes)) => {
            rule.ra_kind == RaKind::AtCfa as u8 && i64::from(rule.ra_offset) * 8 == bytes
        }
        Some(RegisterRule::Register(register)) => {
            rule.ra_kind == RaKind::Register as u8 && rule.ra_offset == register.0 as i16
        }
        _ => false,
    };
    let fp = |expected: FpKind, words: i64| rule.fp_kind == expected as u8 && i64::from(rule.fp_offset) == words;
    let fp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Register(X86_64::RBP)) => fp(FpKind::Unchanged, 0),
        Some(RegisterRule::Register(register)) if register.0 > 15 => fp(FpKind::Undefined, 0),
        // What the format cannot express is taken for lost, as below.
        Some(RegisterRule::Offset(bytes)) if bytes % 8 == 0 && i16::try_from(bytes / 8).is_ok() => {
            fp(FpKind::AtCfa, bytes / 8)
        }
        Some(RegisterRule::Register(register)) => fp(FpKind::Register, i64::from(register.0)),
        Some(RegisterRule::Expression(_)) => rule.fp_kind != FpKind::Unchanged as u8,
        Some(_) => fp(FpKind::Undefined, 0),
    };
    if kind(CfaKind::Unsupported) || kind(CfaKind::Signal) {
        let ra_is_known = match row.register(X86_64::RA) {
            Some(RegisterRule::Offset(bytes)) => bytes % 8 == 0 && i16::try_from(bytes / 8).is_ok(),
            Some(RegisterRule::Register(register)) => register.0 < 16,
            _ => false,
        };
        let cfa_is_known = matches!(
            row.cfa(),
            CfaRule::RegisterAndOffset { register, offset } if register.0 < 16 && i32::try_from(*offset).is_ok()
        );
        return signal || !plain_sp || !ra_is_known || !cfa_is_known;
    }
    if signal || !plain_sp {
        return false;
    }
    cfa && ra && fp
}

/// Compares a file; returns the rows compared.
fn compare(path: &Path) -> usize {
    let data = std::fs::read(path).unwrap();
    let image = ElfImage::parse(&data).unwrap();
    let (table, notes) = UnwindTable::build(&image).unwrap();
    let Some((address, section)) = support::section(&data, ".eh_frame") else { panic!("{} has none", path.display()) };
    let rows = each_row(section, address, |row, end, signal| {
        for address in [row.start_address(), end - 1] {
            let rule = table.find(address).unwrap_or_default();
            assert!(agrees(row, &rule, signal), "{} {address:#x}: {rule:?}, gimli {row:?}", path.display());
        }
    });
    assert!(notes.rows_read as usize >= rows);
    assert_eq!((notes.functions_malformed, notes.functions_too_long), (0, 0), "{}", path.display());
    assert!(matches!(image.build_id(), Some(BuildId::Gnu(id)) if id.len() >= 8));
    rows
}

#[test]
#[cfg(target_arch = "x86_64")]
fn system_files_agree_at_every_row() {
    // The C library and the loader that this test runs with, and larger programs where they are installed.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|access| access.contains('x')))
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with("/usr/lib") || path.starts_with("/lib"))
        .map(PathBuf::from)
        .collect();
    assert!(paths.len() >= 2, "the C library and the loader are mapped: {maps}");
    for program in ["/usr/bin/python3", "/usr/bin/perl", "/usr/bin/git"] {
        paths.extend(std::fs::canonicalize(program));
    }
    for path in &paths {
        assert!(compare(path) > 100, "{}", path.display());
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_vdso_of_this_process_has_a_table() {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).expect("Linux maps one");
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
    let mut data = vec![0; (end - start) as usize];
    std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut data, start).unwrap();
    let image = ElfImage::parse(&data).unwrap();
    assert_eq!(image.load_bias(start, 0), Some(start - image.executable_segments()[0].address));
    let (table, _) = UnwindTable::build(&image).unwrap();
    let (address, section) = support::section(&data, ".eh_frame").unwrap();
    let rows = each_row(section, address, |row, _, signal| {
        let rule = table.find(row.start_address()).unwrap();
        assert!(agrees(row, &rule, signal), "{rule:?}, gimli {row:?}");
    });
    assert!(rows > 3);
}

/// One call frame instruction that compilers write, or a run of bytes that may be anything.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let register = prop_oneof![Just(3_u8), Just(6), Just(7), Just(16), 0_u8..17];
    prop_oneof![
        8 => (0x41_u8..0x60).prop_map(|advance| vec![advance]),
        2 => (0_u8..0x80).prop_map(|bytes| vec![0x02, bytes]),
        4 => (0_u8..0x80).prop_map(|offset| vec![0x0e, offset]),
        2 => (register.clone(), 0_u8..0x80).prop_map(|(register, offset)| vec![0x0c, register, offset]),
        2 => register.clone().prop_map(|register| vec![0x0d, register]),
        3 => (register.clone(), 0_u8..0x80).prop_map(|(register, offset)| vec![0x80 | register, offset]),
        2 => register.clone().prop_map(|register| vec![0xc0 | register]),
        1 => register.clone().prop_map(|register| vec![0x07, register]),
        1 => register.clone().prop_map(|register| vec![0x08, register]),
        1 => (register.clone(), register).prop_map(|(to, from)| vec![0x09, to, from]),
        1 => Just(vec![0x0a]),
        1 => Just(vec![0x0b]),
        1 => Just(vec![0x0f, 3, 0x76, 0x78, 0x06]),
        1 => Just(vec![0x10, 6, 2, 0x76, 0x00]),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ]
}

proptest! {
    #[test]
    fn random_functions_agree_at_every_row(
        functions in proptest::collection::vec((0_u32..64, 1_u32..200, proptest::collection::vec(instruction(), 0..24)), 1..12)
    ) {
        const ADDRESS: u64 = 0x8000;
        let mut cfi = support::Cfi::eh_frame(ADDRESS).cie("zR", 16, &support::X86_64_START);
        let mut at = 0x1000;
        for (gap, bytes, instructions) in &functions {
            at += u64::from(*gap);
            cfi = cfi.function(at, *bytes, &instructions.concat());
            at += u64::from(*bytes);
        }
        let code = [0xc3; 0x2000];
        let file = support::image(&support::Parts {
            machine: 62,
            segments: vec![(0x1000, &code)],
            sections: vec![(".eh_frame", ADDRESS, 2, &cfi.bytes)],
        });
        let nothing = UnwindTable::from_arrays(0, vec![], vec![], vec![]);
        let built = UnwindTable::build(&ElfImage::parse(&file).unwrap());
        // A table of which every function is broken from its start is none.
        let table = built.map_or_else(|error| { assert_eq!(error, BuildError::NoInformation); nothing }, |(table, _)| table);
        let mut failed = None;
        each_row(&cfi.bytes, ADDRESS, |row, end, signal| {
            for address in [row.start_address(), end - 1] {
                let rule = table.find(address).unwrap_or_default();
                if !agrees(row, &rule, signal) {
                    failed = Some(format!("{address:#x}: {rule:?}, gimli {row:?}"));
                }
            }
        });
        prop_assert_eq!(failed, None);
        // Each address finds the last row at or below it.
        let rows: Vec<_> = table.iter().collect();
        for address in (0xfff..at + 0x40).step_by(7) {
            let linear = rows.iter().rev().find(|(start, _)| *start <= address).map(|(_, rule)| *rule);
            prop_assert_eq!(table.find(address).unwrap_or_default(), linear.unwrap_or_default());
        }
    }
}
