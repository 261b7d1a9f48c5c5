//! What the HTTP server costs: measured apart, for no step that is shed would make it cheaper. Questions to the history have a bound of
//! their own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::telemetry::cost::ThreadsMeter;

/// How the names of its threads begin.
const THREADS: &str = "obs-web";

/// Over how long its time is averaged.
const AVERAGED: Duration = Duration::from_secs(60);

/// CPUs that questions may always use on average, also where the budget is less: two people who follow a day on the page take a tenth of one.
const CPUS_MIN: f64 = 0.5;

/// Most looks that are remembered; there is one a second at most.
const LOOKS_MAX: usize = 128;

/// The server's CPU time, and whether that of questions to the history is too much.
pub(super) struct WebBudget {
    meter: ThreadsMeter,
    total: Duration,
    questions: Average,
}

impl WebBudget {
    pub(super) fn new() -> Self {
        Self { meter: ThreadsMeter::new(THREADS), total: Duration::ZERO, questions: Average::default() }
    }

    /// Looks at what all its threads have used so far. Those that have nothing to do end after some seconds: what they used since the last
    /// look is not found any more.
    pub(super) fn look(&mut self) {
        self.total = self.meter.look();
    }

    /// What it had used at the last look.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// Takes down what questions to the history have used so far. Not what all its threads have: else whoever has no token could, with
    /// connections alone, keep those who have one from being answered.
    pub(super) fn add_questions(&mut self, now: Instant, total: Duration) {
        self.questions.add(now, total);
    }

    /// Whether questions have used more in the last minute than so many CPUs, or than they may always use.
    pub(super) fn is_spent(&self, cpus_max: f64) -> bool {
        self.questions.cpus() > cpus_max.max(CPUS_MIN)
    }
}

/// A sum as it was at each look of the last minute.
#[derive(Default)]
struct Average(VecDeque<(Instant, Duration)>);

impl Average {
    fn add(&mut self, now: Instant, total: Duration) {
        // The newest of those that are a minute old is what the minute began with.
        while self.0.len() == LOOKS_MAX || self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= AVERAGED) {
            self.0.pop_front();
        }
        self.0.push_back((now, total));
    }

    /// Of what is no minute old yet, it is taken that nothing was used before: nobody is refused for the first seconds.
    fn cpus(&self) -> f64 {
        let (Some((began, before)), Some((now, total))) = (self.0.front(), self.0.back()) else { return 0.0 };
        let elapsed = now.duration_since(*began).max(AVERAGED);
        total.saturating_sub(*before).as_secs_f64() / elapsed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget after so many judgements of five seconds, in each of which so many seconds were used.
    fn after(judgements: &[(u32, f64)]) -> WebBudget {
        let mut budget = WebBudget::new();
        let (mut now, mut total) = (Instant::now(), Duration::ZERO);
        budget.add_questions(now, total);
        for (count, used) in judgements {
            for _ in 0..*count {
                now += Duration::from_secs(5);
                total += Duration::from_secs_f64(*used);
                budget.add_questions(now, total);
            }
        }
        budget
    }

    #[test]
    fn two_people_who_follow_a_week_are_never_refused() {
        // A second of CPU time for each of twelve questions a minute.
        assert!(!after(&[(10_000, 1.0)]).is_spent(0.01));
        // All at once after the page was opened.
        assert!(!after(&[(1, 10.0), (100, 1.0)]).is_spent(0.01));
    }

    #[test]
    fn who_asks_without_end_is_refused_until_a_minute_is_below() {
        // Two threads, all the time.
        assert!(!after(&[(3, 10.0)]).is_spent(0.01));
        assert!(after(&[(4, 10.0)]).is_spent(0.01));
        assert!(after(&[(10_000, 10.0)]).is_spent(0.01));
        assert!(after(&[(100, 10.0), (8, 0.0)]).is_spent(0.01));
        assert!(!after(&[(100, 10.0), (9, 0.0)]).is_spent(0.01));
        // On a large host there is more to spend.
        assert!(!after(&[(100, 10.0)]).is_spent(2.5));
    }

    #[test]
    fn looks_have_a_bound_and_rare_ones_count() {
        let mut average = Average::default();
        let begun = Instant::now();
        for number in 0..1_000 {
            average.add(begun + Duration::from_millis(number), Duration::from_millis(number));
        }
        assert_eq!(average.0.len(), LOOKS_MAX);
        let mut rare = Average::default();
        for number in 0..3_u32 {
            rare.add(begun + number * Duration::from_secs(300), number * Duration::from_secs(150));
        }
        assert!((rare.cpus() - 0.5).abs() < 1e-9, "{}", rare.cpus());
    }
}
