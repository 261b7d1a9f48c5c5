//! True stacks: every sample of a program whose call chain is known shows that chain.
//!
//! A chain is a list of function names, root first. `*` stands for one frame of any name and `**` for any number of
//! them: libc's own local functions, which a stripped libc does not name. What lies below the last name is free, for the
//! program's leaf may be in libc, the vDSO or the kernel. Inlined frames are left out of the comparison.

mod chain;

use std::fs;

use anyhow::{Context as _, Result, ensure};

use self::chain::{Chains, Expectation};
use crate::{
    harness::{Context, Need, Scenario},
    read::folded::{Folded, FoldedStack, bare},
};

const HERTZ: &str = "999";

macro_rules! scenario {
    ($name:literal, [$($workload:literal),*] $(+ $need:ident)*, $run:expr) => {
        Scenario { name: concat!("stacks::", $name), needs: &[$($need,)* Need::Root, Need::RealCpu, $(Need::Workload($workload)),*], run: $run }
    };
}

const NEEDS_UNSHARE: Need = Need::Tool("unshare");

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!("without_frame_pointers_through_qsort", ["omit_fp"], |context| {
        check(context, &["omit_fp"], &[Expectation::most(QSORT_CHAIN)])
    }),
    scenario!("static_without_frame_pointers", ["omit_fp_static"], |context| {
        check(context, &["omit_fp_static"], &[Expectation::most(QSORT_CHAIN)])
    }),
    scenario!("a_signal_handler_on_an_alternate_stack", ["signal_altstack"], |context| {
        check(
            context,
            &["signal_altstack"],
            &[Expectation::most(&["_start", "**", "main", "interrupted", "**", "on_timer", "handler_work", "burn"])],
        )
    }),
    scenario!("a_signal_on_a_functions_first_instruction", ["signal_entry"], |context| {
        check(
            context,
            &["signal_entry"],
            &[Expectation::most(&["_start", "**", "main", "trap_caller", "trap_at_entry", "*", "on_trap", "burn"])],
        )
    }),
    scenario!("alloca_and_realigned_stacks", ["realign"], |context| {
        check(
            context,
            &["realign"],
            &[Expectation::most(&[
                "_start",
                "**",
                "main",
                "grows",
                "realigns",
                "drap",
                "big_frame",
                "realign_hot",
                "burn",
            ])],
        )
    }),
    scenario!("recursion_deeper_than_is_kept", ["recursion"], deep_recursion),
    scenario!("exceptions_across_libraries", ["exceptions"], exceptions),
    scenario!("async_rust_two_hundred_frames_deep", ["rust_async"], async_rust),
    scenario!("a_stripped_static_pie", ["static_pie", "static_pie.names"], stripped_static_pie),
    scenario!("a_static_musl_program", ["musl_static"], |context| {
        // musl itself is compiled without unwind information: the chain ends at the program's outermost function, and
        // the few samples inside musl have none. Both must be said.
        let folded = record(context, &["musl_static"])?.folded()?;
        Chains::new(&[Expectation::most(PIE_CHAIN)]).allow_cut("no unwind information at address", 0.05).ensure(&folded)
    }),
    scenario!("a_plugin_that_comes_and_goes", ["plugin_host", "plugin_code.so"], |context| plugin(context, "file")),
    scenario!("code_in_a_memfd", ["plugin_host", "plugin_code.so"], |context| plugin(context, "memfd")),
    scenario!("vfork_then_exec", ["vfork_exec"], |context| {
        check(
            context,
            &["vfork_exec"],
            &[
                Expectation::share(&["_start", "**", "main", "vfork_caller", "vfork_child", "burn"], 0.3),
                Expectation::share(&["_start", "**", "main", "after_exec", "burn"], 0.3),
            ],
        )
    }),
    scenario!("a_process_that_becomes_another_program", ["exec_first", "exec_second"], |context| {
        check(
            context,
            &["exec_first", "{exec_second}"],
            &[
                Expectation::share(&["_start", "**", "main", "before_exec", "burn"], 0.3),
                Expectation::share(&["_start", "**", "main", "second_outer", "second_hot", "burn"], 0.3),
            ],
        )
    }),
    scenario!("go_with_cgo", ["go_cgo"], go_with_cgo),
    scenario!("code_made_at_run_time", ["jit"], jit),
    scenario!("in_namespaces_of_its_own", ["jit"] + NEEDS_UNSHARE, in_namespaces),
    scenario!("code_of_a_bpf_program", ["bpf_program"], bpf_program),
    scenario!("doctor_names_the_file_that_cuts_stacks", ["musl_static"], quality),
    scenario!("a_process_whose_first_thread_has_ended", ["leaderless"], |context| {
        check(context, &["leaderless"], &[Expectation::most(&["**", "left_behind", "burn"])])?;
        // Met when the first thread is long gone.
        let target = context.background("leaderless", &["100"])?;
        let folded =
            context.record(".folded", &["-d", "1s", "-F", HERTZ, "-p", &target.pid().to_string()])?.folded()?;
        Chains::new(&[Expectation::most(&["**", "left_behind", "burn"])]).ensure(&folded)
    }),
    scenario!("threads_end_at_clone", ["busy"], |context| {
        check(context, &["busy", "2", "0.7"], &[Expectation::most(&["**", "busy_thread"])])
    }),
];

