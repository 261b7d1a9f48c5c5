//! The finished table of one file, and the assembly of its three arrays.

use crate::error::BuildError;
use obs_common::unwind_row::{
    NO_INFORMATION, PAGE_BITS, PAGE_MASK, PAGES_MAX, ROWS_MAX, RULE_BYTES, RULES_MAX, Rule, row, row_pc, row_rule,
};
use std::collections::HashMap;

/// The unwind table of one ELF file; [`obs_common::unwind_row`] says what its arrays mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnwindTable {
    first_page: u64,
    pages: Vec<u32>,
    rows: Vec<u32>,
    rules: Vec<Rule>,
}

impl UnwindTable {
    /// A table of arrays that were made elsewhere. They need not make sense: [`Self::find`] answers something, or
    /// nothing, for any arrays.
    #[must_use]
    pub fn from_arrays(first_page: u64, pages: Vec<u32>, rows: Vec<u32>, rules: Vec<Rule>) -> Self {
        Self { first_page, pages, rows, rules }
    }

    /// The number of the first page, `address >> 12`, in the file's own addresses.
    #[must_use]
    pub fn first_page(&self) -> u64 {
        self.first_page
    }

    /// For each page the index of its first row, and the number of rows as the last entry.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The rows, in address order.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The rules that the rows number, the most used first after rule 0, "no information".
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Bytes of the three arrays.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * (self.pages.len() + self.rows.len()) + RULE_BYTES * self.rules.len()
    }

    /// The rule at one of the file's own addresses; `None` outside of the table's pages.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Rule> {
        find(self.first_page, &self.pages, &self.rows, &self.rules, address)
    }

    /// Each row's address and rule, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Rule)> + '_ {
        let pages = self.pages.windows(2).zip(self.first_page..);
        pages.flat_map(move |(bounds, page)| {
            let rows = self.rows.get(bounds[0] as usize..bounds[1] as usize).unwrap_or_default();
            rows.iter().filter_map(move |row| {
                let rule = self.rules.get(row_rule(*row) as usize)?;
                Some(((page << PAGE_BITS) | u64::from(row_pc(*row)), *rule))
            })
        })
    }
}

/// The rule at one of a file's own addresses, in the arrays of an [`UnwindTable`] that may lie anywhere; `None` outside of
/// the table's pages.
#[must_use]
pub fn find(first_page: u64, pages: &[u32], rows: &[u32], rules: &[Rule], address: u64) -> Option<Rule> {
    let page = usize::try_from((address >> PAGE_BITS).checked_sub(first_page)?).ok()?;
    let first = *pages.get(page)? as usize;
    let end = *pages.get(page.checked_add(1)?)? as usize;
    let place = address as u32 & PAGE_MASK;
    let in_page = rows.get(first..end)?.partition_point(|row| row_pc(*row) <= place);
    let row = rows.get((first + in_page).checked_sub(1)?)?;
    rules.get(row_rule(*row) as usize).copied()
}

/// Numbers of rules that were used last, found by a cheap hash.
const RECENT_RULES: usize = 512;

/// Assembles a table from rows in address order.
#[derive(Debug)]
pub(crate) struct Assembly {
    first_page: Option<u64>,
    pages: Vec<u32>,
    rows: Vec<u32>,
    rules: Vec<Rule>,
    numbers: HashMap<Rule, u32>,
    recent: Vec<(Rule, u32)>,
    /// The row that may still be replaced by another at the same address.
    pending: Option<(u64, u32)>,
    /// The rule of the last row in `rows`.
    last: Option<u32>,
    /// The address that was settled last.
    settled: Option<u64>,
    /// Rows that said the same as the row before them.
    pub(crate) merged: u64,
}

impl Assembly {
    pub(crate) fn new() -> Self {
        Self {
            first_page: None,
            pages: Vec::new(),
            rows: Vec::new(),
            rules: vec![Rule::default()],
            numbers: HashMap::from([(Rule::default(), NO_INFORMATION)]),
            recent: vec![(Rule::default(), NO_INFORMATION); RECENT_RULES],
            pending: None,
            last: None,
            settled: None,
            merged: 0,
        }
    }

    /// Adds a row. It replaces one at the same address; one at a lower address than the last is dropped.
    pub(crate) fn push(&mut self, address: u64, rule: Rule) -> Result<(), BuildError> {
        let number = self.number(rule)?;
        match self.pending {
            Some((at, _)) if address < at => return Ok(()),
            Some((_, NO_INFORMATION)) if number == NO_INFORMATION => return Ok(()),
            Some((at, pending)) if address > at => self.settle(at, pending)?,
            _ => {}
        }
        self.pending = Some((address, number));
        Ok(())
    }

    /// Adds a row that begins one byte before an address: a return address is looked up there, and a signal handler
    /// returns to the first instruction of its trampoline. What ended at the address ends a byte earlier, unless it
    /// began there. `in_segment` says whether that byte is executable; if it is not, nothing is looked up there.
    pub(crate) fn push_trampoline(&mut self, address: u64, rule: Rule, in_segment: bool) -> Result<(), BuildError> {
        if !in_segment {
            return self.push(address, rule);
        }
        let before = address.saturating_sub(1);
        let free = self.settled.is_none_or(|settled| settled < before);
        if free && matches!(self.pending, Some((at, NO_INFORMATION)) if at == address) {
            self.pending = None;
        }
        match self.pending {
            Some((at, _)) if at > before => self.push(address, rule),
            _ => self.push(before, rule),
        }
    }

