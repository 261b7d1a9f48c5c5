//! What a soak has shown: tables, the plot, and whether promises were kept.

use std::collections::BTreeSet;

use super::plot::{Line, Page, Panel};
use super::sample::Sample;
use crate::agent::{CPU_SHARE_MAX, MEMORY_BYTES_MAX};
use crate::bench::measure::median;
use crate::bench::table;

const BYTES_PER_MB: f64 = 1e6;
const SECONDS_PER_MINUTE: f64 = 60.0;

/// A number of a sample, and how it is told.
struct Measure {
    name: &'static str,
    of: fn(&Sample) -> f64,
    decimals: usize,
}

const MEASURES: [Measure; 11] = [
    Measure { name: "CPU, process (% of the host)", of: |sample| sample.user_share * 100.0, decimals: 2 },
    Measure { name: "CPU, BPF programs (%)", of: |sample| sample.bpf_share * 100.0, decimals: 2 },
    Measure { name: "CPU, BPF, as the agent tells it (%)", of: |sample| sample.bpf_share_told * 100.0, decimals: 2 },
    Measure { name: "CPU, all (%)", of: cpu_percent, decimals: 2 },
    Measure { name: "resident memory (MB)", of: |sample| sample.rss_bytes / BYTES_PER_MB, decimals: 1 },
    Measure { name: "of it anonymous (MB)", of: |sample| sample.anonymous_bytes / BYTES_PER_MB, decimals: 1 },
    Measure { name: "kernel maps (MB)", of: |sample| sample.map_bytes / BYTES_PER_MB, decimals: 1 },
    Measure { name: "memory, all (MB)", of: memory_mb, decimals: 1 },
    Measure { name: "history on disk (MB)", of: |sample| sample.store_bytes / BYTES_PER_MB, decimals: 2 },
    Measure { name: "names on disk (MB)", of: |sample| sample.symbols_bytes / BYTES_PER_MB, decimals: 1 },
    Measure { name: "steps shed", of: |sample| sample.shed, decimals: 0 },
];

fn cpu_percent(sample: &Sample) -> f64 {
    (sample.user_share + sample.bpf_share) * 100.0
}

fn memory_mb(sample: &Sample) -> f64 {
    (sample.rss_bytes + sample.map_bytes) / BYTES_PER_MB
}

/// Everything: least, median and most of each measure, by phase.
pub(super) fn measures(samples: &[Sample], phases: &[&str]) -> String {
    let mut rows = vec![row("min / median / max", phases.iter().map(|phase| (*phase).to_owned()))];
    for Measure { name, of, decimals } in MEASURES {
        let cells = (0..phases.len()).map(|phase| {
            let values: Vec<f64> = of_phase(samples, phase).map(of).filter(|value| value.is_finite()).collect();
            let (least, most) = (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max));
            match (least, most) {
                (Some(least), Some(most)) => {
                    format!("{least:.decimals$} / {:.decimals$} / {most:.decimals$}", median(values))
                }
                _ => "-".to_owned(),
            }
        });
        rows.push(row(name, cells));
    }
    table::render(&rows)
}

/// Where the process's CPU time went, by phase.
pub(super) fn threads(samples: &[Sample], phases: &[&str]) -> String {
    let names: BTreeSet<&String> = samples.iter().flat_map(|sample| sample.threads.keys()).collect();
    let mut rows = vec![row("CPU share by thread (% of the host)", phases.iter().map(|phase| (*phase).to_owned()))];
    for name in names {
        let shares: Vec<f64> = (0..phases.len())
            .map(|phase| {
                let (mut spent, mut all, mut share) = (0.0, 0.0, 0.0);
                for sample in of_phase(samples, phase) {
                    spent += sample.threads.get(name).copied().unwrap_or(0.0);
                    all += sample.threads.values().sum::<f64>();
                    share += sample.user_share;
                }
                let mean = share / (of_phase(samples, phase).count() as f64).max(1.0);
                if all > 0.0 { spent / all * mean * 100.0 } else { 0.0 }
            })
            .collect();
        if shares.iter().any(|share| *share >= 0.005) {
            rows.push(row(name, shares.iter().map(|share| format!("{share:.2}"))));
        }
    }
    table::render(&rows)
}

