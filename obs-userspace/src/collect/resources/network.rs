//! Network interfaces: bytes, packets, errors, drops.

use std::{fs::File, path::Path, sync::Arc};

use super::{
    budget::{Budget, OTHER},
    emit::{
        Out,
        Value::{Name, Word},
    },
    metrics as m,
    text::{Buffer, Source, fields, lines, numbers},
};

/// Most interfaces with series of their own. A host with a virtual interface per container has hundreds.
const INTERFACES_MAX: usize = 128;

/// What is counted of an interface: bytes, packets, errors and drops received, and the same sent.
pub(super) type Traffic = [u64; 8];

/// One line of `/proc/net/dev`: `eth0: ` and 16 numbers. The kernel allows no colon in a name, but aliases had one; the
/// numbers have none.
pub(super) fn parse_line(line: &[u8]) -> Option<(&str, Traffic)> {
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let (name, rest) = line.split_at_checked(colon)?;
    let name = str::from_utf8(name).ok()?.trim();
    let values: [u64; 12] = numbers(fields(rest.get(1..)?))?;
    let [received, packets, errors, dropped, _, _, _, _, sent, sent_packets, sent_errors, sent_dropped] = values;
    (!name.is_empty())
        .then_some((name, [received, packets, errors, dropped, sent, sent_packets, sent_errors, sent_dropped]))
}

/// The lines of `/proc/net/dev` that are well-formed, without the two of its head.
pub(super) fn interfaces(text: &[u8]) -> impl Iterator<Item = Option<(&str, Traffic)>> {
    lines(text).filter(|line| !line.contains(&b'|')).map(parse_line)
}

/// Reads the host's interfaces.
#[derive(Debug)]
pub(super) struct Network {
    file: Source,
    budget: Budget<8>,
}

impl Network {
    pub(super) fn new(proc: &Path) -> Self {
        // Those of the first process are the host's even if obs has a network of its own.
        let of_first = proc.join("1/net/dev");
        let path = if File::open(&of_first).is_ok() { of_first } else { proc.join("net/dev") };
        Self { file: Source::new(path), budget: Budget::new(INTERFACES_MAX) }
    }

    pub(super) fn read(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        const ALL: &[&m::ResourceMetric] = &[m::NETWORK_IO, m::NETWORK_PACKETS, m::NETWORK_ERRORS, m::NETWORK_DROPPED];
        let text = match self.file.read(buffer) {
            Ok(text) => text,
            Err(error) => return out.unreadable(ALL, "net/dev", self.file.path(), &error),
        };
        for interface in interfaces(text) {
            match interface {
                Some((name, traffic)) => {
                    if !self.budget.read(name, traffic) {
                        out.failed("net/dev: more interfaces than are counted");
                    }
                }
                None => out.failed("net/dev"),
            }
        }
        self.budget.end_round();
        let mut any = false;
        for (interface, traffic) in self.budget.listed() {
            any = true;
            put(out, interface, traffic);
        }
        if let Some(traffic) = self.budget.other() {
            put(out, &OTHER.into(), traffic);
        }
        if !any {
            out.absent(ALL, "this host has no network interface");
        }
    }
}

fn put(out: &mut Out<'_>, interface: &Arc<str>, traffic: Traffic) {
    let (received, sent) = traffic.split_at(4);
    for (direction, values) in [("receive", received), ("transmit", sent)] {
        let metrics = [m::NETWORK_IO, m::NETWORK_PACKETS, m::NETWORK_ERRORS, m::NETWORK_DROPPED];
        for (metric, value) in metrics.into_iter().zip(values) {
            out.put(metric, &[Name(interface), Word(direction)], *value as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn names_of_all_kinds() {
        let numbers = "1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
        for name in ["lo", "eth0", "br-0123456789ab", "veth@if7", "enp0s31f6.4094", "eth0:1", "wg%0", "été"] {
            for gap in ["", " "] {
                let text = format!("{HEAD}  {name}:{gap}{numbers}\n");
                let found: Vec<_> = interfaces(text.as_bytes()).collect();
                assert_eq!(found, [Some((name, [1, 2, 3, 4, 5, 6, 7, 8]))]);
            }
        }
    }

    #[test]
    fn garbage_is_no_interface() {
        for line in [
            "eth0",
            ": 1 2 3 4 5 6 7 8 9 10 11 12",
            "eth0: 1 2 3",
            "eth0: a b c d e f g h i j k l",
            "eth0:-1 2 3 4 5 6 7 8 9 10 11 12",
        ] {
            assert_eq!(interfaces(line.as_bytes()).collect::<Vec<_>>(), [None], "{line}");
        }
        assert_eq!(interfaces(HEAD.as_bytes()).count(), 0);
    }
}
