//! The functions that a range's time went to.

use std::{collections::HashMap, sync::Arc};

use super::{super::error::StoreError, Notes, ProfileQuery};
use crate::{
    model::profile::{FrameKind, Profile, ValueType},
    store::reader::Reader,
};

/// What a function took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, or file and offset.
    pub name: String,
    /// The file that its code is in, if known.
    pub module: Option<Arc<str>>,
    /// Which side it belongs to.
    pub kind: FrameKind,
    /// What was measured in itself.
    pub self_value: u64,
    /// What was measured in itself and in what it called; once per stack, however often it calls itself.
    pub total_value: u64,
}

/// The functions of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct TopFunctions {
    /// What the values mean; `None` if there was nothing.
    pub value_type: Option<ValueType>,
    /// The sum over all stacks, with those that were left out.
    pub total: u64,
    /// What was measured in stacks without a frame.
    pub without_frames: u64,
    /// The largest by their own value first, then by the total.
    pub functions: Vec<Function>,
    /// Functions beyond the limit.
    pub functions_omitted: u64,
    /// How complete the profile is that they are taken from.
    pub notes: Notes,
}

impl Reader {
    /// The functions of a range, by the value type of that name, or by the last one.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed.
    pub fn top_functions(&self, query: &ProfileQuery, value_type: Option<&str>) -> Result<TopFunctions, StoreError> {
        let merged = self.profile(query)?;
        let types = &merged.profile.value_types;
        let chosen = value_type.and_then(|name| types.iter().position(|of| of.name == name));
        let index = chosen.unwrap_or(types.len().saturating_sub(1));
        let mut top = TopFunctions::of(&merged.profile, index, query.limits.functions);
        top.total = top.total.saturating_add(merged.omitted_values.get(index).copied().unwrap_or_default());
        top.notes = merged.notes;
        Ok(top)
    }
}

impl TopFunctions {
    /// The functions of a profile, by one of its value types.
    #[must_use]
    pub fn of(profile: &Profile, value_index: usize, functions_max: usize) -> Self {
        let mut functions: Vec<Function> = Vec::new();
        let mut known: HashMap<(String, Option<u32>, FrameKind), usize> = HashMap::new();
        let of_frame: Vec<usize> = profile
            .frames
            .iter()
            .map(|frame| {
                let name = profile.label(frame);
                *known.entry((name.clone(), frame.module, frame.kind)).or_insert_with(|| {
                    let module = frame.module.and_then(|index| profile.modules.get(index as usize));
                    let module = module.map(|module| Arc::clone(&module.path));
                    functions.push(Function { name, module, kind: frame.kind, self_value: 0, total_value: 0 });
                    functions.len() - 1
                })
            })
            .collect();
        drop(known);
        // In which sample a function was seen last.
        let mut seen_in = vec![usize::MAX; functions.len()];
        let (mut total, mut without_frames) = (0_u64, 0_u64);
        for (position, sample) in profile.samples.iter().enumerate() {
            let value = sample.values.get(value_index).copied().unwrap_or_default();
            total = total.saturating_add(value);
            if sample.stack.is_empty() {
                without_frames = without_frames.saturating_add(value);
            }
            for (depth, frame) in sample.stack.iter().enumerate() {
                let Some(index) = of_frame.get(*frame as usize).copied() else { continue };
                let function = &mut functions[index];
                if depth == 0 {
                    function.self_value = function.self_value.saturating_add(value);
                }
                if seen_in[index] != position {
                    seen_in[index] = position;
                    function.total_value = function.total_value.saturating_add(value);
                }
            }
        }
        functions.retain(|function| function.total_value > 0);
        functions.sort_by(|left, right| {
            (right.self_value, right.total_value)
                .cmp(&(left.self_value, left.total_value))
                .then_with(|| left.name.cmp(&right.name))
        });
        let functions_omitted = functions.len().saturating_sub(functions_max) as u64;
        functions.truncate(functions_max);
        let value_type = profile.value_types.get(value_index).cloned();
        Self { value_type, total, without_frames, functions, functions_omitted, notes: Notes::default() }
    }
}
