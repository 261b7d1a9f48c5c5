//! Reads the serial console of a guest: which steps ran, how they ended, what they skipped.

use std::fmt::Write as _;

use super::guest::End;
use super::initramfs::Step;
use crate::test;

/// How much of a failed step's output is shown.
const LINES_SHOWN_MAX: usize = 60;

/// What a guest reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// The kernel's own release, once it has run /init.
    release: Option<String>,
    steps: Vec<StepReport>,
    /// Whether /init reached its end.
    has_ended: bool,
    end: End,
    /// The last lines, for when nothing else explains a failure.
    tail: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct StepReport {
    name: String,
    /// `None` when the step never ended.
    status: Option<i32>,
    output: Vec<String>,
}

impl StepReport {
    /// The tests that ended so. The test program names each before it runs it, and says how it ended at the end of that line or of
    /// a later one.
    fn tests_that(&self, ended: &str) -> Vec<&str> {
        let (mut found, mut current) = (Vec::new(), None);
        for line in &self.output {
            if let Some((name, _)) = line.strip_prefix("test ").and_then(|line| line.split_once(' ')) {
                current = Some(name);
            }
            match line.rsplit(' ').next() {
                Some(outcome) if outcome == ended => found.extend(current.take()),
                Some("ok" | "FAILED" | "ignored") => current = None,
                _ => {}
            }
        }
        found
    }

    /// What explains why the step failed: what the tests say of those that did, otherwise its last lines.
    fn telling_output(&self) -> &[String] {
        let begin = self.output.iter().position(|line| line == "failures:");
        let begin = begin.unwrap_or_else(|| self.output.len().saturating_sub(LINES_SHOWN_MAX));
        let output = self.output.get(begin..).unwrap_or_default();
        output.get(..LINES_SHOWN_MAX).unwrap_or(output)
    }
}

