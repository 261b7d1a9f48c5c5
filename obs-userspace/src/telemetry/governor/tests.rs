//! Every step up and down, and that nothing swings.

use proptest::prelude::*;

use super::{ladder::*, *};

const ORDER: [Shed; 6] = [
    Shed::HalfFrequency,
    Shed::LowFrequency,
    Shed::Snapshots,
    Shed::SymbolDetails,
    Shed::ProcessResources,
    Shed::Sampling,
];

fn cpu(share: f64) -> Usage {
    Usage {
        user_cpu_share: Some(share * 0.007),
        bpf_cpu_share: Some(share * 0.003),
        rss_bytes: Some(0),
        ..Usage::default()
    }
}

fn memory(share: f64) -> Usage {
    let bytes = |part: f64| Some((share * part * 1e8) as u64);
    Usage { user_cpu_share: Some(0.0), rss_bytes: bytes(0.75), map_bytes: bytes(0.25), ..Usage::default() }
}

/// Gives the same usage for some ticks; returns all changes.
fn ticks(governor: &mut Governor, usage: Usage, count: u32) -> Vec<Change> {
    (0..count).flat_map(|_| governor.tick(&usage)).collect()
}

fn policy() -> Policy {
    Policy { breaker: None, ..Policy::default() }
}

#[test]
fn cpu_time_forces_every_step_up_in_order_and_down_in_reverse() {
    let mut governor = Governor::new(policy(), &[]);
    assert_eq!(governor.steps().iter().map(|step| step.shed).collect::<Vec<_>>(), ORDER);
    for level in 1..=ORDER.len() {
        assert_eq!(ticks(&mut governor, cpu(1.01), 2), []);
        let changes = ticks(&mut governor, cpu(1.01), 1);
        let [Change::Shed { step, because }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((step.shed, because.resource), (ORDER[level - 1], Resource::Cpu));
        assert_eq!(governor.shed(), ORDER[..level]);
    }
    let changes = ticks(&mut governor, cpu(1.01), 300);
    assert!(matches!(changes[..], [Change::Exhausted { .. }]), "told once: {changes:?}");
    for level in (0..ORDER.len()).rev() {
        assert_eq!(ticks(&mut governor, cpu(0.79), 11), []);
        let changes = ticks(&mut governor, cpu(0.79), 1);
        assert_eq!(changes, [Change::TakenBack { step: BUILT_IN[level] }]);
        assert_eq!(governor.shed(), ORDER[..level]);
    }
    assert_eq!(ticks(&mut governor, cpu(0.79), 1_000), []);
}

#[test]
fn memory_forces_the_steps_that_relieve_memory_only() {
    let mut governor = Governor::new(policy(), &[]);
    for level in 1..=4 {
        assert_eq!(ticks(&mut governor, memory(1.01), 11), []);
        let changes = ticks(&mut governor, memory(1.01), 1);
        let [Change::Shed { step, because }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((step.shed, because.resource), (ORDER[level + 1], Resource::Memory));
        assert_eq!(governor.shed(), ORDER[2..2 + level]);
    }
    for level in (0..4).rev() {
        assert_eq!(ticks(&mut governor, memory(0.5), 47), []);
        assert_eq!(ticks(&mut governor, memory(0.5), 1).len(), 1);
        assert_eq!(governor.shed(), ORDER[2..2 + level]);
    }
}

#[test]
fn what_one_budget_has_shed_the_other_steps_over() {
    let mut governor = Governor::new(policy(), &[]);
    ticks(&mut governor, memory(1.5), 24);
    assert_eq!(governor.shed(), ORDER[2..4]);
    // The third step of CPU time is the first that memory holds already; so is the fourth.
    let both = |share| Usage { rss_bytes: Some(90_000_000), ..cpu(share) };
    ticks(&mut governor, both(1.5), 6);
    assert_eq!(governor.shed(), ORDER[..4]);
    let changes = ticks(&mut governor, both(1.5), 3);
    assert!(
        matches!(changes[..], [Change::Shed { step: Step { shed: Shed::ProcessResources, .. }, .. }]),
        "{changes:?}"
    );
    // Memory recovers, but what CPU time needs stays shed.
    ticks(&mut governor, cpu(0.9), 1_000);
    assert_eq!(governor.shed(), ORDER[..5]);
    ticks(&mut governor, cpu(0.1), 1_000);
    assert_eq!(governor.shed(), []);
}

#[test]
fn a_collector_has_its_step_where_it_belongs() {
    let own = Step {
        shed: Shed::Collector("locks"),
        rank: 25,
        relief: Relief { cpu: true, memory: false },
        effect: "waits for locks are not measured",
    };
    let mut governor = Governor::new(policy(), &[own]);
    ticks(&mut governor, cpu(2.0), 9);
    assert_eq!(governor.shed(), [Shed::HalfFrequency, Shed::LowFrequency, Shed::Collector("locks")]);
    assert_eq!(governor.steps().len(), 7);
    let many = Governor::new(policy(), &vec![own; 1_000]);
    assert_eq!(many.steps().len(), BUILT_IN.len() + STEPS_MAX);
}

#[test]
fn within_the_band_nothing_moves() {
    let mut governor = Governor::new(policy(), &[]);
    assert_eq!(ticks(&mut governor, cpu(1.0), 10_000), []);
    ticks(&mut governor, cpu(3.0), 6);
    for share in [0.8, 0.9, 1.0] {
        assert_eq!(ticks(&mut governor, cpu(share), 10_000), [], "{share}");
    }
    // Neither budget is exceeded for long enough in a row.
    for _ in 0..1_000 {
        assert_eq!(ticks(&mut governor, cpu(5.0), 2), []);
        assert_eq!(ticks(&mut governor, cpu(1.0), 1), []);
    }
    for _ in 0..1_000 {
        assert_eq!(ticks(&mut governor, cpu(0.0), 11), []);
        assert_eq!(ticks(&mut governor, cpu(0.9), 1), []);
    }
}

#[test]
fn what_is_unknown_moves_nothing() {
    let mut governor = Governor::new(policy(), &[]);
    ticks(&mut governor, cpu(3.0), 3);
    let unknown = Usage { user_cpu_share: Some(f64::NAN), bpf_cpu_share: Some(f64::INFINITY), ..Usage::default() };
    assert_eq!(ticks(&mut governor, unknown, 1_000), []);
    assert_eq!(ticks(&mut governor, Usage::default(), 1_000), []);
    assert_eq!(governor.shed(), [Shed::HalfFrequency]);
    // One side alone is judged.
    let user = Usage { user_cpu_share: Some(0.02), ..Usage::default() };
    assert_eq!(ticks(&mut governor, user, 3).len(), 1);
    let maps = Usage { map_bytes: Some(u64::MAX), rss_bytes: Some(u64::MAX), ..Usage::default() };
    assert_eq!(ticks(&mut governor, maps, 12).len(), 1);
}

#[test]
fn another_policy_holds_at_once() {
    let mut governor = Governor::new(policy(), &[]);
    ticks(&mut governor, cpu(3.0), 9);
    governor.set_policy(Policy { cpu_share_max: 0.1, ..policy() });
    assert_eq!(ticks(&mut governor, cpu(3.0), 36).len(), 3);
    ticks(&mut governor, cpu(30.0), 9);
    governor.set_policy(Policy { enabled: false, ..policy() });
    let changes = governor.tick(&cpu(30.0));
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| matches!(change, Change::TakenBack { .. })));
    assert_eq!(governor.shed(), []);
    let nothing = Policy {
        cpu_share_max: 0.0,
        memory_bytes_max: 0,
        shed_after_ticks: 0,
        recover_after_ticks: 0,
        recover_below: 9.0,
        ..policy()
    };
    let mut governor = Governor::new(nothing, &[]);
    assert_eq!(ticks(&mut governor, cpu(1.0), 100), []);
}

