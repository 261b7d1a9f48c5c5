//! The numbers by which the kernel side knows files, and who uses them.
//!
//! A file keeps its number, its table and its open descriptor while a process image has it mapped, and [`IDLE_EPOCHS`]
//! longer: programs are started again and again. After that all three are given back, so that an agent that runs for months
//! does not run out of numbers, nor hold on to files that others have deleted.

use std::{collections::HashMap, sync::Arc};

use obs_common::unwind_map::FILES_MAX;
use obs_unwind::{BuildId, ElfImage, ExecutableSegment};

use super::worker::{Origin, with_bytes};
use crate::enrich::process::CodeFile;

/// Epochs, of a second each, for which a file is kept that nobody has mapped any more.
const IDLE_EPOCHS: u32 = 300;

/// The same when there are no more numbers: programs that run just now may still look through the file.
const IDLE_EPOCHS_WHEN_FULL: u32 = 2;

/// What a process has mapped. Files are told apart by where they lie in memory: the one that is referred to is kept with it,
/// so that an address that is freed cannot come to mean another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum FileIdentity {
    File(usize),
    Vdso,
}

impl FileIdentity {
    pub(super) fn of(file: &Arc<CodeFile>) -> Self {
        Self::File(Arc::as_ptr(file).addr())
    }
}

/// A file that processes map, or several of the same content: containers of one image each have their own copy.
pub(super) struct KnownFile {
    pub(super) origin: Origin,
    /// Empty if the file is no ELF image that can be unwound: then the frame pointer is followed.
    pub(super) segments: Vec<ExecutableSegment>,
    pub(super) state: TableState,
    build_id: Option<BuildId>,
    /// How many identities have its number.
    identities: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableState {
    /// Nobody asked for it yet, or it was evicted.
    Absent,
    /// The worker has it.
    Asked,
    /// It is in the kernel.
    Loaded,
    /// There was no room for it.
    Refused {
        /// When.
        epoch: u32,
    },
    /// There is none to be had.
    Impossible,
}

struct Numbered {
    file: u32,
    origin: Origin,
    /// Process images that map it.
    users: u32,
    /// Since when there are none.
    idle_since: u32,
}

/// The files.
#[derive(Default)]
pub(super) struct Files {
    /// By number.
    known: Vec<Option<KnownFile>>,
    free: Vec<u32>,
    numbered: HashMap<FileIdentity, Numbered>,
    by_build_id: HashMap<BuildId, u32>,
}

impl Files {
    pub(super) fn get(&self, file: u32) -> Option<&KnownFile> {
        self.known.get(file as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, file: u32) -> Option<&mut KnownFile> {
        self.known.get_mut(file as usize)?.as_mut()
    }

    /// Every file with its number.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut KnownFile)> {
        (0..).zip(&mut self.known).filter_map(|(file, known)| Some((file, known.as_mut()?)))
    }

    /// The numbers that are taken.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.known).filter_map(|(file, known)| known.is_some().then_some(file))
    }

    /// The number of a file; `None` if there are none left. It is not in use yet.
    pub(super) fn number(
        &mut self,
        identity: FileIdentity,
        origin: impl FnOnce() -> Origin,
        epoch: u32,
    ) -> Option<u32> {
        if let Some(numbered) = self.numbered.get(&identity) {
            return Some(numbered.file);
        }
        let is_full = self.free.is_empty() && self.known.len() >= FILES_MAX as usize;
        if is_full {
            return None;
        }
        let origin = origin();
        let headers = with_bytes(&origin, |bytes| {
            let image = ElfImage::parse(bytes).map_err(|error| error.to_string())?;
            Ok((image.executable_segments().to_vec(), image.build_id().cloned()))
        });
        let (segments, build_id) = headers.unwrap_or_else(|reason| {
            if let Origin::File(code) = &origin {
                tracing::debug!(path = %code.path, %reason, "not unwound by tables");
            }
            (Vec::new(), None)
        });
        let twin = build_id.as_ref().and_then(|build_id| self.by_build_id.get(build_id)).copied();
        let twin = twin.filter(|twin| self.get(*twin).is_some_and(|known| known.segments == segments));
        let file = match twin {
            Some(twin) => twin,
            None => {
                let file = self.add(KnownFile {
                    origin: origin.clone(),
                    segments,
                    state: TableState::Absent,
                    build_id: build_id.clone(),
                    identities: 0,
                })?;
                if let Some(build_id) = build_id {
                    self.by_build_id.insert(build_id, file);
                }
                file
            }
        };
        if let Some(known) = self.get_mut(file) {
            known.identities += 1;
        }
        self.numbered.insert(identity, Numbered { file, origin, users: 0, idle_since: epoch });
        Some(file)
    }

