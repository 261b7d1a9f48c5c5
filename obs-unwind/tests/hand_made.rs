//! Tables of hand-made call frame information: every rule, gaps, overlaps, pages, bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic anywhere")]

mod support;

use obs_common::unwind_row::{
    CfaKind, FRAME_POINTER_RULE, FpKind, OTHER_STACK, RA_SIGNED, RBX, RBX_UNCHANGED, RaKind, Rule,
};
use obs_unwind::{BuildError, ElfError, ElfImage, Machine, Notes, UnwindTable};
use support::{AARCH64_START, Cfi, Parts, X86_64_START, image};

const X86_64: u16 = 62;
const AARCH64: u16 = 183;
/// `ret`, which is no padding.
const CODE: [u8; 0x4000] = [0xc3; 0x4000];
const EH_FRAME: u64 = 0x9000;

fn eh_frame() -> Cfi {
    Cfi::eh_frame(EH_FRAME)
}

fn build(machine: u16, cfi: &Cfi) -> (UnwindTable, Notes) {
    build_over(machine, &CODE, cfi).unwrap()
}

fn build_over(machine: u16, code: &[u8], cfi: &Cfi) -> Result<(UnwindTable, Notes), BuildError> {
    let name = if cfi.debug { ".debug_frame" } else { ".eh_frame" };
    let sections = vec![(name, cfi.address, 2, &cfi.bytes[..])];
    let file = image(&Parts { machine, segments: vec![(0x1000, code)], sections });
    UnwindTable::build(&ElfImage::parse(&file).unwrap())
}

fn sp(bytes: i32) -> Rule {
    Rule { cfa_offset: bytes, ra_offset: -1, cfa_kind: CfaKind::Sp as u8, ..Rule::default() }
}

const NOTHING: Rule = Rule { cfa_offset: 0, fp_offset: 0, ra_offset: 0, cfa_kind: 0, fp_kind: 0, ra_kind: 0, arg: 0 };

#[test]
fn a_function_with_a_frame_pointer_has_three_rows_and_ends() {
    // push %rbp; mov %rsp, %rbp; …; leave; ret
    let body = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x42, 0x0c, 7, 8];
    let (table, notes) = build(X86_64, &eh_frame().cie("zR", 16, &X86_64_START).function(0x1100, 7, &body));
    let pushed = Rule { fp_offset: -2, fp_kind: FpKind::AtCfa as u8, ..sp(16) };
    let rows: Vec<_> = table.iter().collect();
    let expected = [
        (0x1000, NOTHING),
        (0x1100, sp(8)),
        (0x1101, pushed),
        (0x1104, Rule { cfa_kind: CfaKind::Fp as u8, ..pushed }),
        // `leave` has restored the frame pointer, but compilers do not say so until the next function needs it.
        (0x1106, Rule { cfa_offset: 8, ..pushed }),
        (0x1107, NOTHING),
    ];
    assert_eq!(rows, expected);
    assert_eq!((notes.functions, notes.rows_read), (1, 4));
    assert_eq!(table.find(0x10ff), Some(NOTHING));
    assert_eq!(table.find(0x2000), None);
    assert_eq!(table.find(0xfff), None);
}

#[test]
fn a_row_holds_over_pages_that_have_none() {
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1800, 0x2800, &[0x44, 0x0e, 64]);
    let (table, _) = build(X86_64, &cfi);
    assert_eq!(table.pages(), [0, 3, 3, 3]);
    for address in [0x1804, 0x2000, 0x2fff, 0x3000, 0x3fff] {
        assert_eq!(table.find(address), Some(sp(64)), "{address:#x}");
    }
    assert_eq!(table.find(0x4000), None);
}

#[test]
fn equal_neighbours_are_one_row() {
    let common = eh_frame().cie("zR", 16, &X86_64_START);
    let (table, _) = build(X86_64, &common.function(0x1000, 16, &[]).function(0x1010, 16, &[]));
    assert_eq!(table.iter().collect::<Vec<_>>(), [(0x1000, sp(8)), (0x1020, NOTHING)]);
}

