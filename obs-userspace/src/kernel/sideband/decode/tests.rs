//! Records written by hand, and records cut and damaged at will.

use proptest::prelude::*;

use super::*;

/// As an event that asked for build ids.
fn decode(record: &[u8]) -> Result<Option<SidebandEvent>, DecodeError> {
    super::decode(record, true)
}

const TIME_NS: u64 = 123_456_789;

/// A record with its header and its trailer.
fn record(kind: perf_event_type, misc: u16, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let size = (HEADER_BYTES + body.len() + TRAILER_BYTES) as u16;
    let mut bytes = (kind as u32).to_ne_bytes().to_vec();
    bytes.extend(misc.to_ne_bytes());
    bytes.extend(size.to_ne_bytes());
    bytes.extend(body);
    bytes.extend(words(&[77, 78]));
    bytes.extend(TIME_NS.to_ne_bytes());
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

fn mapped(misc: u16, place: &[u64; 3], identity: &[u8], protection: u32) -> Vec<u8> {
    let path = b"/usr/bin/true\0\0\0";
    let parts: [&[u8]; 5] = [&words(&[10, 11]), &longs(place), identity, &words(&[protection, 2]), path];
    record(perf_event_type::PERF_RECORD_MMAP2, misc, &parts)
}

fn inode() -> Vec<u8> {
    [words(&[8, 1]), longs(&[4_242, 7])].concat()
}

#[test]
fn forks_and_exits_are_read() {
    let body = [words(&[10, 1, 11, 2]), longs(&[99])].concat();
    assert_eq!(
        decode(&record(perf_event_type::PERF_RECORD_FORK, 0, &[&body])),
        Ok(Some(SidebandEvent::Fork { pid: 10, parent_pid: 1, tid: 11, time_ns: 99 }))
    );
    assert_eq!(
        decode(&record(perf_event_type::PERF_RECORD_EXIT, 0, &[&body])),
        Ok(Some(SidebandEvent::Exited { pid: 10, tid: 11, time_ns: 99 }))
    );
}

#[test]
fn code_that_comes_into_the_kernel_and_leaves_it() {
    let body = |flags: u16| {
        let kind_and_flags = [1_u16.to_ne_bytes(), flags.to_ne_bytes()].concat();
        [longs(&[0xffff_ffff_c000_1000]), words(&[256]), kind_and_flags, b"bpf_prog_6de_x\0\0".to_vec()].concat()
    };
    for (flags, is_loaded) in [(0, true), (1, false)] {
        assert_eq!(
            decode(&record(perf_event_type::PERF_RECORD_KSYMBOL, 0, &[&body(flags)])),
            Ok(Some(SidebandEvent::KernelCode {
                start: 0xffff_ffff_c000_1000,
                length_bytes: 256,
                name: b"bpf_prog_6de_x".as_slice().into(),
                is_loaded,
                time_ns: TIME_NS
            }))
        );
    }
}

#[test]
fn names_tell_exec_from_rename() {
    let body = [words(&[10, 11]), b"bash\0\0\0\0".to_vec()].concat();
    let name: Box<[u8]> = (*b"bash").into();
    assert_eq!(
        decode(&record(perf_event_type::PERF_RECORD_COMM, MISC_EXEC, &[&body])),
        Ok(Some(SidebandEvent::Exec { pid: 10, name: name.clone(), time_ns: TIME_NS }))
    );
    assert_eq!(
        decode(&record(perf_event_type::PERF_RECORD_COMM, 0, &[&body])),
        Ok(Some(SidebandEvent::Rename { pid: 10, tid: 11, name, time_ns: TIME_NS }))
    );
}

#[test]
fn mappings_carry_an_inode_or_a_build_id() {
    let expected = |file| SidebandEvent::Mapped {
        pid: 10,
        tid: 11,
        time_ns: TIME_NS,
        start: 0x1000,
        end: 0x3000,
        file_offset: 0x400,
        path: (*b"/usr/bin/true").into(),
        file,
    };
    let place = [0x1000, 0x2000, 0x400];
    let file = FileIdentity::Inode { device_major: 8, device_minor: 1, number: 4_242, generation: 7 };
    assert_eq!(decode(&mapped(MISC_USER, &place, &inode(), 5)), Ok(Some(expected(file))));

    let mut id = vec![16, 0, 0, 0];
    id.extend(1..=20);
    let file = FileIdentity::BuildId((1..=16).collect());
    let misc = MISC_USER | MISC_MAPPING_HAS_BUILD_ID;
    assert_eq!(decode(&mapped(misc, &place, &id, 5)), Ok(Some(expected(file))));
}

#[test]
fn the_mark_of_a_build_id_counts_only_where_one_was_asked_for() {
    let place = [0x1000, 0x2000, 0];
    let marked = mapped(MISC_USER | MISC_MAPPING_HAS_BUILD_ID, &place, &inode(), 5);
    let Ok(Some(SidebandEvent::Mapped { file, .. })) = super::decode(&marked, false) else { panic!("a mapping") };
    assert_eq!(file, FileIdentity::Inode { device_major: 8, device_minor: 1, number: 4_242, generation: 7 });
}

#[test]
fn only_code_of_processes_counts() {
    let place = [0x1000, 0x2000, 0];
    assert_eq!(decode(&mapped(MISC_USER, &place, &inode(), 3)), Ok(None), "data");
    assert_eq!(decode(&mapped(1, &place, &inode(), 5)), Ok(None), "the kernel");
}

#[test]
fn losses_are_counted() {
    let lost = record(perf_event_type::PERF_RECORD_LOST, 0, &[&longs(&[5, 17])]);
    assert_eq!(decode(&lost), Ok(Some(SidebandEvent::Lost { count: 17, time_ns: TIME_NS })));
}

#[test]
fn records_of_other_types_are_passed_over() {
    assert_eq!(decode(&record(perf_event_type::PERF_RECORD_THROTTLE, 0, &[])), Ok(None));
    assert_eq!(decode(&[0xff; HEADER_BYTES]), Ok(None));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let wraps = mapped(MISC_USER, &[u64::MAX, 2, 0], &inode(), 5);
    assert!(matches!(decode(&wraps), Err(DecodeError::Malformed { .. })));
    for length in [0, 21, 255] {
        let mut id = vec![0; 24];
        id[0] = length;
        let record = mapped(MISC_USER | MISC_MAPPING_HAS_BUILD_ID, &[0, 1, 0], &id, 5);
        assert!(matches!(decode(&record), Err(DecodeError::Malformed { .. })), "a build id of {length} bytes");
    }
}

#[test]
fn short_records_are_refused() {
    for length in 0..HEADER_BYTES {
        assert!(matches!(decode(&vec![0; length]), Err(DecodeError::TooShort { .. })));
    }
    // Without the trailer, and with one byte too few before it.
    let fork = record(perf_event_type::PERF_RECORD_FORK, 0, &[&[0; 24]]);
    for length in HEADER_BYTES..fork.len() {
        assert!(matches!(decode(&fork[..length]), Err(DecodeError::TooShort { .. })), "{length} bytes");
    }
}

proptest! {
    #[test]
    fn nothing_panics(
        kind in 0_u32..24,
        misc in any::<u16>(),
        build_ids in any::<bool>(),
        body in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(body);
        let _ = super::decode(&bytes, build_ids);
    }
}
