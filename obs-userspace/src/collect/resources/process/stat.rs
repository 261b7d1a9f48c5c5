//! The texts of `/proc/PID`. Pure; a process chooses its own name, and may choose one that looks like the rest of the line.

use super::super::text::{fields, lines, number};

/// What `/proc/PID/stat` says, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessStat<'a> {
    /// The name of its first thread.
    pub(super) name: &'a [u8],
    /// `R`, `S`, `D`, `Z`, ….
    pub(super) state: u8,
    pub(super) minor_faults: u64,
    pub(super) major_faults: u64,
    pub(super) user_ticks: u64,
    pub(super) system_ticks: u64,
    pub(super) threads: u64,
    /// When it started, in ticks since boot.
    pub(super) started_ticks: u64,
    pub(super) virtual_bytes: u64,
    pub(super) resident_pages: u64,
}

pub(super) fn parse_stat(text: &[u8]) -> Option<ProcessStat<'_>> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let name = text.get(open + 1..close)?;
    let mut fields = fields(text.get(close + 1..)?);
    let [state] = fields.next()? else { return None };
    // Behind the state, field 3: 4 to 8 (parents, terminal) may be negative, 9 flags.
    let mut next = |skipped: usize| fields.nth(skipped).and_then(number);
    let minor_faults = next(6)?;
    let major_faults = next(1)?;
    let user_ticks = next(1)?;
    let system_ticks = next(0)?;
    // 16 and 17 children's times, 18 and 19 priorities.
    let threads = next(4)?;
    let started_ticks = next(1)?;
    let virtual_bytes = next(0)?;
    // A kernel with a wrong count in flight prints a negative one.
    let resident_pages = fields.next().map(|field| number(field).unwrap_or(0))?;
    Some(ProcessStat {
        name,
        state: *state,
        minor_faults,
        major_faults,
        user_ticks,
        system_ticks,
        threads,
        started_ticks,
        virtual_bytes,
        resident_pages,
    })
}

/// `read_bytes` and `write_bytes` of `/proc/PID/io`.
pub(super) fn parse_io(text: &[u8]) -> Option<[u64; 2]> {
    let [read, written] = super::super::text::values_of(text, ["read_bytes", "write_bytes"]);
    Some([read?, written?])
}

/// `voluntary_ctxt_switches` and `nonvoluntary_ctxt_switches` of `/proc/PID/task/TID/status`. The name, in its first line,
/// has its line breaks escaped.
pub(super) fn parse_switches(text: &[u8]) -> Option<[u64; 2]> {
    let (mut voluntary, mut involuntary) = (None, None);
    for line in lines(text) {
        if let Some(value) = line.strip_prefix(b"voluntary_ctxt_switches:") {
            voluntary = fields(value).next().and_then(number);
        } else if let Some(value) = line.strip_prefix(b"nonvoluntary_ctxt_switches:") {
            involuntary = fields(value).next().and_then(number);
        }
    }
    Some([voluntary?, involuntary?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_behind_any_name() {
        for name in ["cat", "a b", ") R 1 1", "x) (y", "line\nbreak", "(((", ""] {
            let text = format!(
                "77 ({name}) S 1 77 77 0 -1 4194560 11 12 13 14 15 16 17 18 20 0 3 0 424242 8192000 99 18446744073709551615 1"
            );
            let stat = parse_stat(text.as_bytes()).unwrap();
            assert_eq!(stat.name, name.as_bytes());
            assert_eq!((stat.state, stat.minor_faults, stat.major_faults), (b'S', 11, 13));
            assert_eq!((stat.user_ticks, stat.system_ticks, stat.threads), (15, 16, 3));
            assert_eq!((stat.started_ticks, stat.virtual_bytes, stat.resident_pages), (424_242, 8_192_000, 99));
        }
        for text in [
            &b""[..],
            b")(",
            b"1 (a)",
            b"1 (a) S",
            b"1 (a) S 1 2 3",
            b"1 a S 1 2",
            b"1 (a) SS 1 77 77 0 -1 4 1 2 3 4 5 6 7 8 20 0 3 0 4 8 9",
        ] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn io_and_switches() {
        assert_eq!(
            parse_io(b"rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 4\ncancelled_write_bytes: 5\n"),
            Some([3, 4])
        );
        assert_eq!(parse_io(b"rchar: 1\n"), None);
        let status =
            b"Name:\tvoluntary_ctxt_switches:\\n9\nvoluntary_ctxt_switches:\t21\nnonvoluntary_ctxt_switches:\t4\n";
        assert_eq!(parse_switches(status), Some([21, 4]));
        assert_eq!(parse_switches(b"Name:\tx\n"), None);
    }
}
