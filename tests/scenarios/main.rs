//! What obs must show of programs whose answer is known, on the kernel that this runs on.
//!
//! `cargo test -p obs-tests --test scenarios [-- FILTER]`; [`harness`] says what it needs and how to add a scenario.

mod agent;
mod agent_duress;
mod filters;
mod formats;
mod harness;
mod kernel_objects;
mod latency;
mod lifecycle;
mod misuse;
mod offcpu;
mod read;
mod stacks;
mod stats;
mod totals;
mod why;

use std::{process::ExitCode, sync::Arc, time::Instant};

use harness::{Context, Scenario};
use libtest_mimic::{Arguments, Failed, Trial};

/// Every scenario, by theme.
const THEMES: &[&[Scenario]] = &[
    totals::SCENARIOS,
    offcpu::SCENARIOS,
    why::SCENARIOS,
    latency::SCENARIOS,
    formats::SCENARIOS,
    filters::SCENARIOS,
    misuse::SCENARIOS,
    lifecycle::SCENARIOS,
    kernel_objects::SCENARIOS,
    stacks::SCENARIOS,
    agent::SCENARIOS,
    agent_duress::SCENARIOS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: a scenario counts CPU time, and another one beside it would be its noise.
    arguments.test_threads = Some(1);
    let context = match Context::prepare() {
        Ok(context) => Arc::new(context),
        Err(error) => {
            eprintln!("cannot run the scenarios: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = THEMES
        .iter()
        .flat_map(|theme| theme.iter())
        .map(|scenario| trial(scenario, &context, arguments.list))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A scenario that cannot run here is listed as ignored, and its reason printed: a skipped check never looks like a
/// passed one.
fn trial(scenario: &'static Scenario, context: &Arc<Context>, only_list: bool) -> Trial {
    let context = Arc::clone(context);
    match context.missing(scenario) {
        Some(reason) => {
            if !only_list {
                println!("SKIPPED {}: {reason}", scenario.name);
            }
            Trial::test(scenario.name, move || Err(Failed::from(reason))).with_ignored_flag(true)
        }
        None => Trial::test(scenario.name, move || run(scenario, &context)),
    }
}

/// Runs a scenario, again if it failed where that may be the machine's doing; which is told then.
fn run(scenario: &Scenario, context: &Context) -> Result<(), Failed> {
    let mut attempt = 1;
    loop {
        let begin = Instant::now();
        let result = (scenario.run)(context);
        println!("  took {:.1} s", begin.elapsed().as_secs_f64());
        match result {
            Ok(()) => return Ok(()),
            Err(error) if attempt < context.attempts() => {
                println!("\nTRIED AGAIN {}: {}", scenario.name, format!("{error:#}").replace('\n', " / "));
            }
            Err(error) => return Err(Failed::from(format!("{error:#}"))),
        }
        attempt += 1;
    }
}
