//! Trials of maps, of helpers, and of bpf(2) itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_func_id, bpf_map_type, bpf_prog_type};

use super::{
    super::sys::{
        SysError,
        bpf::{MapSpec, create_map, element, try_mmap, update_element},
        drain::{DrainError, HashDrain},
        page_bytes,
        program::{Functions, ProgramSpec, enable_stats, load_program, load_types, program_info},
    },
    Outcome, Prober,
    instructions::{Instructions, Register, count_in},
};

/// The name of everything that a trial creates, as `bpftool` would show it while the trial lasts.
pub(super) const TRIAL_NAME: &str = "obs_trial";
/// More than the limits of locked memory that distributions set by default (64 KiB, 8 MiB).
const LARGE_MAP_BYTES: u32 = 16 << 20;

/// The advice for helpers and maps that a kernel does not know.
fn since(release: &str) -> String {
    format!("use a newer kernel: Linux {release} has it")
}

fn map(
    kind: bpf_map_type,
    key_size_bytes: u32,
    value_size_bytes: u32,
    max_entries: u32,
    flags: u32,
) -> Result<OwnedFd, SysError> {
    create_map(&MapSpec { kind, key_size_bytes, value_size_bytes, max_entries, flags, name: TRIAL_NAME })
}

/// An array of one element of 8 bytes.
pub(super) fn counter() -> Result<OwnedFd, SysError> {
    map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0)
}

/// What a program made by [`count_in`] has counted.
pub(super) fn counted(counter: BorrowedFd<'_>) -> Result<u64, SysError> {
    Ok(element(counter, &0_u32)?.unwrap_or(0))
}

/// Loads a program of the type that samples.
fn load_sampling(instructions: &Instructions, functions: Option<Functions<'_>>) -> Result<OwnedFd, SysError> {
    load_program(&ProgramSpec {
        kind: bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT,
        instructions: instructions.words(),
        attach_type: None,
        attach_btf_id: 0,
        functions,
        name: TRIAL_NAME,
    })
}

/// Creates a map, puts something in and gets it out again.
pub(super) fn bpf(prober: &Prober) -> Outcome {
    let tried = || {
        let map = counter()?;
        update_element(map.as_fd(), &0_u32, &42_u64)?;
        load_sampling(&count_in(map.as_fd()), None)?;
        Ok(if counted(map.as_fd())? == 42 {
            Outcome::Works
        } else {
            Outcome::missing("a map does not return what was put in", "report this to the maker of the kernel")
        })
    };
    prober.judge(tried(), "use a kernel built with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS")
}

pub(super) fn jit(prober: &Prober) -> Outcome {
    let tried = || {
        let program = load_sampling(&Instructions::default().end(), None)?;
        let info = program_info(program.as_fd())?;
        // 0 also where the kernel hides addresses from this process: then its setting has to tell.
        Ok(match (info.machine_code_bytes, prober.host.bpf_jit_enable) {
            (1.., _) | (0, Some(1..)) => Outcome::Works,
            (0, Some(_)) => Outcome::works_by("the interpreter, several times slower: set net.core.bpf_jit_enable=1"),
            (0, None) => Outcome::works_by("machine code or the interpreter: this process may not know which"),
        })
    };
    prober.judge(tried(), "")
}

/// `int FUNCTION(void)`, twice: the types of the program of [`bpf_loop`].
fn types_of_two_functions() -> Vec<u8> {
    const KIND_INT: u32 = 1 << 24;
    const KIND_FUNC: u32 = 12 << 24;
    const KIND_FUNC_PROTO: u32 = 13 << 24;
    const INT_SIGNED_32_BITS: u32 = 1 << 24 | 32;
    const INT_TYPE: u32 = 1;
    const PROTO_TYPE: u32 = 2;
    let strings = b"\0int\0main\0step\0";
    let types: [u32; 13] = [
        [1, KIND_INT, 4].as_slice(),
        &[INT_SIGNED_32_BITS],
        &[0, KIND_FUNC_PROTO, INT_TYPE],
        &[5, KIND_FUNC, PROTO_TYPE],
        &[10, KIND_FUNC, PROTO_TYPE],
    ]
    .concat()
    .try_into()
    .unwrap_or([0; 13]);
    let types_bytes = size_of_val(&types) as u32;
    let mut btf = 0xeb9f_u16.to_ne_bytes().to_vec();
    btf.extend([1, 0]);
    for word in [24, 0, types_bytes, types_bytes, strings.len() as u32].iter().chain(&types) {
        btf.extend(word.to_ne_bytes());
    }
    btf.extend(strings);
    btf
}
const MAIN_TYPE: u32 = 3;
const STEP_TYPE: u32 = 4;