    /// Takes back the "no information" that begins at an address, so that the row before it holds on. False if none begins
    /// there (it began earlier, perhaps in another segment), or nothing is before it.
    pub(crate) fn close_gap(&mut self, start: u64) -> bool {
        let begins = self.pending == Some((start, NO_INFORMATION));
        let extends = begins && self.last.is_some_and(|last| last != NO_INFORMATION);
        if extends {
            self.pending = None;
        }
        extends
    }

    /// The finished table.
    pub(crate) fn finish(mut self) -> Result<UnwindTable, BuildError> {
        if let Some((at, number)) = self.pending.take() {
            // Information that ends where a page begins needs no row to say so, but the pages up to there.
            match self.first_page {
                Some(first_page) if number == NO_INFORMATION && at & u64::from(PAGE_MASK) == 0 => {
                    self.reach((at >> PAGE_BITS) - first_page)?;
                }
                _ => self.settle(at, number)?,
            }
        }
        let Some(first_page) = self.first_page else { return Err(BuildError::NoInformation) };
        self.pages.push(self.rows.len() as u32);
        let rules = order_by_use(&mut self.rows, &self.rules);
        self.rows.shrink_to_fit();
        self.pages.shrink_to_fit();
        Ok(UnwindTable { first_page, pages: self.pages, rows: self.rows, rules })
    }

    fn settle(&mut self, address: u64, number: u32) -> Result<(), BuildError> {
        self.settled = Some(address);
        let page = address >> PAGE_BITS;
        let first_page = match self.first_page {
            Some(first_page) => first_page,
            None if number == NO_INFORMATION => return Ok(()),
            None => {
                self.first_page = Some(page);
                self.pages.push(0);
                if address & u64::from(PAGE_MASK) != 0 {
                    self.rows.push(row(0, NO_INFORMATION));
                    self.last = Some(NO_INFORMATION);
                }
                page
            }
        };
        if self.last == Some(number) {
            self.merged += 1;
            return Ok(());
        }
        if self.rows.len() >= ROWS_MAX as usize {
            return Err(BuildError::TooManyRows);
        }
        self.reach(page - first_page + 1)?;
        self.rows.push(row(address, number));
        self.last = Some(number);
        Ok(())
    }

    /// Opens the pages before the row that comes next.
    fn reach(&mut self, pages: u64) -> Result<(), BuildError> {
        if pages >= u64::from(PAGES_MAX) {
            return Err(BuildError::SpanTooLong { pages });
        }
        let pages = (pages as usize).max(self.pages.len());
        self.pages.resize(pages, self.rows.len() as u32);
        Ok(())
    }

    fn number(&mut self, rule: Rule) -> Result<u32, BuildError> {
        let recent = &mut self.recent[place(&rule)];
        if recent.0 == rule {
            return Ok(recent.1);
        }
        let next = self.rules.len() as u32;
        let number = *self.numbers.entry(rule).or_insert(next);
        if number == next {
            if next == RULES_MAX {
                return Err(BuildError::TooManyRules);
            }
            self.rules.push(rule);
        }
        *recent = (rule, number);
        Ok(number)
    }
}

fn place(rule: &Rule) -> usize {
    let Rule { cfa_offset, fp_offset, ra_offset: _, cfa_kind, fp_kind, ra_kind: _, arg: _ } = *rule;
    let mixed = (cfa_offset as u32).wrapping_mul(0x9e37_79b1)
        ^ (fp_offset as u32).wrapping_mul(0x85eb_ca6b)
        ^ (u32::from(cfa_kind) << 5 | u32::from(fp_kind)).wrapping_mul(0xc2b2_ae35);
    (mixed >> 16) as usize % RECENT_RULES
}

/// Renumbers the rules by how many rows use them, so that those which are looked up often share few cache lines.
fn order_by_use(rows: &mut [u32], rules: &[Rule]) -> Vec<Rule> {
    let mut uses = vec![0_u32; rules.len()];
    for row in rows.iter() {
        uses[row_rule(*row) as usize] += 1;
    }
    let mut order: Vec<u32> = (1..rules.len() as u32).collect();
    order.sort_by_key(|rule| std::cmp::Reverse(uses[*rule as usize]));
    // A rule may be left that no row uses any more.
    let used = order.partition_point(|rule| uses[*rule as usize] > 0);
    let mut sorted = vec![rules[NO_INFORMATION as usize]];
    let mut numbers = vec![NO_INFORMATION; rules.len()];
    for old in &order[..used] {
        numbers[*old as usize] = sorted.len() as u32;
        sorted.push(rules[*old as usize]);
    }
    for slot in rows {
        *slot = row(u64::from(row_pc(*slot)), numbers[row_rule(*slot) as usize]);
    }
    sorted
}