    fn add(&mut self, known: KnownFile) -> Option<u32> {
        if let Some(file) = self.free.pop() {
            *self.known.get_mut(file as usize)? = Some(known);
            return Some(file);
        }
        let file = u32::try_from(self.known.len()).ok()?;
        self.known.push(Some(known));
        Some(file)
    }

    /// Notes that a process image maps these. Returns those that have a number: what is to be released.
    pub(super) fn take(&mut self, mut identities: Vec<FileIdentity>) -> Vec<FileIdentity> {
        identities.retain(|identity| {
            let numbered = self.numbered.get_mut(identity);
            numbered.map(|numbered| numbered.users += 1).is_some()
        });
        identities
    }

    /// Notes that a process image maps these no more, which were taken for it.
    pub(super) fn release(&mut self, identities: &[FileIdentity], epoch: u32) {
        for identity in identities {
            if let Some(numbered) = self.numbered.get_mut(identity) {
                numbered.users = numbered.users.saturating_sub(1);
                numbered.idle_since = epoch;
            }
        }
    }

    /// Forgets files that nobody has mapped for long, or, if there are no numbers left, for a moment. Returns the numbers
    /// that are free now.
    pub(super) fn forget_idle(&mut self, epoch: u32) -> Vec<u32> {
        let is_full = self.free.is_empty() && self.known.len() >= FILES_MAX as usize;
        let idle_min = if is_full { IDLE_EPOCHS_WHEN_FULL } else { IDLE_EPOCHS };
        let known = &self.known;
        // The worker would answer for whoever has the number by then.
        let is_asked = |file: u32| {
            known.get(file as usize).and_then(Option::as_ref).is_some_and(|known| known.state == TableState::Asked)
        };
        let is_over = |numbered: &Numbered| {
            numbered.users == 0 && epoch.wrapping_sub(numbered.idle_since) >= idle_min && !is_asked(numbered.file)
        };
        let over: Vec<(FileIdentity, Numbered)> = self.numbered.extract_if(|_, numbered| is_over(numbered)).collect();
        let mut freed = Vec::new();
        let mut has_lost_origin = Vec::new();
        for (_, Numbered { file, .. }) in &over {
            let Some(known) = self.get_mut(*file) else { continue };
            known.identities -= 1;
            if known.identities > 0 {
                has_lost_origin.push(*file);
                continue;
            }
            if let Some(build_id) = known.build_id.take()
                && self.by_build_id.get(&build_id) == Some(file)
            {
                self.by_build_id.remove(&build_id);
            }
            if let Some(known) = self.known.get_mut(*file as usize) {
                *known = None;
            }
            self.free.push(*file);
            freed.push(*file);
        }
        // Its table is built from a copy that somebody still has.
        if !has_lost_origin.is_empty() {
            for numbered in self.numbered.values() {
                if has_lost_origin.contains(&numbered.file)
                    && let Some(Some(known)) = self.known.get_mut(numbered.file as usize)
                {
                    known.origin = numbered.origin.clone();
                }
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::process::FileTable;

    /// Files that are no ELF images: each has a number of its own.
    fn text(folder: &std::path::Path, table: &mut FileTable, number: u32) -> Arc<CodeFile> {
        let path = folder.join(number.to_string());
        std::fs::write(&path, "text").unwrap();
        table.intern(&path.to_str().unwrap().into(), None, None)
    }

    fn number(files: &mut Files, file: &Arc<CodeFile>, epoch: u32) -> Option<u32> {
        files.number(FileIdentity::of(file), || Origin::File(Arc::clone(file)), epoch)
    }

    #[test]
    fn numbers_are_given_back_and_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let (mut files, mut table) = (Files::default(), FileTable::new());
        let [first, second] = [0, 1].map(|n| text(folder.path(), &mut table, n));
        assert_eq!([number(&mut files, &first, 7), number(&mut files, &second, 7)], [Some(0), Some(1)]);
        assert_eq!(number(&mut files, &first, 8), Some(0));
        let identities = [FileIdentity::of(&first), FileIdentity::of(&second)];
        assert_eq!(files.take(identities.to_vec()), identities);
        files.take(vec![identities[0]]);
        files.release(&identities, 100);
        assert!(files.forget_idle(100 + IDLE_EPOCHS - 1).is_empty());
        // The first one has a user left.
        assert_eq!(files.forget_idle(100 + IDLE_EPOCHS), [1]);
        assert_eq!(files.numbers().collect::<Vec<_>>(), [0]);
        assert_eq!(Arc::strong_count(&second), 1, "nobody holds on to it");
        let third = text(folder.path(), &mut table, 2);
        assert_eq!(number(&mut files, &third, 500), Some(1));
        // What the worker is building is waited for.
        files.get_mut(1).unwrap().state = TableState::Asked;
        assert!(files.forget_idle(5_000).is_empty());
        files.get_mut(1).unwrap().state = TableState::Loaded;
        assert_eq!(files.forget_idle(5_000), [1]);
    }

    #[test]
    fn when_there_are_no_numbers_left_idle_files_go_soon() {
        let folder = tempfile::tempdir().unwrap();
        let (mut files, mut table) = (Files::default(), FileTable::new());
        let all: Vec<_> = (0..FILES_MAX).map(|n| text(folder.path(), &mut table, n)).collect();
        for file in &all {
            assert!(number(&mut files, file, 1).is_some());
        }
        let more = text(folder.path(), &mut table, FILES_MAX);
        assert_eq!(number(&mut files, &more, 1), None);
        assert_eq!(files.take(vec![FileIdentity::of(&more), FileIdentity::of(&all[5])]), [FileIdentity::of(&all[5])]);
        assert_eq!(files.forget_idle(1 + IDLE_EPOCHS_WHEN_FULL).len() as u32, FILES_MAX - 1);
        assert!(number(&mut files, &more, 4).is_some_and(|file| file != 5));
    }

    #[test]
    fn copies_of_a_file_share_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let (mut files, mut table) = (Files::default(), FileTable::new());
        let own = std::fs::read("/proc/self/exe").unwrap();
        let copies: Vec<Arc<CodeFile>> = ["a", "b"]
            .iter()
            .map(|name| {
                let path = folder.path().join(name);
                std::fs::write(&path, &own).unwrap();
                let status = std::fs::metadata(&path).unwrap();
                use std::os::unix::fs::MetadataExt as _;
                let id = crate::model::process::FileId {
                    device_major: rustix::fs::major(status.dev()),
                    device_minor: rustix::fs::minor(status.dev()),
                    inode: status.ino(),
                };
                table.intern(&path.to_str().unwrap().into(), Some(id), None)
            })
            .collect();
        assert_eq!([&copies[0], &copies[1]].map(|file| number(&mut files, file, 1)), [Some(0), Some(0)]);
        if files.get(0).unwrap().build_id.is_none() {
            return;
        }
        files.take(vec![FileIdentity::of(&copies[1])]);
        assert!(files.forget_idle(1_000).is_empty());
        let Origin::File(origin) = &files.get(0).unwrap().origin else { panic!("it is a file") };
        assert!(Arc::ptr_eq(origin, &copies[1]), "the copy that is left is read");
        assert_eq!(Arc::strong_count(&copies[0]), 1);
    }
}