#[test]
fn a_gap_of_code_has_no_information_and_a_gap_of_padding_goes_on() {
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 8, &[]).function(0x1010, 8, &[]);
    let (table, notes) = build(X86_64, &cfi);
    assert_eq!(table.find(0x1008), Some(NOTHING));
    assert_eq!((table.find(0x1010), notes.gaps_of_padding), (Some(sp(8)), 0));
    let (table, notes) = build_over(X86_64, &[0x90; 0x100], &cfi).unwrap();
    assert_eq!((table.find(0x1008), notes.gaps_of_padding), (Some(sp(8)), 1));
    // More than padding ever is.
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 8, &[]).function(0x1060, 8, &[]);
    let (table, notes) = build_over(X86_64, &[0x90; 0x100], &cfi).unwrap();
    assert_eq!((table.find(0x1008), notes.gaps_of_padding), (Some(NOTHING), 0));
}

#[test]
fn undescribed_code_at_the_entry_point_ends_the_stack() {
    const END: Rule = Rule { cfa_kind: CfaKind::End as u8, ..NOTHING };
    // Two functions with `gap` bytes of code between them, where the file's entry point is.
    let rules = |gap: u64| {
        let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x10, &[]).function(0x1010 + gap, 0x10, &[]);
        let sections = vec![(".eh_frame", cfi.address, 2, &cfi.bytes[..])];
        let mut file = image(&Parts { machine: X86_64, segments: vec![(0x1000, &CODE)], sections });
        file[24..32].copy_from_slice(&0x1020_u64.to_le_bytes());
        let (table, _) = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap();
        table.iter().collect::<Vec<_>>()
    };
    let of_gap = |rows: &[(u64, Rule)]| -> Vec<(u64, Rule)> {
        rows.iter().copied().filter(|(address, _)| (0x1010..0x1200).contains(address)).collect()
    };
    assert_eq!(of_gap(&rules(0x50)), [(0x1010, NOTHING), (0x1020, END), (0x1060, sp(8)), (0x1070, NOTHING)]);
    let far = [(0x1010, NOTHING), (0x1020, END), (0x1030, NOTHING), (0x1110, sp(8)), (0x1120, NOTHING)];
    assert_eq!(of_gap(&rules(0x100)), far);
}

#[test]
fn unsorted_functions_are_sorted_and_the_later_start_wins() {
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1100, 0x10, &[0x0e, 32]).function(
        0x1000,
        0x200,
        &[0x0e, 16],
    );
    let (table, notes) = build(X86_64, &cfi);
    assert_eq!(table.find(0x10ff), Some(sp(16)));
    assert_eq!(table.find(0x1100), Some(sp(32)));
    // A search for the nearest start finds the inner function here, which has ended.
    assert_eq!(table.find(0x1110), Some(NOTHING));
    assert_eq!((notes.functions_overlapping, notes.ordered_by_header), (1, false));
}

#[test]
fn debug_frame_covers_what_eh_frame_does_not() {
    let eh = eh_frame().cie("zR", 16, &X86_64_START).function(0x1100, 0x100, &[0x0e, 16]);
    let debug = Cfi::debug_frame().cie("", 16, &X86_64_START).function(0x1000, 0x180, &[0x0e, 32]).function(
        0x1180,
        0x100,
        &[0x0e, 48],
    );
    let sections = vec![(".eh_frame", EH_FRAME, 2, &eh.bytes[..]), (".debug_frame", 0, 0, &debug.bytes[..])];
    let file = image(&Parts { machine: X86_64, segments: vec![(0x1000, &CODE)], sections });
    let (table, _) = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap();
    for (address, rule) in
        [(0x1000, sp(32)), (0x10ff, sp(32)), (0x1100, sp(16)), (0x11ff, sp(16)), (0x1200, sp(48)), (0x1280, NOTHING)]
    {
        assert_eq!(table.find(address), Some(rule), "{address:#x}");
    }
}

