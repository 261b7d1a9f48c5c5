//! Pressure stall information: how long threads waited for a CPU, memory or the disk, of the host or of a cgroup.

use std::path::Path;

use super::{
    emit::{Out, Value::Word},
    metrics as m,
    text::{Buffer, Source, fields, lines, number},
};

/// Microseconds in which some threads waited, and in which all of them did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) some_us: Option<u64>,
    pub(super) full_us: Option<u64>,
}

/// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, and the same of `full`.
pub(super) fn parse_pressure(text: &[u8]) -> Pressure {
    let mut pressure = Pressure::default();
    for line in lines(text) {
        let mut fields = fields(line);
        let kind = fields.next();
        let total_us = fields.find_map(|field| number(field.strip_prefix(b"total=")?));
        match kind {
            Some(b"some") => pressure.some_us = total_us,
            Some(b"full") => pressure.full_us = total_us,
            _ => {}
        }
    }
    pressure
}

/// What can be waited for.
pub(super) const RESOURCES: [&str; 4] = ["cpu", "memory", "io", "irq"];

/// Reads the pressure of the host.
#[derive(Debug)]
pub(super) struct HostPressure {
    files: [Source; 4],
}

impl HostPressure {
    pub(super) fn new(proc: &Path) -> Self {
        Self { files: RESOURCES.map(|resource| Source::new(proc.join("pressure").join(resource))) }
    }

    pub(super) fn read(&mut self, buffer: &mut Buffer, out: &mut Out<'_>) {
        for (file, resource) in self.files.iter_mut().zip(RESOURCES) {
            let pressure = match file.read(buffer) {
                Ok(text) => parse_pressure(text),
                // Only kernels that account for interrupts have it; the others have the rest.
                Err(error) if resource == "irq" && error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    out.unreadable(&[m::PRESSURE], "pressure", file.path(), &error);
                    continue;
                }
            };
            // That all threads of a host wait for a CPU cannot be; newer kernels print zeros for it.
            let full_us = pressure.full_us.filter(|_| resource != "cpu");
            if pressure == Pressure::default() {
                out.misread(&[m::PRESSURE], "pressure", file.path());
            }
            for (kind, time_us) in [("some", pressure.some_us), ("full", full_us)] {
                if let Some(time_us) = time_us {
                    out.put(m::PRESSURE, &[Word(resource), Word(kind)], seconds(time_us));
                }
            }
        }
    }
}

pub(super) fn seconds(time_us: u64) -> f64 {
    time_us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_one_and_none() {
        let text = b"some avg10=0.25 avg60=0.83 avg300=1.18 total=8212049911\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(parse_pressure(text), Pressure { some_us: Some(8_212_049_911), full_us: Some(7) });
        assert_eq!(parse_pressure(b"full avg10=0.00 total=3"), Pressure { some_us: None, full_us: Some(3) });
        for text in [&b""[..], b"some", b"some total=", b"some total=-1", b"none total=1", b"\xff total=1"] {
            assert_eq!(parse_pressure(text), Pressure::default(), "{text:?}");
        }
    }
}
