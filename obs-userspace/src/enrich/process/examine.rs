//! What the ledger learns by looking at a process while it lives: its mappings, its files, its perf map.

use std::sync::Arc;

use super::{
    Ledger,
    mappings::{Code, Mapping, MappingTable},
    now_ns, perf_map_file,
};
use crate::model::{container::parse_cgroups, process::ProcessKey};

impl Ledger {
    /// Reads what `/proc` says of an image that lives; returns whether it does.
    pub(super) fn examine(&mut self, id: u64, key: ProcessKey, with_mappings: bool) -> bool {
        if !self.procfs.is_alive(key.pid, key.started_ns) {
            return false;
        }
        let read_ns = now_ns();
        let place = self.procfs.cgroups(key.pid).map(|text| parse_cgroups(&text));
        let executable = self.procfs.executable(key.pid);
        let name = self.procfs.name(key.pid);
        let regions = if with_mappings { self.procfs.executable_mappings(key.pid).ok() } else { None };
        // Its id may have been given to another process while we read.
        if !self.procfs.is_alive(key.pid, key.started_ns) {
            return false;
        }
        let mut dropped = 0;
        let mappings = regions.map(|regions| {
            self.counts.maps_read += 1;
            let mut table = MappingTable::default();
            for region in &regions {
                let code = self.code(region);
                if let Some(mapping) = Mapping::new(region, code, read_ns) {
                    dropped += u64::from(!table.overlay(mapping));
                }
            }
            table
        });
        let Some(image) = self.images.get_mut(&id) else { return false };
        image.place = place.unwrap_or_else(|| image.place.clone());
        image.executable = executable.or_else(|| image.executable.take());
        image.name = image.name.take().or(name);
        if let Some(mut mappings) = mappings
            && !mappings.is_empty()
        {
            // What `/proc` no longer has may have been sampled before it was unmapped.
            dropped += mappings.underlay(&image.mappings);
            image.mappings = Arc::new(mappings);
            self.changed.insert(key);
            image.read_ns = Some(read_ns);
            image.is_whole = true;
        }
        self.counts.mappings_dropped += dropped;
        self.hold_files(id);
        true
    }

    pub(super) fn reread(&mut self, id: u64, key: ProcessKey) {
        let newest = self.by_pid.get(&key.pid).and_then(|ids| ids.last().copied());
        let Some(image) = self.images.get_mut(&id) else { return };
        // A later image of the same process has mappings of its own, which say nothing of this one's.
        if image.ended_ns.is_none() && newest == Some(id) && image.reread.try_at(now_ns()) {
            self.examine(id, key, true);
        }
    }

    /// Opens the files that an image has mapped, so that they can be read when it is gone.
    pub(super) fn hold_files(&self, id: u64) {
        let Some(image) = self.images.get(&id) else { return };
        let process = self.procfs.process(image.pid);
        for mapping in image.mappings.iter() {
            if let Code::File(file) = &mapping.code
                && let Err(error) = self.files.hold(file, &process, mapping.start, mapping.end)
            {
                tracing::debug!(pid = image.pid, %error, "cannot hold a mapped file open");
            }
        }
    }

    pub(super) fn hold_perf_map(&mut self, key: ProcessKey) {
        let Some(image) = self.by_key.get(&key).and_then(|id| self.images.get_mut(id)) else { return };
        if image.perf_map.is_some() || !image.perf_map_retry.try_at(now_ns()) {
            return;
        }
        if !self.procfs.is_alive(key.pid, key.started_ns) {
            return;
        }
        let Some((namespace_pid, user)) = self.procfs.namespace_pid_and_user(key.pid) else { return };
        match perf_map_file::open(&self.procfs.process(key.pid), namespace_pid, user) {
            Ok(file) => image.perf_map = Some(Arc::new(file)),
            Err(error) => tracing::debug!(pid = key.pid, %error, "no perf map"),
        }
    }
}