impl Report {
    /// Reads what appeared on the console.
    pub(super) fn read(serial: &str, end: End) -> Self {
        let mut report = Report { release: None, steps: Vec::new(), has_ended: false, end, tail: Vec::new() };
        for line in serial.lines() {
            let line = line.trim_end_matches('\r');
            let mut words = line.strip_prefix("OBS-VM ").unwrap_or_default().split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("begin"), Some(release), _) => report.release = Some(release.to_owned()),
                (Some("step"), Some(name), _) => {
                    report.steps.push(StepReport { name: name.to_owned(), ..StepReport::default() });
                }
                (Some("exit"), Some(name), Some(status)) => {
                    if let Some(step) = report.steps.last_mut().filter(|step| step.name == name) {
                        step.status = status.parse().ok();
                    }
                }
                (Some("end"), ..) => report.has_ended = true,
                _ => {
                    if let Some(step) = report.steps.last_mut() {
                        step.output.push(line.to_owned());
                    }
                }
            }
        }
        let lines: Vec<&str> = serial.lines().collect();
        report.tail = lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN_MAX)).map(|s| (*s).to_owned()).collect();
        report
    }

    /// The tests that passed.
    pub(super) fn passed(&self) -> Vec<String> {
        self.steps.iter().flat_map(|step| step.tests_that("ok")).map(str::to_owned).collect()
    }

    /// This report, of a guest that went on where another one died, with what that one's tests said.
    pub(super) fn going_on_from(mut self, before: Self) -> Self {
        for mut died in before.steps.into_iter().filter(|step| step.status.is_none()) {
            match self.steps.iter_mut().find(|step| step.name == died.name) {
                Some(step) => {
                    let failed = died.tests_that("FAILED").into_iter();
                    let told =
                        failed.map(|name| format!("TRIED AGAIN {name}: it failed in a boot that the emulator ended"));
                    let told: Vec<String> = told.collect();
                    // Each boot says what it skips.
                    died.output.retain(|line| !step.output.contains(line));
                    died.output.extend(told);
                    step.output.splice(0..0, died.output);
                }
                None => self.steps.push(died),
            }
        }
        self
    }

    /// Whether the guest booted, did all it was to do, and powered off.
    pub(super) fn is_complete(&self) -> bool {
        self.release.is_some() && self.has_ended && self.end == End::Exited
    }

    /// Everything that was expected and did not happen, one sentence each. Empty when all went well.
    pub(super) fn failures(&self, expected: &[Step]) -> Vec<String> {
        let mut failures = Vec::new();
        match self.end {
            End::Exited => {}
            End::TimeLimit(limit) => failures.push(format!("the guest did not power off within {} s", limit.as_secs())),
            End::Stalled(silence) => failures.push(format!("the guest said nothing for {} s", silence.as_secs())),
        }
        if self.release.is_none() {
            failures.push(format!("the kernel did not come up:\n{}", self.tail.join("\n")));
        }
        for step in expected {
            match self.steps.iter().find(|report| report.name == step.name) {
                None => failures.push(format!("step {}: it never began", step.name)),
                Some(StepReport { status: Some(0), .. }) => {}
                Some(report) => {
                    let how = report.status.map_or("it never ended".into(), |status| format!("exit status {status}"));
                    let output = report.telling_output().iter().map(|line| format!("\n    {line}")).collect::<String>();
                    failures.push(format!("step {}: {how}{output}", step.name));
                }
            }
        }
        if !self.has_ended && failures.is_empty() {
            failures.push("the guest never reached its end".to_owned());
        }
        failures
    }

    /// The lines that a step printed.
    pub(super) fn output_of(&self, step: &str) -> impl Iterator<Item = &str> {
        let report = self.steps.iter().find(|report| report.name == step);
        report.into_iter().flat_map(|report| &report.output).map(String::as_str)
    }

    /// What the tests in the guest did not test, and why.
    pub(super) fn skipped(&self) -> Vec<String> {
        test::skip_reasons(self.steps.iter().flat_map(|step| &step.output).map(String::as_str))
    }

    /// A few lines for people: the kernel, each step and its outcome, and what the steps say in numbers.
    pub(super) fn summary(&self, series: &str, expected: &[Step]) -> String {
        let mut text = format!("kernel {series}: {}", self.release.as_deref().unwrap_or("did not come up"));
        for step in expected {
            let report = self.steps.iter().find(|report| report.name == step.name);
            let outcome = match report.map(|report| report.status) {
                None => "never began".to_owned(),
                Some(None) => "never ended".to_owned(),
                Some(Some(0)) => "passed".to_owned(),
                Some(Some(status)) => format!("failed with exit status {status}"),
            };
            let _ = write!(text, "\n  {:<10} {outcome}", step.name);
            // One object a line (programs and their instruction counts), tests that failed at first, and the tests' result.
            let beginnings = ["{", "TRIED AGAIN ", "test result:"];
            let telling = |line: &&String| beginnings.iter().any(|beginning| line.starts_with(beginning));
            for line in report.iter().flat_map(|report| report.output.iter()).filter(telling) {
                let _ = write!(text, "\n    {line}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOOD: &str = "noise\r\nOBS-VM begin 6.1.0-56-cloud-amd64\r\nOBS-VM step load\r\n{\"object\":\"cpu\"}\r\n\r\n\
                        OBS-VM exit load 0\r\nOBS-VM step scenarios\r\nSKIPPED python: no python3\r\n\
                        test result: ok. 3 passed\r\n\r\nOBS-VM exit scenarios 0\r\nOBS-VM end\r\n";

    fn expected() -> Vec<Step> {
        ["load", "scenarios"].map(|name| Step { name, command: String::new() }).into()
    }

    #[test]
    fn a_good_run_has_no_failures_and_tells_what_it_skipped() {
        let report = Report::read(GOOD, End::Exited);
        assert!(report.is_complete());
        assert_eq!(report.failures(&expected()), Vec::<String>::new());
        assert_eq!(report.skipped(), ["python: no python3"]);
        let summary = report.summary("6.1", &expected());
        assert!(summary.contains("6.1.0-56-cloud-amd64") && summary.contains("{\"object\":\"cpu\"}"), "{summary}");
    }

    #[test]
    fn a_guest_that_never_reports_is_a_failure() {
        let failures = Report::read("", End::Exited).failures(&expected());
        assert_eq!(failures.len(), 3, "{failures:?}");
        let only_booting = Report::read("OBS-VM begin 6.1\n", End::TimeLimit(Duration::from_secs(9)));
        assert!(!only_booting.is_complete());
        assert!(only_booting.failures(&[])[0].contains("within 9 s"));
        assert_eq!(Report::read("OBS-VM begin 6.1\n", End::Exited).failures(&[]).len(), 1);
    }

    #[test]
    fn a_failing_or_endless_step_is_a_failure_with_its_output() {
        let failing = GOOD.replace("exit load 0", "exit load 3");
        let failures = Report::read(&failing, End::Exited).failures(&expected());
        assert!(failures[0].contains("exit status 3") && failures[0].contains("{\"object\":\"cpu\"}"), "{failures:?}");
        let endless = GOOD.replace("OBS-VM exit scenarios 0\r\nOBS-VM end\r\n", "");
        let failures = Report::read(&endless, End::Exited).failures(&expected());
        assert!(failures[0].contains("never ended"), "{failures:?}");
    }

    #[test]
    fn of_failed_tests_their_reasons_are_shown() {
        let ignored = "test another ... ignored\r\n".repeat(100);
        let said = format!("{ignored}failures:\r\n\r\n---- a_test ----\r\n1 is not 2\r\n{ignored}");
        let failing =
            GOOD.replace("test result: ok. 3 passed", &said).replace("exit scenarios 0", "exit scenarios 101");
        let failures = Report::read(&failing, End::Exited).failures(&expected());
        assert!(failures[0].starts_with("step scenarios: exit status 101\n    failures:"), "{failures:?}");
        assert!(failures[0].contains("1 is not 2"), "{failures:?}");
        assert!(failures[0].lines().count() <= LINES_SHOWN_MAX + 1, "{failures:?}");
    }

    #[test]
    fn a_guest_goes_on_where_another_one_died() {
        const BEFORE: &str = "OBS-VM begin 6.1\r\nOBS-VM step load\r\nOBS-VM exit load 0\r\nOBS-VM step scenarios\r\n\
                              SKIPPED go: no go\r\ntest a::one ... took 1 s\r\nok\r\ntest a::two      ... ok\r\n\
                              test a::three ... FAILED\r\ntest a::four ... 3 of 3\r\n[ 1.0] Oops: int3: 0000\r\n";
        let before = Report::read(BEFORE, End::Exited);
        assert_eq!(before.passed(), ["a::one", "a::two"]);
        let report = Report::read(GOOD, End::Exited).going_on_from(before);
        assert_eq!(report.failures(&expected()), Vec::<String>::new());
        assert_eq!(report.skipped(), ["go: no go", "python: no python3"]);
        let summary = report.summary("6.1", &expected());
        assert!(summary.contains("TRIED AGAIN a::three") && !summary.contains("a::one"), "{summary}");
    }

    #[test]
    fn a_step_cannot_report_for_another() {
        let forged = GOOD.replace("OBS-VM exit scenarios 0", "OBS-VM exit load 0");
        assert!(!Report::read(&forged, End::Exited).failures(&expected()).is_empty());
    }
}
