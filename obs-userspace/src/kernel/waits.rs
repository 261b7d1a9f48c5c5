//! Reads the waits that have not ended when a recording does.

use std::{fs::File, io::Read as _, os::unix::fs::FileExt as _};

use aya::{
    Pod,
    maps::{HashMap, MapData, PerCpuArray},
};
use obs_common::{
    limits::SNAPSHOT_STACK_BYTES_MAX,
    stack::{GONE_STACK, NO_STACK, StackKey},
    wait::{FinishedWait, NO_WAKER, UnfinishedWait, Wait},
};

use super::{
    load::{KernelError, Object},
    read::Shared,
};

const FINISHED: &str = "WAIT_FINISHED";
const WAITS: &str = "WAITS";

// SAFETY: the type is `repr(C)`, all integers, without padding, and valid for every bit pattern.
unsafe impl Pod for Shared<Wait> {}

/// The user-space half of `obs_ebpf::wait::iterate`.
pub struct UnfinishedWaits {
    finished: PerCpuArray<MapData, Shared<FinishedWait>>,
    waits: HashMap<MapData, u32, Shared<Wait>>,
}

/// How the waits of a recording end.
#[derive(Debug, Default)]
pub struct Ends {
    /// What threads do that is not over.
    pub waits: Vec<UnfinishedWait>,
    /// Until when the time of threads was counted whose own end nobody saw, in nanoseconds of the monotonic clock: the sum, modulo
    /// 2^64. It means something where running counts too.
    pub last_seen_ns: u64,
}

impl UnfinishedWaits {
    /// Takes what it needs out of an object.
    ///
    /// # Errors
    /// If the object counts no waits.
    pub fn take(object: &mut Object) -> Result<Self, KernelError> {
        Ok(Self { finished: object.take_map(FINISHED)?, waits: object.take_map(WAITS)? })
    }

    /// What threads do that is not over, and the waits that are over and whose user stacks were still to be taken. The object's
    /// other programs must be detached; `program` is its loaded iterator.
    ///
    /// # Errors
    /// If the kernel does not let the threads be listed.
    pub fn read(&self, object: &mut Object, program: &'static str) -> Result<Ends, KernelError> {
        super::read::wait_for_running_programs();
        let bytes = object.run_task_iterator(program)?;
        let records = bytes.chunks_exact(size_of::<UnfinishedWait>());
        let mut waits: Vec<UnfinishedWait> = records
            // SAFETY: the chunk is as long as the type, which is `repr(C)`, all integers, and valid for every bit pattern.
            .map(|record| unsafe { record.as_ptr().cast::<UnfinishedWait>().read_unaligned() })
            .collect();
        let finished = self.finished.get(&0, 0);
        let finished = finished.map_err(|error| KernelError::Map { map: FINISHED, why: error.to_string() })?;
        waits.extend(finished.iter().map(|finished| finished.0).filter(|finished| finished.tid != 0).map(unfinished));
        // The iterator has removed those of all threads that there are.
        let gone = self.waits.iter().filter_map(Result::ok).map(|(_, wait)| last_counted_ns(&wait.0));
        Ok(Ends { waits, last_seen_ns: gone.fold(0, u64::wrapping_add) })
    }
}

/// Until when a thread's time was counted that is gone: short waits of its were still to be.
fn last_counted_ns(wait: &Wait) -> u64 {
    wait.since_ns.wrapping_sub(wait.short.blocked_ns).wrapping_sub(wait.short.queued_ns)
}

/// A wait that is over, of which the user stack was still to be taken.
fn unfinished(wait: FinishedWait) -> UnfinishedWait {
    let FinishedWait {
        tid,
        state,
        ip: _,
        sp: _,
        image,
        cgroup_id,
        kernel_stack,
        blocked_ns,
        queued_ns,
        waker: _,
        comm,
    } = wait;
    let key = StackKey {
        started_ns: image.started_ns,
        cgroup_id,
        user_stack: GONE_STACK,
        kernel_stack,
        waker: NO_WAKER,
        tgid: image.tgid,
        exec_id: image.exec_id,
        state,
        reserved: 0,
        comm,
    };
    UnfinishedWait { key, blocked_ns, queued_ns, runs: u64::MAX, tid, has_registers: 0, registers: [NO_STACK; _] }
}

/// Where a thread stood when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its instruction pointer in user space.
    pub ip: u64,
    /// Its stack pointer there.
    pub sp: u64,
    /// How often it had been given a CPU in its life; [`u64::MAX`] if that is not known.
    pub runs: u64,
}