#[test]
fn frequencies_go_down_and_never_up() {
    let hertz = |configured, level: usize| sampling_hertz(configured, &ORDER[..level]);
    assert_eq!([0, 1, 2, 5, 6].map(|level| hertz(99, level)), [Some(99), Some(49), Some(19), Some(19), None]);
    assert_eq!([0, 1, 2].map(|level| hertz(10, level)), [Some(10), Some(5), Some(5)]);
    assert_eq!([1, 2].map(|level| hertz(1, level)), [Some(1), Some(1)]);
    assert_eq!(sampling_hertz(99, &[Shed::Collector("locks"), Shed::Snapshots]), Some(99));
}

#[test]
fn the_breaker_opens_at_once_and_closes_patiently() {
    let well = Usage { load_per_core: Some(1.0), memory_pressure: Some(0.0), memory_available: Some(0.5), ..cpu(0.5) };
    let cases = [
        (
            Usage { load_per_core: Some(16.1), ..well },
            Usage { load_per_core: Some(12.9), ..well },
            "load is 16.1 per CPU",
        ),
        (Usage { memory_pressure: Some(0.21), ..well }, Usage { memory_pressure: Some(0.17), ..well }, "memory 21 %"),
        (Usage { memory_available: Some(0.019), ..well }, Usage { memory_available: Some(0.024), ..well }, "1.9 % of"),
    ];
    for (distress, better, text) in cases {
        let mut governor = Governor::new(Policy::default(), &[]);
        assert_eq!(ticks(&mut governor, well, 100), []);
        assert_eq!(governor.paused(), None);
        let changes = governor.tick(&distress);
        assert!(changes.len() == 1 && changes[0].to_string().contains(text), "{changes:?}");
        assert!(governor.paused().is_some());
        // Better, but not well: that may last.
        assert_eq!(ticks(&mut governor, better, 1_000), []);
        assert_eq!(ticks(&mut governor, well, 11), []);
        assert_eq!(ticks(&mut governor, better, 1), []);
        assert_eq!(ticks(&mut governor, well, 11), []);
        assert_eq!(ticks(&mut governor, well, 1), [Change::Resumed]);
        assert_eq!(ticks(&mut governor, better, 1_000), []);
    }
    let mut off = Governor::new(policy(), &[]);
    assert_eq!(off.tick(&cases_distress()), []);
}