pub(super) fn program_types(prober: &Prober) -> Outcome {
    let tried = load_types(&types_of_two_functions()).map(|_| Outcome::Works);
    prober.judge(tried, &since("5.2"))
}

pub(super) fn array_mmap(prober: &Prober) -> Outcome {
    let tried = || {
        let array = map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE)?;
        try_mmap(&array, page_bytes())?;
        Ok(Outcome::Works)
    };
    prober.judge_or(tried(), "one system call for each element: about a hundred times slower")
}

fn try_hash(prober: &Prober, kind: bpf_map_type, remedy: &str) -> Outcome {
    let tried = || {
        let map = map(kind, 8, 8, 16, 0)?;
        load_sampling(&store(map.as_fd()), None)?;
        Ok(Outcome::Works)
    };
    prober.judge(tried(), remedy)
}

pub(super) fn per_cpu_hash(prober: &Prober) -> Outcome {
    try_hash(prober, bpf_map_type::BPF_MAP_TYPE_PERCPU_HASH, &since("4.6"))
}

pub(super) fn lru_hash(prober: &Prober) -> Outcome {
    try_hash(prober, bpf_map_type::BPF_MAP_TYPE_LRU_HASH, &since("4.10"))
}

pub(super) fn hash_batch(prober: &Prober) -> Outcome {
    let fallback = "two system calls for each entry instead of one for thousands";
    let tried = || {
        let map = map(bpf_map_type::BPF_MAP_TYPE_HASH, 8, 8, 16, 0)?;
        for key in 0..5_u64 {
            update_element(map.as_fd(), &key, &(key * key))?;
        }
        let mut sum = 0;
        let mut drain = HashDrain::<u64, u64>::new(map.as_fd(), 2)?;
        match drain.drain(|_, values| sum += values[0]) {
            Ok(drained) if drained.entries == 5 && sum == 30 => Ok(Outcome::Works),
            Ok(_) | Err(DrainError::Unsupported { .. }) => Ok(Outcome::works_by(fallback)),
            Err(DrainError::Refused(error)) => Err(error),
        }
    };
    prober.judge_or(tried(), fallback)
}

/// Puts an element of 8 zero bytes under a key of 8 zero bytes.
fn store(map: BorrowedFd<'_>) -> Instructions {
    use Register::{R1, R2, R3, R4, R10};
    Instructions::default()
        .store_long_on_stack(-8, 0)
        .store_long_on_stack(-16, 0)
        .load_map(R1, map)
        .copy(R2, R10)
        .add(R2, -8)
        .copy(R3, R10)
        .add(R3, -16)
        .set(R4, 0)
        .call(bpf_func_id::BPF_FUNC_map_update_elem)
        .end()
}

pub(super) fn hash_on_demand(prober: &Prober) -> Outcome {
    let tried = || {
        let map = map(bpf_map_type::BPF_MAP_TYPE_HASH, 8, 8, 16, BPF_F_NO_PREALLOC)?;
        load_sampling(&store(map.as_fd()), None)?;
        Ok(Outcome::Works)
    };
    prober.judge_or(tried(), "maps that take all of their memory at once (Linux 6.1 does better)")
}

pub(super) fn ring_buffer(prober: &Prober) -> Outcome {
    use Register::{R1, R2, R3, R4, R10};
    let tried = || {
        let ring = map(bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 0, page_bytes() as u32, 0)?;
        let program = Instructions::default()
            .store_long_on_stack(-8, 0)
            .load_map(R1, ring.as_fd())
            .copy(R2, R10)
            .add(R2, -8)
            .set(R3, 8)
            .set(R4, 0)
            .call(bpf_func_id::BPF_FUNC_ringbuf_output)
            .end();
        load_sampling(&program, None)?;
        Ok(Outcome::Works)
    };
    prober.judge(tried(), &since("5.8"))
}