/// What was lost, by reason and phase, beside what was received.
pub(super) fn losses(samples: &[Sample], phases: &[&str]) -> String {
    let sum = |phase: usize, of: &dyn Fn(&Sample) -> f64| of_phase(samples, phase).map(of).sum::<f64>();
    let row_of = |name: &str, of: &dyn Fn(&Sample) -> f64| {
        row(name, (0..phases.len()).map(|phase| format!("{:.0}", sum(phase, of))).collect::<Vec<_>>())
    };
    let mut rows = vec![row("lost, by reason", phases.iter().map(|phase| (*phase).to_owned()))];
    for reason in reasons(samples) {
        rows.push(row_of(reason, &|sample| sample.lost.get(reason).copied().unwrap_or(0.0)));
    }
    rows.push(row_of("(received by the collector)", &|sample| sample.received));
    rows.push(row_of("(samples while all measuring paused)", &|sample| f64::from(u8::from(sample.is_paused))));
    table::render(&rows)
}

/// Reasons for which something was lost at any time.
fn reasons(samples: &[Sample]) -> BTreeSet<&str> {
    let lost = samples.iter().flat_map(|sample| &sample.lost).filter(|(_, count)| **count > 0.0);
    lost.map(|(reason, _)| reason.as_str()).collect()
}

fn of_phase(samples: &[Sample], phase: usize) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.phase == phase)
}

fn row(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    [name.to_owned()].into_iter().chain(cells).collect()
}

/// The plot of all of it. Phases are given with their ends, in seconds.
pub(super) fn page(samples: &[Sample], phases: &[(f64, &str)], title: &str) -> Page {
    let line = |name: &str, of: &dyn Fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.at_seconds / SECONDS_PER_MINUTE, of(sample))).collect(),
    };
    let panel = |title: &str, lines: Vec<Line>, limit: Option<f64>| Panel { title: title.to_owned(), lines, limit };
    let mut lost: Vec<Line> = reasons(samples)
        .into_iter()
        .map(|reason| line(reason, &|sample| sample.lost.get(reason).copied().unwrap_or(0.0)))
        .collect();
    if lost.is_empty() {
        lost.push(line("nothing was lost", &|_| 0.0));
    }
    let panels = vec![
        panel(
            "CPU (% of the host)",
            vec![line("all", &cpu_percent), line("process", &|sample| sample.user_share * 100.0)],
            Some(CPU_SHARE_MAX * 100.0),
        ),
        panel(
            "CPU of BPF programs (% of the host)",
            vec![
                line("by the kernel's count", &|sample| sample.bpf_share * 100.0),
                line("as the agent tells it", &|sample| sample.bpf_share_told * 100.0),
            ],
            None,
        ),
        panel(
            "Memory (MB)",
            vec![
                line("all", &memory_mb),
                line("resident", &|sample| sample.rss_bytes / BYTES_PER_MB),
                line("of it anonymous", &|sample| sample.anonymous_bytes / BYTES_PER_MB),
                line("kernel maps", &|sample| sample.map_bytes / BYTES_PER_MB),
            ],
            Some(MEMORY_BYTES_MAX / BYTES_PER_MB),
        ),
        panel("History on disk (MB)", vec![line("history", &|sample| sample.store_bytes / BYTES_PER_MB)], None),
        panel("Names on disk (MB)", vec![line("names", &|sample| sample.symbols_bytes / BYTES_PER_MB)], None),
        panel("Lost since the sample before (count)", lost, None),
        panel("Steps shed (count)", vec![line("steps", &|sample| sample.shed)], None),
    ];
    let begins = [0.0].into_iter().chain(phases.iter().map(|(end, _)| *end));
    let parts = begins
        .zip(phases)
        .map(|(begin, (end, name))| (begin / SECONDS_PER_MINUTE, end / SECONDS_PER_MINUTE, (*name).to_owned()));
    Page {
        title: title.to_owned(),
        across: "minutes since the agent's start".to_owned(),
        across_max: phases.last().map_or(0.0, |(end, _)| end / SECONDS_PER_MINUTE),
        panels,
        parts: parts.collect(),
    }
}