fn cases_distress() -> Usage {
    Usage { load_per_core: Some(1e9), memory_pressure: Some(1.0), memory_available: Some(0.0), ..Usage::default() }
}

#[test]
fn a_pause_is_no_reason_to_shed_or_recover() {
    let mut governor = Governor::new(Policy::default(), &[]);
    ticks(&mut governor, cpu(3.0), 3);
    let busy = |usage: Usage| Usage { load_per_core: Some(99.0), ..usage };
    assert_eq!(ticks(&mut governor, busy(cpu(0.0)), 500).len(), 1);
    assert_eq!(ticks(&mut governor, busy(cpu(9.0)), 500), []);
    assert_eq!(governor.shed(), [Shed::HalfFrequency]);
    assert_eq!(ticks(&mut governor, cpu(9.0), 12), [Change::Resumed]);
    assert_eq!(ticks(&mut governor, cpu(9.0), 2), []);
    assert_eq!(ticks(&mut governor, cpu(9.0), 1).len(), 1);
    // What is not known does not hold a pause.
    ticks(&mut governor, busy(cpu(0.0)), 1);
    assert_eq!(ticks(&mut governor, Usage::default(), 12), [Change::Resumed]);
    // Without a policy there is no pause either.
    ticks(&mut governor, busy(cpu(0.0)), 1);
    governor.set_policy(policy());
    assert_eq!(ticks(&mut governor, busy(cpu(0.0)), 1), [Change::Resumed]);
}

/// Runs a day of five-second ticks at a cost that depends on what is shed only; returns the changes and the ticks above
/// the budget, of the day's second half.
fn day(cost_by_level: [f64; 7]) -> (usize, usize) {
    let mut governor = Governor::new(policy(), &[]);
    let (mut changes, mut above) = (0, 0);
    for tick in 0..17_280 {
        let cost = cost_by_level[governor.shed().len()];
        let changed = governor.tick(&cpu(cost)).len();
        if tick >= 8_640 {
            changes += changed;
            above += usize::from(cost > 1.0);
        }
    }
    (changes, above)
}

#[test]
fn a_constant_load_at_the_boundary_settles() {
    // Costs that no step moves across the band: not one change.
    for cost in [0.1, 0.799, 0.8, 0.95, 1.0] {
        assert_eq!(day([cost; 7]), (0, 0), "{cost}");
    }
    // One step brings it into the band, where it stays.
    assert_eq!(day([1.01, 0.85, 0.5, 0.4, 0.3, 0.2, 0.1]), (0, 0));
    // One step brings it below the band: without the step it is too much, so that is tried once an hour at most.
    let (changes, above) = day([1.01, 0.79, 0.5, 0.4, 0.3, 0.2, 0.1]);
    assert!(changes <= 2 * 12 && above <= 3 * 12, "{changes} {above}");
    // The same between higher steps.
    let (changes, above) = day([9.0, 7.0, 3.0, 1.2, 0.6, 0.5, 0.1]);
    assert!(changes <= 2 * 12 && above <= 3 * 12, "{changes} {above}");
}