#[test]
fn a_compressed_debug_frame_is_inflated_or_named() {
    use std::io::Write as _;
    const COMPRESSED: u64 = 0x800;
    let debug = Cfi::debug_frame().cie("", 16, &X86_64_START).function(0x1000, 0x100, &[0x0e, 32]);
    let section = |method: u32, inflated_bytes: u64| {
        let mut section = method.to_le_bytes().to_vec();
        section.extend([0; 4]);
        section.extend(inflated_bytes.to_le_bytes());
        section.extend(8_u64.to_le_bytes());
        let mut zlib = flate2::write::ZlibEncoder::new(section, flate2::Compression::default());
        zlib.write_all(&debug.bytes).unwrap();
        zlib.finish().unwrap()
    };
    let build = |section: &[u8]| {
        let sections = vec![(".debug_frame", 0, COMPRESSED, section)];
        let file = image(&Parts { machine: X86_64, segments: vec![(0x1000, &CODE)], sections });
        UnwindTable::build(&ElfImage::parse(&file).unwrap()).map(|(table, _)| table.find(0x1000))
    };
    assert_eq!(build(&section(1, debug.bytes.len() as u64)), Ok(Some(sp(32))));
    assert_eq!(build(&section(2, debug.bytes.len() as u64)), Err(BuildError::UnsupportedCompression(2)));
    assert_eq!(build(&section(1, 1 << 40)), Err(BuildError::DebugFrameTooLong));
}

#[test]
fn the_ends_of_stacks_and_what_is_left_out_are_named() {
    let cfi = eh_frame()
        .cie("zR", 16, &X86_64_START)
        .function(0x1000, 0x10, &[0x07, 16])
        .function(0x1010, 0x10, &[0x09, 16, 5])
        .function(0x1020, 0x10, &[0x0c, 3, 24])
        .function(0x1030, 0x10, &[0x09, 7, 8]);
    let (table, _) = build(X86_64, &cfi);
    let kind = |address| table.find(address).unwrap().cfa_kind;
    assert_eq!(kind(0x1000), CfaKind::End as u8);
    let vfork = table.find(0x1010).unwrap();
    assert_eq!((vfork.ra_kind, vfork.ra_offset), (RaKind::Register as u8, 5));
    let resolver = table.find(0x1020).unwrap();
    assert_eq!((resolver.cfa_kind, resolver.arg, resolver.cfa_offset), (CfaKind::Register as u8, 3, 24));
    assert_eq!(kind(0x1030), CfaKind::Unsupported as u8);
}

#[test]
fn a_file_that_finds_a_frame_by_rbx_says_where_rbx_is() {
    let common = eh_frame().cie("zR", 16, &X86_64_START);
    // push %rbx after one byte.
    let saves = common.function(0x1000, 0x10, &[0x41, 0x0e, 16, 0x83, 2]);
    let (table, _) = build(X86_64, &saves);
    assert_eq!((table.find(0x1000), table.find(0x1001)), (Some(sp(8)), Some(sp(16))));
    let (table, _) = build(X86_64, &saves.function(0x1010, 0x10, &[0x0c, RBX, 24]));
    assert_eq!(table.find(0x1000), Some(Rule { arg: RBX_UNCHANGED, ..sp(8) }));
    assert_eq!(table.find(0x1001), Some(Rule { arg: 2, ..sp(16) }));
}

#[test]
fn realigned_frames_linkage_stubs_and_signal_frames_are_expressed() {
    // DW_CFA_def_cfa_expression: [rbp-8]; DW_CFA_expression rbp: rbp+0
    let realigned = [0x0f, 3, 0x76, 0x78, 0x06, 0x10, 6, 2, 0x76, 0];
    let stub = [0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];
    // [rsp+160]; rip at rsp+168, rbp at rsp+120
    let signal = [0x0f, 4, 0x77, 0xa0, 1, 0x06, 0x10, 16, 3, 0x77, 0xa8, 1, 0x10, 6, 3, 0x77, 0xf8, 0];
    let cfi = eh_frame()
        .cie("zR", 16, &X86_64_START)
        .function(0x1000, 0x10, &realigned)
        .function(0x1010, 0x10, &stub)
        .cie("zRS", 16, &[])
        .function(0x1020, 0x10, &signal);
    let (table, _) = build(X86_64, &cfi);
    let expected = Rule {
        cfa_offset: -8,
        cfa_kind: CfaKind::FpDeref as u8,
        fp_kind: FpKind::AtFp as u8,
        ra_offset: -1,
        ..Rule::default()
    };
    assert_eq!(table.find(0x1000), Some(expected));
    assert_eq!(table.find(0x1010), Some(Rule { cfa_kind: CfaKind::Plt as u8, arg: 11, ..sp(8) }));
    assert_eq!(table.find(0x1020), Some(Rule { cfa_kind: CfaKind::Signal as u8, ..NOTHING }));
}