const QSORT_CHAIN: &[&str] = &[
    "_start", "**", "main", "chain_01", "chain_02", "chain_03", "chain_04", "chain_05", "chain_06", "chain_07",
    "chain_08", "chain_09", "chain_10", "chain_11", "chain_12",
];

const PIE_CHAIN: &[&str] =
    &["**", "main", "pie_1", "pie_2", "pie_3", "pie_4", "pie_5", "pie_6", "pie_hot", "burn_until"];

/// Records a workload (its name, then its arguments; `{name}` stands for another workload's path) and compares.
fn check(context: &Context, command: &[&str], expected: &[Expectation]) -> Result<()> {
    let folded = record(context, command)?.folded()?;
    Chains::new(expected).ensure(&folded)
}

fn record(context: &Context, command: &[&str]) -> Result<crate::harness::Recording> {
    let mut arguments = vec!["-F".to_owned(), HERTZ.to_owned(), "--".to_owned(), context.program(command[0])];
    arguments.extend(command[1..].iter().map(|argument| {
        let other = argument.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        other.map_or_else(|| (*argument).to_owned(), |name| context.program(name))
    }));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    context.record(".folded", &arguments)
}

/// The innermost 512 frames are kept, and the summary says how many stacks were cut so.
fn deep_recursion(context: &Context) -> Result<()> {
    const FRAMES_KEPT: usize = 512;
    let recording = record(context, &["recursion"])?;
    let folded = recording.folded()?;
    let hot = judged(&folded, "recurse")?;
    let true_ones = folded.count(|stack| {
        let frames = stack.called_user_frames();
        let recursion = frames.iter().filter(|frame| bare(frame) == "recurse").count();
        stack.has("burn")
            && stack.cut.as_deref() == Some("too deep")
            && frames.len() == FRAMES_KEPT
            && frames.first().is_some_and(|outermost| bare(outermost) == "recurse")
            && recursion >= FRAMES_KEPT - 5
    });
    println!("  {true_ones} of {hot} samples of the recursion have its {FRAMES_KEPT} innermost frames");
    ensure!(
        true_ones as f64 >= 0.999 * hot as f64,
        "{true_ones} of {hot} samples have the {FRAMES_KEPT} innermost frames"
    );
    let cut = recording.number("/user_stacks/incomplete/too deep")?;
    ensure!(cut >= true_ones, "the summary counts {cut} stacks as too deep, the profile has {true_ones}");
    Ok(())
}

/// While libgcc installs the context of a handler, it writes the handler's address over its own return address: for these
/// few instructions nobody can tell who called whom. Such stacks look as if the handler had called libgcc.
fn exceptions(context: &Context) -> Result<()> {
    const INSTALLING_SHARE_MAX: f64 = 0.01;
    let folded = record(context, &["exceptions"])?.folded()?;
    let is_installing = |stack: &FoldedStack| {
        let frames = stack.called_user_frames();
        frames.windows(2).any(|pair| ["catcher", "middle"].contains(&pair[0]) && pair[1].starts_with("_Unwind_R"))
    };
    let installing = folded.count(is_installing);
    println!("  {installing} of {} samples are in the jump to a handler", folded.total());
    ensure!(
        installing as f64 <= INSTALLING_SHARE_MAX * folded.total() as f64,
        "{installing} of {} samples look as if a handler had called libgcc",
        folded.total()
    );
    let expected = [Expectation::most(&["_start", "**", "main", "catcher", "middle", "thrower"])];
    Chains::new(&expected).ensure(&chain::only(&folded, |stack| !is_installing(stack)))
}

