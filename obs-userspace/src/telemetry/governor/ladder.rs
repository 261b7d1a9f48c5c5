//! One budget's ladder: how far up it is, and when it moves.

use super::Policy;

/// How many times the time from recovery to the next shedding counts as a relapse, in terms of the recovery's own time.
const RELAPSE_WITHIN: u32 = 4;

/// How patiently a ladder moves, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    shed_after: u32,
    recover_after: u32,
    recover_below: f64,
    holdoff_max: u32,
}

impl Patience {
    pub(super) fn of(policy: &Policy, times: u32) -> Self {
        Self {
            shed_after: policy.shed_after_ticks.max(1).saturating_mul(times),
            recover_after: policy.recover_after_ticks.max(1).saturating_mul(times),
            // From 1 on, what is shed because of a cost could be taken back at the very same cost.
            recover_below: policy.recover_below.clamp(0.0, 0.99),
            holdoff_max: policy.holdoff_ticks_max,
        }
    }
}

/// What a tick did to a ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Stay,
    /// One more step is shed.
    Up,
    /// One is taken back.
    Down,
    /// One more would be shed, but there is none; told once, until costs are below the budget again.
    Exhausted,
}

/// What is remembered of a step.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// Ticks since it was taken back, until it is shed again.
    since_down: Option<u32>,
    /// Ticks that must pass from the last shedding to its recovery: what relapses waits longer each time.
    holdoff: u32,
}

impl History {
    /// It is shed. Of several steps shed in a row only the first can be a relapse: the others follow from it.
    fn shed(&mut self, is_first: bool, patience: &Patience) {
        let Some(ticks) = self.since_down.take() else { return };
        if ticks > patience.recover_after.saturating_mul(RELAPSE_WITHIN).max(self.holdoff) {
            self.holdoff = 0;
        } else if is_first {
            self.holdoff = self.holdoff.max(patience.recover_after).saturating_mul(2).min(patience.holdoff_max);
        }
    }
}

/// How many of so many steps are shed.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    steps: usize,
    level: usize,
    /// Ticks above the budget, and ticks well below it, in a row.
    above: u32,
    below: u32,
    /// Ticks since a step was shed.
    since_up: u32,
    /// Whether the last move was down.
    went_down: bool,
    /// Of each step.
    histories: Vec<History>,
    is_exhausted: bool,
}

impl Ladder {
    pub(super) fn new(steps: usize) -> Self {
        let histories = vec![History::default(); steps];
        Self { steps, level: 0, above: 0, below: 0, since_up: 0, went_down: false, histories, is_exhausted: false }
    }

    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// Takes everything back, and forgets.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.steps);
    }

    /// Sheds one more step at once; returns whether there is one.
    pub(super) fn climb(&mut self) -> bool {
        let is_there = self.level < self.steps;
        self.level += usize::from(is_there);
        self.is_exhausted |= !is_there;
        is_there
    }

    /// Begins to count anew: what was before a pause and what comes after it are not in a row.
    pub(super) fn interrupt(&mut self) {
        (self.above, self.below) = (0, 0);
    }

    /// Judges a cost, as a share of its budget.
    pub(super) fn tick(&mut self, share: f64, patience: &Patience) -> Move {
        self.since_up = self.since_up.saturating_add(1);
        for since_down in self.histories.iter_mut().filter_map(|history| history.since_down.as_mut()) {
            *since_down = since_down.saturating_add(1);
        }
        if share > 1.0 {
            self.below = 0;
            self.above = self.above.saturating_add(1);
            if self.above < patience.shed_after {
                return Move::Stay;
            }
            self.above = 0;
            let was_exhausted = self.is_exhausted;
            if !self.climb() {
                return if was_exhausted { Move::Stay } else { Move::Exhausted };
            }
            self.histories[self.level - 1].shed(self.went_down, patience);
            self.went_down = false;
            self.since_up = 0;
            return Move::Up;
        }
        self.above = 0;
        self.is_exhausted = false;
        if share >= patience.recover_below {
            self.below = 0;
            return Move::Stay;
        }
        self.below = self.below.saturating_add(1);
        let Some(top) = self.level.checked_sub(1) else { return Move::Stay };
        if self.below < patience.recover_after || self.since_up < self.histories[top].holdoff.min(patience.holdoff_max)
        {
            return Move::Stay;
        }
        self.below = 0;
        self.level = top;
        self.went_down = true;
        self.histories[top].since_down = Some(0);
        Move::Down
    }
}
