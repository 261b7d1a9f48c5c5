//! No program of ours changes what it watches: every object that is built is scanned for what it calls.

use std::path::Path;

use anyhow::{Result, anyhow};
use obs_ebpf_build::{Request, allowed};

use super::Violation;
use crate::host;

pub(super) fn check(workspace: &Path) -> Result<Vec<Violation>> {
    let target_dir = host::target_dir()?;
    let out_dir = target_dir.join("bpf/objects");
    let objects = obs_ebpf_build::build(&Request { workspace, target_dir: &target_dir, out_dir: &out_dir })?;
    let mut found = Vec::new();
    for object in objects {
        found.extend(violations(&object.name, &host::read(&object.path)?)?);
    }
    Ok(found)
}

fn violations(name: &str, object: &[u8]) -> Result<Vec<Violation>> {
    let path = format!("obs-ebpf/src/bin/{name}.rs");
    let found = allowed::violations(object).map_err(|reason| anyhow!("cannot read the object `{name}`: {reason}"))?;
    let explain = |what| Violation {
        path: path.clone(),
        line: 0,
        message: format!(
            "{what} in obs-ebpf-build/src/allowed.rs; what only reads may be added there, with its reason"
        ),
    };
    Ok(found.into_iter().map(explain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one instruction and an exit, in a section of this name.
    fn object(section: &str, helper: u8) -> Vec<u8> {
        let names = format!("\0{section}\0");
        let code = [0x85, 0, 0, 0, helper, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (bytes[16], bytes[18], bytes[58], bytes[60], bytes[62]) = (1, 247, 64, 4, 2);
        let header = |name: u32, kind: u32, flags: u64, offset: usize, size: usize, link: u32| {
            let words =
                [u64::from(kind) << 32 | u64::from(name), flags, 0, offset as u64, size as u64, u64::from(link), 1, 0];
            words.map(u64::to_le_bytes).concat()
        };
        let (code_at, names_at) = (bytes.len(), bytes.len() + code.len());
        bytes.extend(code);
        bytes.extend(names.bytes());
        let table = bytes.len() as u64;
        bytes.extend(vec![0; 64]);
        bytes.extend(header(1, 1, 4, code_at, code.len(), 0));
        bytes.extend(header(0, 3, 0, names_at, names.len(), 0));
        bytes.extend(header(0, 2, 0, names_at, 0, 2));
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        bytes
    }

    #[test]
    fn reading_is_fine_and_writing_is_found() {
        assert_eq!(violations("cpu", &object("perf_event", 1)).unwrap(), []);
        let found = violations("cpu", &object("perf_event", 36)).unwrap();
        assert_eq!(found[0].path, "obs-ebpf/src/bin/cpu.rs");
        assert!(found[0].message.contains("helper 36"), "{found:?}");
        assert_eq!(violations("cpu", &object("lsm/file_open", 1)).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(violations("cpu", b"text").is_err());
    }
}