#[test]
fn an_offset_survives_an_expression() {
    // Hand-written assembly relies on it: def_cfa_offset 56, an expression, then def_cfa_register.
    let body = [0x0e, 56, 0x41, 0x0f, 3, 0x77, 0x10, 0x06, 0x41, 0x0d, 7];
    let (table, _) = build(X86_64, &eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x10, &body));
    assert_eq!(table.find(0x1001).unwrap().cfa_kind, CfaKind::SpDeref as u8);
    assert_eq!(table.find(0x1002), Some(sp(56)));
}

#[test]
fn aarch64_leaves_keep_the_link_register_and_signed_addresses_are_marked() {
    // negate_ra_state; stp x29, x30, [sp, #-32]!; mov x29, sp
    let body = [0x41, 0x2d, 0x41, 0x0e, 32, 0x9d, 4, 0x9e, 3, 0x41, 0x0d, 29];
    let (table, _) = build(AARCH64, &eh_frame().cie("zR", 30, &AARCH64_START).function(0x1000, 0x10, &body));
    let leaf = Rule { cfa_kind: CfaKind::Sp as u8, ra_kind: RaKind::LinkRegister as u8, ..Rule::default() };
    let saved = Rule {
        cfa_offset: 32,
        fp_offset: -4,
        ra_offset: -3,
        cfa_kind: CfaKind::Sp as u8,
        fp_kind: FpKind::AtCfa as u8,
        ra_kind: RA_SIGNED,
        arg: 0,
    };
    assert_eq!(table.find(0x1000), Some(leaf));
    assert_eq!(table.find(0x1001), Some(Rule { ra_kind: leaf.ra_kind | RA_SIGNED, ..leaf }));
    assert_eq!(table.find(0x1002), Some(saved));
    assert_eq!(table.find(0x1003), Some(Rule { cfa_kind: CfaKind::Fp as u8, ..saved }));
}

#[test]
fn undescribed_trampolines_are_found_from_the_byte_before_them() {
    let mut code = [0xc3; 0x100];
    code[0x40..0x49].copy_from_slice(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]);
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 8, &[]);
    let (table, notes) = build_over(X86_64, &code, &cfi).unwrap();
    let signal = Rule { cfa_kind: CfaKind::Signal as u8, ..NOTHING };
    for (address, rule) in [(0x103e, NOTHING), (0x103f, signal), (0x1048, signal), (0x1049, NOTHING)] {
        assert_eq!(table.find(address), Some(rule), "{address:#x}");
    }
    assert_eq!(notes.stubs_recognised, 1);
}

#[test]
fn a_trampoline_at_the_start_of_a_segment_has_no_row_before_it() {
    // The byte before it is in no segment.
    let trampoline = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 8, &[]);
    let sections = vec![(".eh_frame", EH_FRAME, 2, &cfi.bytes[..])];
    let segments = vec![(0x1000, &CODE[..0x20]), (0x1021, &trampoline[..])];
    let file = image(&Parts { machine: X86_64, segments, sections });
    let (table, _) = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap();
    assert_eq!(table.find(0x1020), Some(NOTHING));
    assert_eq!(table.find(0x1021).unwrap().cfa_kind, CfaKind::Signal as u8);
}

#[test]
fn padding_at_the_start_of_a_segment_does_not_close_the_hole_before_it() {
    // Found by fuzzing.
    let mut second = [0x90; 0x20];
    second[0x10] = 0xc3;
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x20, &[]).function(0x3010, 0x10, &[0x0e, 16]);
    let sections = vec![(".eh_frame", EH_FRAME, 2, &cfi.bytes[..])];
    let segments = vec![(0x1000, &CODE[..0x20]), (0x3000, &second[..])];
    let file = image(&Parts { machine: X86_64, segments, sections });
    let (table, notes) = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap();
    for (address, rule) in [(0x101f, sp(8)), (0x1020, NOTHING), (0x2000, NOTHING), (0x3000, NOTHING), (0x3010, sp(16))]
    {
        assert_eq!(table.find(address), Some(rule), "{address:#x}");
    }
    assert_eq!(notes.gaps_of_padding, 0);
}

