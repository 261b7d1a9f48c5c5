//! Makes indexes of names aside, for those who cannot wait for them: a large file takes seconds.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    SymbolizerOptions,
    cache::DiskCache,
    file::{self, Content},
};
use crate::enrich::process::CodeFile;

/// Most files that wait for their index; what does not fit is asked for with the next batch.
const QUEUE_MAX: usize = 64;

/// CPU time that indexes may take at once, after a time without any, in seconds.
const AT_ONCE_SECONDS: f64 = 1.0;

/// How often it is looked whether there is CPU time again.
const PAUSE: Duration = Duration::from_secs(1);

/// The thread, seen from outside. Dropping it lets the thread end after the file that it is at.
#[derive(Debug)]
pub(super) struct Indexer {
    jobs: SyncSender<(Content, Arc<CodeFile>)>,
    done: Receiver<Content>,
}

impl Indexer {
    /// Starts the thread, which takes no more than this share of one CPU in the long run.
    pub(super) fn start(options: SymbolizerOptions, cache: DiskCache, cpu_share_max: f64) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<(Content, Arc<CodeFile>)>(QUEUE_MAX);
        let (results, done) = channel();
        thread::Builder::new().name("obs-names".to_owned()).spawn(move || {
            let mut allowance = Allowance::new(cpu_share_max);
            for (content, code) in queue {
                while allowance.left(Instant::now()) <= 0.0 {
                    thread::sleep(PAUSE);
                }
                let begun = thread_cpu_time();
                let is_indexed = file::make_index(&code, &options, &cache).unwrap_or_else(|error| {
                    tracing::debug!(path = %code.path, %error, "a file is not indexed");
                    false
                });
                allowance.left -= thread_cpu_time().saturating_sub(begun).as_secs_f64();
                if is_indexed && results.send(content).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, done })
    }

    /// Asks for a file's index. False if too many wait already.
    pub(super) fn ask(&self, content: Content, code: &Arc<CodeFile>) -> bool {
        self.jobs.try_send((content, Arc::clone(code))).is_ok()
    }

    /// The files that have an index since this was last asked.
    pub(super) fn done(&self) -> impl Iterator<Item = Content> {
        self.done.try_iter()
    }
}

/// CPU time that may be used now.
#[derive(Debug)]
struct Allowance {
    cpu_share_max: f64,
    /// In seconds; less than none after a large file.
    left: f64,
    since: Instant,
}

impl Allowance {
    fn new(cpu_share_max: f64) -> Self {
        Self { cpu_share_max, left: AT_ONCE_SECONDS, since: Instant::now() }
    }

    fn left(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed * self.cpu_share_max).min(AT_ONCE_SECONDS);
        self.left
    }
}

fn thread_cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_take_their_share_of_cpu_time_in_the_long_run() {
        let mut allowance = Allowance::new(0.01);
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(allowance.left(at(3_600)), AT_ONCE_SECONDS, "it does not pile up");
        // A large file is not refused for its size, but waited for afterwards.
        allowance.left -= 3.0;
        assert!(allowance.left(at(3_600 + 199)) < 0.0);
        assert!(allowance.left(at(3_600 + 202)) > 0.0);
    }
}