/// A promise, and whether it was kept.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) is_kept: bool,
    /// What was found.
    pub(super) text: String,
}

/// The promises about cost.
pub(super) fn verdicts(samples: &[Sample]) -> [Verdict; 2] {
    let finite = |of: fn(&Sample) -> f64| samples.iter().map(of).filter(|value| value.is_finite()).collect::<Vec<_>>();
    let (cpu, memory) = (finite(cpu_percent), finite(memory_mb));
    let mean = cpu.iter().sum::<f64>() / (cpu.len() as f64).max(1.0);
    let most = memory.iter().copied().fold(0.0, f64::max);
    [
        Verdict {
            is_kept: !cpu.is_empty() && mean <= CPU_SHARE_MAX * 100.0,
            text: format!("CPU: {mean:.2} % of the host on average; at most {} % is promised", CPU_SHARE_MAX * 100.0),
        },
        Verdict {
            is_kept: !memory.is_empty() && most <= MEMORY_BYTES_MAX / BYTES_PER_MB,
            text: format!("memory: {most:.1} MB at most; at most {} MB is promised", MEMORY_BYTES_MAX / BYTES_PER_MB),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::soak::plot;

    fn sample(at_seconds: f64, phase: usize, user_share: f64, lost: f64) -> Sample {
        Sample {
            at_seconds,
            phase,
            user_share,
            bpf_share: 0.001,
            bpf_share_told: f64::NAN,
            threads: BTreeMap::from([("keeper".to_owned(), 0.3), ("main".to_owned(), 0.1)]),
            rss_bytes: 60e6,
            anonymous_bytes: 30e6,
            map_bytes: 30e6,
            store_bytes: 1e6,
            symbols_bytes: 0.0,
            lost: BTreeMap::from([("sample: full".to_owned(), lost), ("never".to_owned(), 0.0)]),
            received: 100.0,
            shed: 0.0,
            is_paused: false,
        }
    }

    fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn measures_are_told_by_phase() {
        let samples = [sample(10.0, 0, 0.01, 0.0), sample(20.0, 0, 0.03, 2.0), sample(30.0, 1, 0.002, 1.0)];
        let text = measures(&samples, &["busy", "storm"]);
        assert_eq!(line(&text, "CPU, process")[1..], ["1.00 / 2.00 / 3.00", "0.20 / 0.20 / 0.20"]);
        assert_eq!(line(&text, "CPU, BPF, as")[1..], ["-", "-"]);
        assert_eq!(line(&text, "memory, all")[1..], ["90.0 / 90.0 / 90.0", "90.0 / 90.0 / 90.0"]);
        let text = losses(&samples, &["busy", "storm"]);
        assert_eq!(line(&text, "sample: full")[1..], ["2", "1"]);
        assert_eq!(line(&text, "(received")[1..], ["200", "100"]);
        assert!(!text.contains("never"));
        // Three quarters of the process's mean share are the keeper's.
        assert_eq!(line(&threads(&samples, &["busy", "storm"]), "keeper")[1..], ["1.50", "0.15"]);
    }

    #[test]
    fn promises_are_judged() {
        let kept = verdicts(&[sample(10.0, 0, 0.004, 0.0), sample(20.0, 0, 0.012, 0.0)]);
        assert!(kept.iter().all(|verdict| verdict.is_kept), "{kept:?}");
        let [cpu, memory] = verdicts(&[sample(10.0, 0, 0.0091, 0.0)]);
        assert!(!cpu.is_kept && memory.is_kept);
        assert!(verdicts(&[]).iter().all(|verdict| !verdict.is_kept), "nothing measured is nothing shown");
    }

    #[test]
    fn the_plot_shows_all_phases_and_reasons() {
        let samples = [sample(10.0, 0, 0.01, 0.0), sample(60.0, 1, 0.03, 2.0)];
        let page = page(&samples, &[(30.0, "busy"), (120.0, "storm")], "title");
        assert_eq!(page.parts, [(0.0, 0.5, "busy".to_owned()), (0.5, 2.0, "storm".to_owned())]);
        let svg = plot::render(&page);
        assert!(svg.contains(">sample: full<") && !svg.contains("never") && svg.contains(">limit: 1<"), "{svg}");
    }
}