fn async_rust(context: &Context) -> Result<()> {
    const LEVELS: usize = 100;
    let folded = record(context, &["rust_async"])?.folded()?;
    let hot = judged(&folded, "rust_async::async_hot")?;
    let true_ones = folded.count(|stack| {
        // Whether a level's poll is inlined or not, it is there once per level.
        let levels = stack.frames.iter().filter(|frame| bare(frame) == "rust_async::level::{{closure}}").count();
        stack.has("rust_async::async_hot")
            && stack.cut.is_none()
            && stack.frames.first().is_some_and(|root| root == "_start")
            && levels == LEVELS
            && stack.has("rust_async::main")
    });
    println!("  {true_ones} of {hot} samples have all {LEVELS} levels");
    ensure!(true_ones as f64 >= 0.999 * hot as f64, "only {true_ones} of {hot} samples have all {LEVELS} levels");
    Ok(())
}

/// How many samples have to be true: all but those that are cut because the tables were on their way, and those of the
/// program's start and end, which are whole and do not have this function. Neither may be many.
fn judged(folded: &Folded, function: &str) -> Result<u64> {
    let total = folded.total();
    let early = folded.count(|stack| stack.cut.as_deref().is_some_and(|reason| chain::EARLY.contains(&reason)));
    ensure!(early as f64 <= chain::EARLY_SHARE_MAX * total as f64, "{early} of {total} samples are cut");
    let outside = folded.count(|stack| stack.cut.is_none() && !stack.has(function));
    ensure!(outside as f64 <= chain::OUTSIDE_SHARE_MAX * total as f64, "{outside} of {total} samples are outside");
    Ok(total - early - outside)
}

/// Its frames have no names, but addresses: a twin at the same addresses that was not stripped names them.
fn stripped_static_pie(context: &Context) -> Result<()> {
    let mut folded = record(context, &["static_pie"])?.folded()?;
    let names = chain::Symbols::read(&context.workload("static_pie.names"))?;
    let mut named = 0;
    for stack in &mut folded.stacks {
        for frame in &mut stack.frames {
            let address = frame.strip_prefix("[static_pie+0x").and_then(|rest| rest.strip_suffix(']'));
            if let Some(name) = address.and_then(|text| names.at(u64::from_str_radix(text, 16).ok()?)) {
                *frame = name.to_owned();
                named += 1;
            }
        }
    }
    ensure!(named > 0, "no frame is given as [static_pie+0x…]: {:?}", folded.stacks.first());
    Chains::new(&[Expectation::most(PIE_CHAIN)]).ensure(&folded)
}

fn plugin(context: &Context, how: &str) -> Result<()> {
    check(
        context,
        &["plugin_host", how, "{plugin_code.so}"],
        &[
            Expectation::share(
                &["_start", "**", "main", "host_calls", "plugin_outer", "plugin_inner", "plugin_hot", "burn"],
                0.6,
            ),
            Expectation::share(&["_start", "**", "main", "host_alone", "burn"], 0.2),
        ],
    )
}

/// Go's goroutines and the C code that they call run on different stacks: the C code's chain ends where it was called.
fn go_with_cgo(context: &Context) -> Result<()> {
    let folded = record(context, &["go_cgo", "4"])?.folded()?;
    let levels = &["runtime.goexit", "runtime.main", "main.main", "main.levelOne", "main.levelTwo", "main.hotGo"];
    let is_go = |stack: &FoldedStack| stack.has("main.hotGo");
    let go = chain::only(&folded, is_go);
    ensure!(go.total() * 4 > folded.total(), "{} of {} samples are in main.hotGo", go.total(), folded.total());
    Chains::new(&[Expectation::share(levels, 0.9)]).ensure(&go)?;
    let c = chain::only(&folded, |stack| stack.has("hot_c"));
    ensure!(c.total() * 4 > folded.total(), "{} of {} samples are in hot_c", c.total(), folded.total());
    let called = c.count(|stack| {
        let frames = stack.called_user_frames();
        let at = frames.iter().position(|frame| bare(frame) == "hot_c").unwrap_or(0);
        at > 0 && frames[..at].iter().any(|frame| bare(frame).starts_with("runtime.asmcgocall"))
    });
    ensure!(
        called as f64 >= 0.999 * c.total() as f64,
        "{called} of {} samples of hot_c are under asmcgocall",
        c.total()
    );
    Ok(())
}