pub(super) fn bpf_loop(prober: &Prober) -> Outcome {
    use Register::{R1, R2, R3, R4};
    let tried = || {
        let types = load_types(&types_of_two_functions())?;
        let main = |step_at| {
            Instructions::default()
                .set(R1, 8)
                .load_function(R2, step_at)
                .set(R3, 0)
                .set(R4, 0)
                .call(bpf_func_id::BPF_FUNC_loop)
                .end()
        };
        // The length does not depend on the distance.
        let step_at = main(0).len();
        let program = main(step_at as i32).end();
        let starts = [[0, MAIN_TYPE], [step_at as u32, STEP_TYPE]];
        load_sampling(&program, Some(Functions { types: types.as_fd(), starts: &starts }))?;
        Ok(Outcome::Works)
    };
    prober.judge(tried(), &since("5.17"))
}

/// Loads a sampling program that calls one helper after another; `prepare` sets the arguments of each.
fn try_program(prober: &Prober, program: &Instructions, release: &str) -> Outcome {
    let tried = load_sampling(program, None).map(|_| Outcome::Works);
    prober.judge(tried, &since(release))
}

pub(super) fn get_stack(prober: &Prober) -> Outcome {
    use Register::{R2, R3, R4, R10};
    let program = Instructions::default()
        .copy(R2, R10)
        .add(R2, -64)
        .set(R3, 64)
        .set(R4, 0)
        .call(bpf_func_id::BPF_FUNC_get_stack)
        .end();
    try_program(prober, &program, "4.18")
}

pub(super) fn task_registers(prober: &Prober) -> Outcome {
    let program = Instructions::default()
        .call(bpf_func_id::BPF_FUNC_get_current_task_btf)
        .copy(Register::R1, Register::R0)
        .call(bpf_func_id::BPF_FUNC_task_pt_regs)
        .end();
    try_program(prober, &program, "5.15 (built with CONFIG_DEBUG_INFO_BTF)")
}

pub(super) fn cgroup_ids(prober: &Prober) -> Outcome {
    let program = Instructions::default()
        .call(bpf_func_id::BPF_FUNC_get_current_cgroup_id)
        .set(Register::R1, 1)
        .call(bpf_func_id::BPF_FUNC_get_current_ancestor_cgroup_id)
        .end();
    try_program(prober, &program, "5.6 (built with CONFIG_CGROUPS)")
}

pub(super) fn boot_clock(prober: &Prober) -> Outcome {
    let program = Instructions::default().call(bpf_func_id::BPF_FUNC_ktime_get_boot_ns).end();
    try_program(prober, &program, "5.8")
}

pub(super) fn run_time_stats(prober: &Prober) -> Outcome {
    let setting = "kernel.bpf_stats_enabled";
    let tried = enable_stats().map(|_| Outcome::Works);
    let is_set = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1");
    if tried.is_err() && is_set {
        return Outcome::works_by(format!("the setting {setting}=1, which measures whether obs runs or not"));
    }
    prober.judge_for_admin(tried, &format!("or set {setting}=1 (sysctl)"), &since("5.8"))
}

pub(super) fn locked_memory(prober: &Prober) -> Outcome {
    let limit = prober.host.locked_memory_limit_bytes;
    match map(bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, LARGE_MAP_BYTES, 1, 0) {
        Ok(_) => Outcome::Works,
        // The smaller maps of the other trials could be created: it is the size that is refused.
        Err(error) if error.is_permission() => Outcome::missing(
            format!(
                "a map of {LARGE_MAP_BYTES} bytes is refused; the limit of locked memory is {} bytes",
                limit.unwrap_or(0)
            ),
            "raise it (ulimit -l unlimited; LimitMEMLOCK=infinity), or grant CAP_SYS_RESOURCE",
        ),
        Err(error) => Outcome::missing(error.to_string(), "free memory, or raise the limit of obs's cgroup"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::btf::Btf, *};

    #[test]
    fn the_hand_made_types_are_well_formed() {
        let btf = Btf::parse(types_of_two_functions()).expect("they are BTF");
        assert_eq!(btf.function_type_id("main"), Some(MAIN_TYPE));
        assert_eq!(btf.function_type_id("step"), Some(STEP_TYPE));
        assert_eq!(btf.type_count(), 5);
    }
}