#[test]
fn a_relapse_doubles_the_wait_and_quiet_forgets_it() {
    let mut governor = Governor::new(policy(), &[]);
    let mut waits = Vec::new();
    for _ in 0..9 {
        ticks(&mut governor, cpu(1.5), 3);
        assert_eq!(governor.shed(), [Shed::HalfFrequency]);
        let wait = (1..=2_000).find(|_| !governor.tick(&cpu(0.5)).is_empty()).unwrap();
        waits.push(wait);
    }
    assert_eq!(waits, [12, 24, 48, 96, 192, 384, 720, 720, 720]);
    // Long without trouble: it starts afresh.
    ticks(&mut governor, cpu(0.5), 5_000);
    ticks(&mut governor, cpu(1.5), 3);
    assert_eq!((1..=2_000).find(|_| !governor.tick(&cpu(0.5)).is_empty()), Some(12));
}

#[test]
fn a_step_that_relapses_keeps_no_other_one_away() {
    let mut governor = Governor::new(policy(), &[]);
    for _ in 0..6 {
        ticks(&mut governor, cpu(1.5), 3);
        assert_eq!(governor.shed(), [Shed::HalfFrequency]);
        while ticks(&mut governor, cpu(0.5), 1).is_empty() {}
    }
    // A storm: all that there is is shed, and comes back step by step, but for the one that relapses all the time.
    ticks(&mut governor, cpu(1.5), 3 * 6);
    assert_eq!(governor.shed().len(), 6);
    ticks(&mut governor, cpu(0.5), 12 * 5);
    assert_eq!(governor.shed(), [Shed::HalfFrequency]);
    ticks(&mut governor, cpu(0.5), 12 * 5);
    assert_eq!(governor.shed(), [Shed::HalfFrequency]);
}

#[test]
fn quiet_forgets_the_relapses_of_every_step() {
    let mut governor = Governor::new(policy(), &[]);
    ticks(&mut governor, cpu(1.5), 3);
    for _ in 0..6 {
        ticks(&mut governor, cpu(1.5), 3);
        assert_eq!(governor.shed(), ORDER[..2]);
        while ticks(&mut governor, cpu(0.5), 1).is_empty() {}
    }
    ticks(&mut governor, cpu(0.5), 5_000);
    assert_eq!(governor.shed(), []);
    ticks(&mut governor, cpu(1.5), 3 * 6);
    assert_eq!(governor.shed(), ORDER);
    ticks(&mut governor, cpu(0.5), 12 * 6);
    assert_eq!(governor.shed(), []);
}

#[test]
fn a_shorter_bound_holds_for_waits_that_have_grown() {
    let mut governor = Governor::new(policy(), &[]);
    for _ in 0..9 {
        ticks(&mut governor, cpu(1.5), 3);
        while ticks(&mut governor, cpu(0.5), 1).is_empty() {}
    }
    ticks(&mut governor, cpu(1.5), 3);
    governor.set_policy(Policy { holdoff_ticks_max: 20, ..policy() });
    assert_eq!((1..=2_000).find(|_| !governor.tick(&cpu(0.5)).is_empty()), Some(20));
}

/// All sequences of ten ticks above, within and below the band, on a ladder of two steps.
#[test]
fn every_short_history_moves_for_a_reason_only() {
    let small = Policy { shed_after_ticks: 2, recover_after_ticks: 3, holdoff_ticks_max: 6, ..policy() };
    let patience = Patience::of(&small, 1);
    for history in 0..3_u32.pow(10) {
        let inputs: Vec<u32> = (0..10).map(|place| history / 3_u32.pow(place) % 3).collect();
        let mut ladder = Ladder::new(2);
        let mut moved_at = 0;
        for (at, input) in inputs.iter().enumerate() {
            let before = ladder.level();
            let moved = ladder.tick([0.5, 0.9, 1.5][*input as usize], &patience);
            // How many inputs of this kind came in a row since the last move.
            let streak = inputs[moved_at..=at].iter().rev().take_while(|it| *it == input).count();
            match moved {
                Move::Up => {
                    assert!(*input == 2 && streak == 2 && ladder.level() == before + 1, "{inputs:?} {at}");
                    moved_at = at + 1;
                }
                Move::Down => {
                    assert!(*input == 0 && streak >= 3 && ladder.level() == before - 1, "{inputs:?} {at}");
                    moved_at = at + 1;
                }
                Move::Exhausted => assert!(*input == 2 && before == 2, "{inputs:?} {at}"),
                Move::Stay => {
                    assert_eq!(ladder.level(), before);
                    // Shedding is never late.
                    assert!(*input != 2 || streak < 2 || before == 2, "{inputs:?} {at}");
                }
            }
        }
    }
}

