//! What is known of some processes at one time, for whoever finds names in another thread or later.

use std::{collections::HashMap, sync::Arc};

use super::{Ledger, Mapping, MappingTable, PerfMapFile, Unmapped};
use crate::model::process::{ProcessInfo, ProcessKey};

/// Where processes have their code. It keeps the files that they map open, as far as the ledger does.
#[derive(Debug, Default)]
pub struct Places {
    images: HashMap<ProcessKey, Place>,
}

#[derive(Debug)]
struct Place {
    info: ProcessInfo,
    mappings: Arc<MappingTable>,
    perf_map: Option<Arc<PerfMapFile>>,
}

impl Places {
    /// Where an address of a process image lies.
    ///
    /// # Errors
    /// If nothing is known of the image, or it has no executable mapping there.
    pub fn resolve(&self, key: ProcessKey, address: u64) -> Result<&Mapping, Unmapped> {
        let place = self.images.get(&key).filter(|place| !place.mappings.is_empty()).ok_or(Unmapped::UnknownProcess)?;
        place.mappings.find(address).ok_or(Unmapped::NoMapping)
    }

    /// The perf map of a process image, if it has one that could be opened.
    #[must_use]
    pub fn perf_map(&self, key: ProcessKey) -> Option<&Arc<PerfMapFile>> {
        self.images.get(&key)?.perf_map.as_ref()
    }

    /// Who a process image is.
    #[must_use]
    pub fn info(&self, key: ProcessKey) -> Option<&ProcessInfo> {
        Some(&self.images.get(&key)?.info)
    }
}

impl Ledger {
    /// What is known now of some process images.
    #[must_use]
    pub fn places(&self, keys: impl IntoIterator<Item = ProcessKey>) -> Places {
        let place = |key: ProcessKey| {
            let (info, mappings) = (self.info(key)?, Arc::clone(self.mappings(key)?));
            Some((key, Place { info, mappings, perf_map: self.perf_map(key) }))
        };
        Places { images: keys.into_iter().filter_map(place).collect() }
    }
}