#[test]
fn undescribed_linkage_stubs_are_known_by_their_instructions() {
    let mut code = [0xc3; 0x100];
    code[0x40..0x4c].copy_from_slice(&[0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0]);
    code[0x50..0x5c].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9]);
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x40, &[0x0e, 32]);
    let stubs = &code[0x40..0x60];
    let sections = vec![(".eh_frame", EH_FRAME, 2, &cfi.bytes[..]), (".plt", 0x1040, 6, stubs)];
    let file = image(&Parts { machine: X86_64, segments: vec![(0x1000, &code)], sections });
    let (table, notes) = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap();
    assert_eq!(table.find(0x1040), Some(sp(16)));
    assert_eq!(table.find(0x1046), Some(sp(24)));
    assert_eq!(table.find(0x1050), Some(Rule { cfa_kind: CfaKind::Plt as u8, arg: 11, ..sp(8) }));
    assert_eq!(table.find(0x1060), Some(NOTHING));
    assert_eq!(notes.stubs_recognised, 2);
}

#[test]
fn what_follows_a_broken_instruction_has_no_information() {
    // An opcode that nobody defined, after a row that is good.
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x20, &[0x44, 0x3f, 0x44, 0x0e, 16]);
    let (table, notes) = build(X86_64, &cfi);
    assert_eq!(table.find(0x1003), Some(sp(8)));
    assert_eq!(table.find(0x1004), Some(NOTHING));
    assert_eq!(notes.functions_malformed, 1);
    // States put aside without end.
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x20, &[0x0a; 100]);
    let (_, notes) = build(X86_64, &cfi.function(0x1020, 0x20, &[]));
    assert_eq!(notes.functions_too_long, 1);
}

#[test]
fn a_small_file_cannot_ask_for_a_large_table() {
    let cfi = eh_frame().cie("zR", 16, &X86_64_START).function(0x1000, 0x10, &[]);
    let far = Cfi::debug_frame().cie("", 16, &X86_64_START).function(0x7000_0000_0000, 0x10, &[]);
    let sections = vec![(".eh_frame", EH_FRAME, 2, &cfi.bytes[..]), (".debug_frame", 0, 0, &far.bytes[..])];
    let segments = vec![(0x1000, &CODE[..]), (0x7000_0000_0000, &CODE[..])];
    let file = image(&Parts { machine: X86_64, segments, sections });
    let error = UnwindTable::build(&ElfImage::parse(&file).unwrap()).unwrap_err();
    assert_eq!(error, BuildError::SpanTooLong { pages: 0x7_0000_0000 });
}

#[test]
fn files_that_cannot_be_unwound_say_why() {
    let none = image(&Parts { machine: X86_64, segments: vec![(0x1000, &CODE)], sections: vec![] });
    assert_eq!(UnwindTable::build(&ElfImage::parse(&none).unwrap()), Err(BuildError::NoInformation));
    let data = image(&Parts { machine: X86_64, ..Parts::default() });
    assert_eq!(ElfImage::parse(&data).unwrap_err(), ElfError::NoExecutableSegment);
    let other = image(&Parts { machine: 243, segments: vec![(0x1000, &CODE)], sections: vec![] });
    assert_eq!(ElfImage::parse(&other).unwrap_err(), ElfError::UnsupportedMachine(243));
    assert!(matches!(ElfImage::parse(b"not an ELF file"), Err(ElfError::Malformed(_))));
}

#[test]
fn the_load_bias_is_that_of_the_executable_segment() {
    let file = image(&Parts {
        machine: X86_64,
        segments: vec![(0x20_1000, &CODE[..0x2800]), (0x40_4800, &CODE[..0x100])],
        sections: vec![],
    });
    let image = ElfImage::parse(&file).unwrap();
    assert_eq!(image.machine(), Machine::X86_64);
    let [first, second] = image.executable_segments() else { panic!("two segments") };
    let down = |offset: u64| offset & !0xfff;
    // The kernel maps whole pages.
    for segment in [first, second] {
        let start = 0x7f00_0000_0000 + down(segment.address);
        assert_eq!(image.load_bias(start, down(segment.file_offset)), Some(0x7f00_0000_0000));
    }
    assert_eq!(first.file_offset + first.bytes, second.file_offset, "they share a page of the file");
    // A mapping that `mprotect` split begins within a segment.
    let start = 0x7f00_0000_0000 + first.address + 0x1000;
    assert_eq!(image.load_bias(start, first.file_offset + 0x1000), Some(0x7f00_0000_0000));
    assert_eq!(image.load_bias(0x1000, down(second.file_offset) + 0x10_0000), None);
}