/// The program itself has unwind information, and musl, which it contains, has none.
fn quality(context: &Context) -> Result<()> {
    let target = context.background("musl_static", &["100"])?;
    let pid = target.pid().to_string();
    let finished = context.run(&mut context.obs(&["doctor", "--json", "-p", &pid, "-d", "2s"]))?;
    ensure!(finished.status.success(), "obs ended with {}: {}", finished.status, finished.stderr);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout_text()).context("it printed no JSON")?;
    let text = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let number = |pointer: &str| report.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_default();
    ensure!(number("/processes/0/user_stacks/complete") > 100, "hardly a stack is complete:\n{report:#}");
    ensure!(number("/processes/0/cuts/0/samples") > 0, "no stack is cut:\n{report:#}");
    ensure!(text("/processes/0/cuts/0/reason") == "no unwind information at address", "another reason:\n{report:#}");
    ensure!(text("/processes/0/cuts/0/file").ends_with("/musl_static"), "another file:\n{report:#}");
    ensure!(!text("/processes/0/cuts/0/advice").is_empty(), "no advice:\n{report:#}");
    Ok(())
}

/// Named by a map that the program wrote, marked as code that was made at run time.
fn jit(context: &Context) -> Result<()> {
    let recording = record(context, &["jit"])?;
    let map = recording.finished.stdout_text();
    let map = map.lines().find_map(|line| line.strip_prefix("map ")).context("the workload named no map")?.to_owned();
    let folded = recording.folded();
    fs::remove_file(&map).with_context(|| format!("removing {map}"))?;
    let folded = folded?;
    let chain = &["_start", "**", "main", "run_jit", "jit_outer", "jit_middle", "jit_hot"];
    Chains::new(&[Expectation::most(chain)]).ensure(&folded)?;
    let marked = folded.count(|stack| stack.frames.iter().any(|frame| frame == "jit_hot_[j]"));
    ensure!(marked == folded.count_with("jit_hot"), "some of jit_hot's frames are not marked as made at run time");
    Ok(())
}

/// As in a container: the program, and the map that it writes of its code, are where only it sees them, and it knows itself by
/// another process id.
fn in_namespaces(context: &Context) -> Result<()> {
    let script = format!(
        "mount -t tmpfs none /mnt && cp {} /mnt/inside && mount -t tmpfs none /tmp && exec /mnt/inside",
        context.program("jit")
    );
    let command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", &script];
    let recording = context.record(".folded", &[&["-F", HERTZ, "--"], &command[..]].concat())?;
    let mut folded = recording.folded()?;
    folded.stacks.retain(|stack| stack.process == "inside");
    Chains::new(&[Expectation::most(&["_start", "**", "main", "run_jit", "jit_outer", "jit_middle", "jit_hot"])])
        .ensure(&folded)
}

/// A BPF program's code is a frame of the kernel's, named by the program.
fn bpf_program(context: &Context) -> Result<()> {
    let recording = record(context, &["bpf_program"])?;
    let output = recording.finished.stdout_text();
    let tag = output.lines().find_map(|line| line.strip_prefix("tag ")).context("the workload named no tag")?;
    let name = format!("bpf_prog_{tag}_obs_test_bpf_[k]");
    let folded = recording.folded()?;
    let inside = folded.count(|stack| stack.frames.last() == Some(&name));
    ensure!(inside * 2 > folded.total(), "{name} is the leaf of {inside} of {} samples only", folded.total());
    let below_send = folded.count(|stack| stack.frames.last() == Some(&name) && stack.has("main"));
    ensure!(below_send == inside, "{} samples in {name} have no caller in main", inside - below_send);
    Ok(())
}