#[test]
fn changes_say_what_and_why() {
    let mut governor = Governor::new(policy(), &[]);
    let told = |changes: Vec<Change>| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told(ticks(&mut governor, cpu(1.5), 3)),
        [
            "shed half-frequency: samples are taken half as often, each counting for two; obs uses 1.50 % of the host's CPU time \
          and may use 1.00 %"
        ]
    );
    assert_eq!(
        told(ticks(&mut governor, cpu(0.1), 12)),
        ["took half-frequency back: costs are well below the budget again"]
    );
    let text = told(ticks(&mut governor, memory(1.2), 12));
    assert!(text[0].ends_with("obs uses 120 MB of memory and may use 100 MB"), "{text:?}");
}

/// The order stands in the document, with collectors' own steps in between.
#[test]
fn the_document_has_the_steps() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rest = text.as_str();
    for step in BUILT_IN {
        let relieves = if step.relief.memory { "CPU time, memory" } else { "CPU time" };
        let row = format!(" | `{}` | {relieves} | {} |\n", step.shed, step.effect);
        rest = rest
            .split_once(&row)
            .unwrap_or_else(|| panic!("docs/configuration.md lacks, or has out of order: {row}"))
            .1;
    }
}

proptest! {
    /// Whatever the costs: what is shed is a prefix of each ladder, and a change is told if and only if there is one.
    #[test]
    fn changes_are_told_truly(
        usages in prop::collection::vec((0.0..3.0_f64, 0.0..3.0_f64, prop::bool::weighted(0.05)), 1..400),
        shed_after in 0_u32..4,
        recover_after in 0_u32..6,
    ) {
        let policy = Policy { shed_after_ticks: shed_after, recover_after_ticks: recover_after, ..Policy::default() };
        let mut governor = Governor::new(policy, &[]);
        for (share, memory_share, distress) in usages {
            let before = governor.shed();
            let was_paused = governor.paused().is_some();
            let usage = Usage {
                rss_bytes: Some((memory_share * 1e8) as u64),
                load_per_core: Some(if distress { 99.0 } else { 0.0 }),
                ..cpu(share)
            };
            let changes = governor.tick(&usage);
            let mut expected = before.clone();
            let mut paused = was_paused;
            for change in &changes {
                match change {
                    Change::Shed { step, because } => {
                        prop_assert!(!expected.contains(&step.shed) && because.used > because.budget);
                        expected.push(step.shed);
                    }
                    Change::TakenBack { step } => {
                        let at = expected.iter().position(|shed| *shed == step.shed);
                        prop_assert!(at.is_some());
                        expected.remove(at.unwrap());
                    }
                    Change::Paused { .. } => paused = true,
                    Change::Resumed => paused = false,
                    Change::Exhausted { because } => prop_assert!(because.used > because.budget),
                }
            }
            expected.sort_by_key(|shed| ORDER.iter().position(|it| it == shed));
            prop_assert_eq!(&expected, &governor.shed());
            prop_assert_eq!(paused, governor.paused().is_some());
            prop_assert!(!(was_paused && expected != before), "changed while paused");
            // CPU time alone has the first two steps, and sheds them in order.
            prop_assert!(!expected.contains(&Shed::LowFrequency) || expected.contains(&Shed::HalfFrequency));
        }
    }
}

proptest! {
    // Each case is a whole day.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Constant costs that fall with each step settle: changes become rare, whatever the costs are.
    #[test]
    fn constant_loads_settle(mut costs in prop::array::uniform7(0.0..4.0_f64)) {
        costs.sort_by(|a, b| b.total_cmp(a));
        let (changes, above) = day(costs);
        let is_hopeless = costs[6] > 1.0;
        prop_assert!(changes <= 2 * 12, "{changes} changes in half a day");
        prop_assert!(is_hopeless || above <= 3 * 12, "{above} ticks above the budget in half a day");
    }
}
