//! Reads the histograms and counts of latencies, and makes the keys that take what finds no room.

use std::os::fd::AsFd as _;

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError},
};
use obs_common::{
    histogram::LatencyHistogram,
    latency::{DETAIL_OTHER, LatencyKey, LatencyOwner, LatencySource},
};

use super::{
    load::{KernelError, Object},
    read::Shared,
    sys::program::program_info,
};

// SAFETY: the type is `repr(C)`, all integers, without padding, and valid for every bit pattern.
unsafe impl Pod for Shared<LatencyKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<LatencyHistogram> {}

const HISTOGRAMS: &str = "LATENCIES";
const COUNTS: &str = "LATENCY_COUNTS";

/// The maps of latencies of an object.
pub struct LatencyMaps {
    histograms: HashMap<MapData, Shared<LatencyKey>, Shared<LatencyHistogram>>,
    counts: HashMap<MapData, Shared<LatencyKey>, u64>,
}

/// The key of what finds no room.
fn other(source: LatencySource) -> Shared<LatencyKey> {
    Shared(LatencyKey { owner: LatencyOwner::NOBODY, detail: DETAIL_OTHER, source: source as u32, reserved: 0 })
}

fn failed(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |error| KernelError::Map { map, why: error.to_string() }
}

impl LatencyMaps {
    /// Takes the maps out of an object.
    ///
    /// # Errors
    /// If the object has none.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        Ok(Self { histograms: object.take_map(HISTOGRAMS)?, counts: object.take_map(COUNTS)? })
    }

    /// Makes room for what will find none, of a source of durations. To be called before anything is measured.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn make_other_histogram(&mut self, source: LatencySource) -> Result<(), KernelError> {
        self.histograms.insert(other(source), Shared(LatencyHistogram::EMPTY), 0).map_err(failed(HISTOGRAMS))
    }

    /// The same of a source of counts.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn make_other_count(&mut self, source: LatencySource) -> Result<(), KernelError> {
        self.counts.insert(other(source), 0, 0).map_err(failed(COUNTS))
    }

    /// Hands on every histogram as it stands. A key that is made meanwhile may be missed, and one may come twice.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn each_histogram(&self, mut each: impl FnMut(&LatencyKey, &LatencyHistogram)) -> Result<(), KernelError> {
        for entry in &self.histograms {
            let (key, value) = entry.map_err(failed(HISTOGRAMS))?;
            each(&key.0, &value.0);
        }
        Ok(())
    }

    /// Hands on every count as it stands.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn each_count(&self, mut each: impl FnMut(&LatencyKey, u64)) -> Result<(), KernelError> {
        for entry in &self.counts {
            let (key, value) = entry.map_err(failed(COUNTS))?;
            each(&key.0, value);
        }
        Ok(())
    }

    /// Removes a key that nothing was counted under for long, and hands on what it held at the very end.
    pub fn remove_histogram(&mut self, key: &LatencyKey) -> Option<LatencyHistogram> {
        let last = self.histograms.get(&Shared(*key), 0).ok();
        // It may be gone, which is as good.
        let _ = self.histograms.remove(&Shared(*key));
        last.map(|last| last.0)
    }

    /// The same of a count.
    pub fn remove_count(&mut self, key: &LatencyKey) -> Option<u64> {
        let last = self.counts.get(&Shared(*key), 0).ok();
        // As above.
        let _ = self.counts.remove(&Shared(*key));
        last
    }
}

impl Object {
    /// How often a program was to run on a CPU on which it was running already, and was not: the kernel does not let programs
    /// interrupt themselves. What it would have seen is missing.
    #[must_use]
    pub fn runs_missed(&self) -> u64 {
        let programs = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        programs.filter_map(|program| program_info(program.as_fd()).ok()).map(|info| info.recursion_misses).sum()
    }
}

/// Chooses the system calls that are measured.
///
/// # Errors
/// If a number is larger than any that can be chosen.
pub fn choose_system_calls(object: &mut Object, numbers: &[u32]) -> Result<(), KernelError> {
    let mut chosen: Array<_, u8> = object.map_mut("LATENCY_CALLS")?;
    numbers.iter().try_for_each(|number| chosen.set(*number, 1, 0).map_err(failed("LATENCY_CALLS")))
}
