//! Looks rules up in the tables of files.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, PerCpuArray},
};
use obs_common::{
    stack::StackEnd,
    unwind_map::{ARENA_BLOCK_WORDS, FILES_MAX, FileTable, PAGES_NEVER, RULES_REMEMBERED},
    unwind_row::{self, FRAME_POINTER_RULE, PAGE_BITS, PAGE_MASK, SEARCH_STEPS_MAX, row_pc, row_rule},
};

use crate::{stack::mix, verifier::forget_u32};

/// One block; user space sets how many there are when it loads the object.
type ArenaBlock = [u32; ARENA_BLOCK_WORDS];

#[map]
static UNWIND_ARENA: Array<ArenaBlock> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static UNWIND_FILES: Array<FileTable> = Array::with_max_entries(FILES_MAX, 0);
#[map]
static UNWIND_REMEMBERED: PerCpuArray<[Remembered; RULES_REMEMBERED]> = PerCpuArray::with_max_entries(1, 0);

/// A rule that was looked up before.
#[repr(C)]
#[derive(Clone, Copy)]
struct Remembered {
    /// The file's own address that it was looked up for.
    address: u64,
    file: u32,
    /// The table's; 0, which no table has, where nothing is remembered.
    generation: u32,
    rule: RuleWords,
    reserved: u32,
}

/// The three words of a rule, as they stand in the arena.
pub(super) type RuleWords = [u32; 3];

/// The rules that this CPU remembers.
#[derive(Clone, Copy)]
pub(super) struct RememberedRules(*mut [Remembered; RULES_REMEMBERED]);

impl RememberedRules {
    #[inline(always)]
    pub(super) fn of_this_cpu() -> Option<Self> {
        UNWIND_REMEMBERED.get_ptr_mut(0).map(Self)
    }

    /// The only place where the rule of an address can be.
    #[inline(always)]
    fn place(self, file: u32, address: u64) -> *mut Remembered {
        let index = mix(address, u64::from(file)) as usize & (RULES_REMEMBERED - 1);
        self.0.cast::<Remembered>().wrapping_add(index)
    }
}

/// A rule, its offsets in bytes; see `obs_common::unwind_row::Rule`.
pub(super) struct Rule {
    pub(super) cfa_offset: i64,
    pub(super) fp_offset: i64,
    pub(super) ra_offset: i64,
    pub(super) cfa_kind: u8,
    pub(super) fp_kind: u8,
    pub(super) ra_kind: u8,
    pub(super) arg: u8,
}

impl From<RuleWords> for Rule {
    #[inline(always)]
    fn from([cfa_offset, offsets, kinds]: RuleWords) -> Self {
        Self {
            cfa_offset: i64::from(cfa_offset as i32),
            fp_offset: i64::from(offsets as i16) * 8,
            ra_offset: i64::from((offsets >> 16) as i16) * 8,
            cfa_kind: kinds as u8,
            fp_kind: (kinds >> 8) as u8,
            ra_kind: (kinds >> 16) as u8,
            arg: (kinds >> 24) as u8,
        }
    }
}

/// The rule of a file's own address.
#[inline(always)]
pub(super) fn find_rule(
    epoch: u32,
    remembered: RememberedRules,
    file: u32,
    address: u64,
) -> Result<RuleWords, StackEnd> {
    let Some(table) = UNWIND_FILES.get_ptr_mut(file) else { return Err(StackEnd::NoFileTable) };
    // SAFETY: an element of an array stays valid. The epoch is a hint that several CPUs may write.
    let (table, pages_count) = unsafe {
        if (*table).used_epoch != epoch {
            (*table).used_epoch = epoch;
        }
        (&*table, (*table).pages_count)
    };
    if pages_count == 0 {
        return Err(StackEnd::TableNotReady);
    }
    if pages_count == PAGES_NEVER {
        return Err(StackEnd::NoFileTable);
    }
    let generation = table.generation;
    // SAFETY: the place is one of this CPU's.
    let remembered = unsafe { &mut *remembered.place(file, address) };
    if remembered.address == address && remembered.file == file && remembered.generation == generation {
        return Ok(remembered.rule);
    }
    let page = (address >> PAGE_BITS).wrapping_sub(u64::from(table.first_page));
    if page >= u64::from(pages_count) {
        return Err(StackEnd::NoRow);
    }
    let pages_at = table.pages_at.wrapping_add(page as u32);
    let rule = find_in_page(pages_at, table.rows_at, table.rules_at, address as u32 & PAGE_MASK);
    let rule = rule.ok_or(StackEnd::NoRow)?;
    *remembered = Remembered { address, file, generation, rule, reserved: 0 };
    Ok(rule)
}

/// The rule at a place within a page; `None` only if the table leads outside of the arena.
#[inline(always)]
fn find_in_page(pages_at: u32, rows_at: u32, rules_at: u32, pc: u32) -> Option<RuleWords> {
    let mut low = word(pages_at)?;
    let mut high = word(pages_at.wrapping_add(1))?;
    for _ in 0..SEARCH_STEPS_MAX {
        (low, high) = (forget_u32(low), forget_u32(high));
        if low >= high {
            break;
        }
        let middle = low + ((high - low) >> 1);
        if row_pc(word(rows_at.wrapping_add(middle))?) <= pc {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // The row before: of this page, or the one that holds over from the page before.
    let row = word(rows_at.wrapping_add(low).wrapping_sub(1))?;
    let at = rules_at.wrapping_add(row_rule(row) * 3);
    Some([word(at)?, word(at.wrapping_add(1))?, word(at.wrapping_add(2))?])
}

/// The convention that most just-in-time compilers keep.
pub(super) const FRAME_POINTER: Rule = {
    let unwind_row::Rule { cfa_offset, fp_offset, ra_offset, cfa_kind, fp_kind, ra_kind, arg } = FRAME_POINTER_RULE;
    let (fp_offset, ra_offset) = (fp_offset as i64 * 8, ra_offset as i64 * 8);
    Rule { cfa_offset: cfa_offset as i64, fp_offset, ra_offset, cfa_kind, fp_kind, ra_kind, arg }
};

/// A word of the arena.
#[inline(always)]
fn word(position: u32) -> Option<u32> {
    let block = UNWIND_ARENA.get_ptr(position / ARENA_BLOCK_WORDS as u32)?;
    let place = position as usize & (ARENA_BLOCK_WORDS - 1);
    // SAFETY: `place` is below the length of a block.
    Some(unsafe { block.cast::<u32>().add(place).read() })
}
