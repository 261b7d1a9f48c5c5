//! The source files of a unit: those that its lines and calls refer to, by numbers of our own.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use gimli::Reader as _;

use super::{
    BuildError,
    builder::Builder,
    debug::{Debug, Unit, Value},
};
use crate::enrich::symbolize::demangle::presentable;

/// Files of a unit.
#[derive(Debug)]
pub(super) struct Files {
    unit: u64,
    /// Our number by that of the debug information; 0 if there is no such file.
    numbers: HashMap<u64, u32>,
    /// The file that was asked for last, and its number: rows of the same file follow each other.
    last: Option<(u64, u32)>,
    /// Where each path is in the index, by our number less one.
    paths: Vec<u32>,
}

impl Files {
    pub(super) fn new(builder: &Builder) -> Self {
        Self { unit: builder.unit_number(), numbers: HashMap::new(), last: None, paths: Vec::new() }
    }

    pub(super) fn unit_number(&self) -> u64 {
        self.unit
    }

    /// Our number of a file: 0 if there is none.
    pub(super) fn number<'a>(
        &mut self,
        builder: &mut Builder,
        debug: &Debug<'a>,
        unit: &Unit<'a>,
        file: u64,
    ) -> Result<u32, BuildError> {
        if let Some((last, number)) = self.last
            && last == file
        {
            return Ok(number);
        }
        if let Some(known) = self.numbers.get(&file) {
            self.last = Some((file, *known));
            return Ok(*known);
        }
        let number = match path_of(debug, unit, file) {
            Some(path) => {
                self.paths.push(builder.path(&path)?);
                u32::try_from(self.paths.len()).unwrap_or(0)
            }
            None => 0,
        };
        self.numbers.insert(file, number);
        Ok(number)
    }

    /// The paths in the order of their numbers.
    pub(super) fn into_paths(self) -> Vec<u32> {
        self.paths
    }
}

fn path_of<'a>(debug: &Debug<'a>, unit: &Unit<'a>, file: u64) -> Option<String> {
    let header = unit.line_program.as_ref()?.header();
    let file = header.file(file)?;
    let text = |value: Value<'a>| match value {
        // It lies among the lines, not among the entries.
        Value::String(text) => Some(text.to_slice().ok()?.into_owned()),
        other => debug.text(unit, &other),
    };
    let mut path = PathBuf::new();
    if let Some(folder) = &unit.comp_dir {
        path.push(as_path(&folder.to_slice().ok()?));
    }
    // Folder 0 is the one in which the compiler ran.
    if file.directory_index() != 0
        && let Some(folder) = file.directory(header)
    {
        path.push(as_path(&text(folder)?));
    }
    path.push(as_path(&text(file.path_name())?));
    let path = presentable(&path.to_string_lossy());
    (!path.is_empty()).then_some(path)
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