/// A `.gopclntab` of Go 1.20's form with its functions: the offset from the start of the code, the flags, and the steps.
fn pclntab(text: u64, functions: &[(u32, u8, &[u8])], end: u32) -> Vec<u8> {
    const HEADER_BYTES: u64 = 8 + 8 * 8;
    let mut steps = vec![0];
    let mut entries = Vec::new();
    let mut facts = Vec::new();
    let facts_start = 8 * functions.len() + 4;
    for (start, flags, function_steps) in functions {
        entries.extend(start.to_le_bytes());
        entries.extend(((facts_start + facts.len()) as u32).to_le_bytes());
        // The function's start, name, arguments, deferred return; its steps; five more words, its id and flags.
        for word in [*start, 0, 0, 0, steps.len() as u32, 0, 0, 0, 0, 0] {
            facts.extend(word.to_le_bytes());
        }
        facts.extend([0, *flags, 0, 0]);
        steps.extend(*function_steps);
    }
    entries.extend(end.to_le_bytes());
    let list = HEADER_BYTES + steps.len() as u64;
    let mut table = 0xffff_fff1_u32.to_le_bytes().to_vec();
    table.extend([0, 0, 1, 8]);
    for word in [functions.len() as u64, 0, text, HEADER_BYTES, HEADER_BYTES, HEADER_BYTES, HEADER_BYTES, list] {
        table.extend(word.to_le_bytes());
    }
    [table, steps, entries, facts].concat()
}

#[test]
fn go_functions_are_unwound_by_their_own_table() {
    // Steps: the change of the bytes that the stack pointer is lowered by (zigzag, from -1), and the bytes of code.
    // 0 for 4 bytes, 24 for 0x20, 0 for 1.
    let main: &[u8] = &[2, 4, 48, 0x20, 47, 1, 0];
    const TOP: u8 = 1;
    const WRITES_SP: u8 = 2;
    let functions = [(0_u32, 0, main), (0x40, TOP, &[2, 0x20, 0]), (0x60, WRITES_SP, &[2, 0x20, 0])];
    let table = pclntab(0x1000, &functions, 0x80);
    let debug = Cfi::debug_frame().cie("", 16, &X86_64_START).function(0x1000, 0x80, &[0x0e, 32]);
    let sections = vec![(".gopclntab", 0x8000, 2, &table[..]), (".debug_frame", 0, 0, &debug.bytes[..])];
    let build = |machine: u16| {
        let file = image(&Parts { machine, segments: vec![(0x1000, &CODE)], sections: sections.clone() });
        let image = ElfImage::parse(&file).unwrap();
        assert!(image.is_go());
        UnwindTable::build(&image).unwrap()
    };
    let (table, notes) = build(X86_64);
    let framed = Rule { fp_offset: -2, fp_kind: FpKind::AtCfa as u8, ..sp(32) };
    assert_eq!(notes.go_functions, 3);
    for (address, rule) in [(0x1000, sp(8)), (0x1004, framed), (0x1023, framed), (0x1024, sp(8))] {
        assert_eq!(table.find(address), Some(rule), "{address:#x}");
    }
    assert_eq!(table.find(0x1040).unwrap().cfa_kind, CfaKind::End as u8);
    assert_eq!(table.find(0x1060), Some(Rule { arg: OTHER_STACK, ..FRAME_POINTER_RULE }));
    assert_eq!(table.find(0x1080), Some(NOTHING));

    let (table, _) = build(AARCH64);
    let leaf = Rule { cfa_kind: CfaKind::Sp as u8, ra_kind: RaKind::LinkRegister as u8, ..Rule::default() };
    let framed = Rule {
        cfa_offset: 24,
        fp_offset: -4,
        ra_offset: -3,
        cfa_kind: CfaKind::Sp as u8,
        fp_kind: FpKind::AtCfa as u8,
        ..Rule::default()
    };
    assert_eq!((table.find(0x1000), table.find(0x1004)), (Some(leaf), Some(framed)));
}