impl Standing {
    /// The thread's memory from an address on, as far as it can be read and a snapshot holds it. `None` if the thread does not stand
    /// there any more.
    #[must_use]
    pub fn memory(self, start: u64) -> Option<Box<[u8]>> {
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut bytes = vec![0; SNAPSHOT_STACK_BYTES_MAX];
        let mut length = 0;
        // A read ends before what cannot be read.
        while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
            match memory.read_at(room, start + length as u64) {
                Ok(0) | Err(_) => break,
                Ok(read) => length += read,
            }
        }
        bytes.truncate(length);
        // Behind the read: it has not gone on meanwhile. Of a thread that waits for a CPU the kernel does not tell where it stands, and not
        // every kernel counts how often one has run.
        let holds = self.told("schedstat").is_some_and(|text| has_run_so_often(&text, self.runs))
            || self.told("syscall").is_some_and(|text| is_at(&text, self.ip, self.sp));
        holds.then(|| bytes.into())
    }

    /// What a file of the thread says.
    fn told(self, file: &str) -> Option<String> {
        let mut text = String::new();
        File::open(format!("/proc/{}/task/{}/{file}", self.pid, self.tid)).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Whether a thread has been given a CPU so often in its life, by its file `schedstat`, which ends with that.
fn has_run_so_often(text: &str, runs: u64) -> bool {
    // Kernels that count nothing say 0.
    runs != 0 && text.split_ascii_whitespace().nth(2).and_then(|word| word.parse().ok()) == Some(runs)
}

/// Whether a thread stands there, by its file `syscall`: a number, arguments, the stack pointer and the instruction pointer.
fn is_at(text: &str, ip: u64, sp: u64) -> bool {
    let hexadecimal = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let mut words = text.split_ascii_whitespace().rev();
    let mut next_is = |value| words.next().and_then(hexadecimal) == Some(value);
    next_is(ip) && next_is(sp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_where_its_file_says() {
        let waiting = "202 0x7f00 0x80 0x0 0x0 0x0 0xffffffff 0x7ffe10 0x4011d6\n";
        assert!(is_at(waiting, 0x40_11d6, 0x7f_fe10));
        assert!(!is_at(waiting, 0x40_11d6, 0x7f_fe18));
        assert!(is_at("-1 0x7ffe10 0x4011d6\n", 0x40_11d6, 0x7f_fe10));
        assert!(!is_at("running\n", 0, 0));
        assert!(!is_at("", 0, 0));
    }

    #[test]
    fn a_thread_has_run_as_often_as_its_file_says() {
        assert!(has_run_so_often("1048576 2000 31\n", 31));
        assert!(!has_run_so_often("1048576 2000 31\n", 30));
        assert!(!has_run_so_often("1048576 2000 31\n", u64::MAX));
        assert!(!has_run_so_often("0 0 0\n", 0));
        assert!(!has_run_so_often("", 0));
    }

    #[test]
    fn memory_of_a_waiting_thread_is_read_and_of_one_that_went_on_is_not() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            let _ = ended.recv();
        });
        let (pid, tid) = (std::process::id(), told.recv().unwrap());
        let path = format!("/proc/{pid}/task/{tid}/syscall");
        let place = std::iter::from_fn(|| {
            std::thread::yield_now();
            Some(std::fs::read_to_string(&path).unwrap())
        })
        .filter_map(|text| {
            let words: Vec<u64> =
                text.split(' ').filter_map(|w| u64::from_str_radix(w.trim().strip_prefix("0x")?, 16).ok()).collect();
            text.starts_with("202 ").then(|| (words[words.len() - 1], words[words.len() - 2]))
        })
        .next();
        let (ip, sp) = place.unwrap();
        let elsewhere = Standing { pid, tid, ip, sp: sp + 8, runs: u64::MAX };
        let memory = Standing { sp, ..elsewhere }.memory(sp - 128).unwrap();
        assert!(memory.len() > 128, "{}", memory.len());
        assert_eq!(elsewhere.memory(sp - 128), None);
        let schedstat = elsewhere.told("schedstat").unwrap();
        let runs = schedstat.trim().split(' ').nth(2).unwrap().parse().unwrap();
        assert!(Standing { runs, ..elsewhere }.memory(sp - 128).is_some(), "{schedstat}");
        assert!(Standing { runs: runs - 1, ..elsewhere }.memory(sp - 128).is_none());
        drop(end);
        waiting.join().unwrap();
    }
}
