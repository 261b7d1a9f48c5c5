//! Frames and modules of a profile, each once: what addresses, waits and wakers turn into.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::Addresses;
use crate::{
    enrich::symbolize::{NoSymbol, Resolved},
    model::{
        profile::{Frame, FrameDetail, FrameKind, Module},
        summary::FrameCounts,
        wait::{Wait, Waker},
    },
};

/// The frame that stands for the stacks that short waits do not have.
const SHORT_WAITS: &str = "[short waits]";

/// Functions of the kernel in which an interrupt begins, by how they begin.
const INTERRUPT_FUNCTIONS: &[&str] =
    &["asm_sysvec_", "asm_common_interrupt", "asm_exc_nmi", "el0t_64_irq", "el1h_64_irq", "el0t_64_fiq", "el1h_64_fiq"];

/// Functions by which the kernel runs our own programs, by how they begin: they stand inside of what they look at.
const OWN_FUNCTIONS: &[&str] = &["bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_", "bpf_trampoline_"];

/// Things by their place in a list, each once.
#[derive(Debug)]
pub(super) struct Interner<T> {
    pub(super) items: Vec<T>,
    places: HashMap<T, u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { items: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    fn intern(&mut self, item: T) -> u32 {
        if let Some(place) = self.places.get(&item) {
            return *place;
        }
        // More than 2^32 different frames do not fit into memory; the last place would take the rest.
        let place = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.items.push(item.clone());
        self.places.insert(item, place);
        place
    }
}

/// The tables of a profile.
#[derive(Debug, Default)]
pub(super) struct Tables {
    detail: Option<FrameDetail>,
    pub(super) modules: Interner<Module>,
    pub(super) frames: Interner<Frame>,
    unnamed: HashMap<u32, NoSymbol>,
}

impl Tables {
    /// Empty ones, in which frames are told apart by so much.
    pub(super) fn new(detail: FrameDetail) -> Self {
        Self { detail: Some(detail), ..Self::default() }
    }

    /// Appends the frames of an address to a stack, innermost first.
    pub(super) fn expand(&mut self, resolved: Option<&Resolved>, stack: &mut Vec<u32>) {
        // Every address of every stack was resolved.
        let Some(Resolved { module, address, kind, names }) = resolved else { return };
        let module = module.as_ref().map(|module| self.modules.intern(Module::clone(module)));
        let named = match names {
            Ok(named) => named,
            Err(reason) => {
                // Without a name, the address is what tells one frame from another.
                let frame = Frame { function: None, kind: *kind, module, address: *address, source: None };
                let place = self.frames.intern(frame);
                self.unnamed.insert(place, *reason);
                stack.push(place);
                return;
            }
        };
        for frame in named.iter() {
            let kind = match (kind, frame.is_inlined) {
                (FrameKind::User | FrameKind::UserInlined, true) => FrameKind::UserInlined,
                (FrameKind::Kernel | FrameKind::KernelInlined, true) => FrameKind::KernelInlined,
                (kind, _) => *kind,
            };
            let (address, source) = match self.detail {
                Some(FrameDetail::Addresses) => (*address, frame.source.clone()),
                Some(FrameDetail::Lines) => (0, frame.source.clone()),
                Some(FrameDetail::Functions) | None => (0, None),
            };
            stack.push(self.frames.intern(Frame {
                function: Some(Arc::clone(&frame.function)),
                kind,
                module,
                address,
                source,
            }));
        }
    }

    /// A frame that stands for no code.
    fn note(&mut self, text: &str) -> u32 {
        let function = Some(Arc::from(text));
        self.frames.intern(Frame { function, kind: FrameKind::Wait, module: None, address: 0, source: None })
    }

    /// The frames that stand for what was waited for, innermost first.
    pub(super) fn wait(&mut self, wait: Wait) -> impl Iterator<Item = u32> {
        let state = self.note(wait.state.frame());
        std::iter::once(state).chain(wait.is_short.then(|| self.note(SHORT_WAITS)))
    }

    /// Appends who ended a wait to a stack, innermost first: its stack stands inside of what was waited for. Of an interrupt that is
    /// what it did itself, and not what it interrupted.
    pub(super) fn waker(&mut self, waker: &Waker, names: &Addresses, stack: &mut Vec<u32>) {
        let thread = match waker {
            Waker::Thread(thread) => thread,
            Waker::Interrupt => return stack.push(self.note("[woken by an interrupt]")),
            Waker::Lost => return stack.push(self.note("[woken by ?]")),
        };
        let kernel: Vec<_> =
            thread.kernel.iter().flat_map(|kernel| &kernel.frames).map(|it| names.kernel(it)).collect();
        let entry = kernel.iter().position(|resolved| resolved.is_some_and(|it| is_named(it, INTERRUPT_FUNCTIONS)));
        let shown = entry.map_or(kernel.len(), |entry| entry + 1);
        let is_own = |resolved: &&Option<&Resolved>| resolved.is_some_and(|it| is_named(it, OWN_FUNCTIONS));
        for resolved in kernel.iter().take(shown).skip_while(is_own) {
            self.expand(*resolved, stack);
        }
        if entry.is_some() {
            stack.push(self.note("[woken by an interrupt]"));
            return;
        }
        for frame in thread.user.iter().flat_map(|user| &user.frames) {
            self.expand(names.user(thread.process, frame), stack);
        }
        stack.push(self.note(&format!("[woken by {}]", thread.thread_name)));
    }

    /// Frames by whether they have a name.
    pub(super) fn counts(&self) -> FrameCounts {
        let mut counts = FrameCounts::default();
        for reason in self.unnamed.values() {
            *counts.unsymbolized.entry(reason.phrase().to_owned()).or_default() += 1;
        }
        let code = self.frames.items.iter().filter(|frame| frame.kind != FrameKind::Wait).count();
        counts.symbolized = (code - self.unnamed.len()) as u64;
        counts
    }
}

/// Whether a function's name begins so.
fn is_named(resolved: &Resolved, beginnings: &[&str]) -> bool {
    let names = resolved.names.as_ref().ok().into_iter().flat_map(|names| names.iter());
    names.map(|frame| &frame.function).any(|function| beginnings.iter().any(|start| function.starts_with(start)))
}
