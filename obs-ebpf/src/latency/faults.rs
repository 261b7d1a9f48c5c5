//! Page faults, counted: the kernel says when one happens, and not when it is over.

use obs_common::latency::{LatencySource, PageFault};

use super::{count, owner_of};
use crate::{filter, task::Task};

/// The current thread touched memory that was not there.
#[inline(always)]
pub fn happens(fault: PageFault) {
    let task = Task::current();
    if filter::admits(task) {
        count(LatencySource::PageFault, owner_of(task), fault as u64, 1);
    }
}
