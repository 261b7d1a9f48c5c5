//! Builds unwind tables in a thread of its own, off every hot path.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel},
    },
};

use obs_unwind::{ElfImage, UnwindTable};

use crate::{enrich::process::CodeFile, kernel::file_map::FileMap};

/// Most files that wait to be built; what does not fit is asked for again at the next look.
const QUEUE_MAX: usize = 256;

/// Where the code of a table comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A file that some process has mapped.
    File(Arc<CodeFile>),
    /// The virtual shared object, the same in every process.
    Vdso(Arc<[u8]>),
}

/// A finished table, or why there is none.
pub(super) struct Built {
    pub(super) file: u32,
    pub(super) table: Result<UnwindTable, String>,
}

/// The thread, seen from outside. Dropping it lets the thread end after the table that it is building.
pub(super) struct Worker {
    jobs: SyncSender<(u32, Origin)>,
    built: Receiver<Built>,
}

impl Worker {
    /// Starts the thread. `wake` is called after each table.
    pub(super) fn start(wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (jobs, queue) = sync_channel::<(u32, Origin)>(QUEUE_MAX);
        let (results, built) = channel();
        std::thread::Builder::new().name("obs-unwind".to_owned()).spawn(move || {
            for (file, origin) in queue {
                let table = build(&origin);
                if results.send(Built { file, table }).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { jobs, built })
    }

    /// Asks for a table. False if too many wait already.
    pub(super) fn ask(&self, file: u32, origin: Origin) -> bool {
        match self.jobs.try_send((file, origin)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The next finished table.
    pub(super) fn next(&self) -> Option<Built> {
        self.built.try_recv().ok()
    }
}

fn build(origin: &Origin) -> Result<UnwindTable, String> {
    let table = |bytes: &[u8], step: &mut dyn FnMut()| {
        let image = ElfImage::parse(bytes).map_err(|error| error.to_string())?;
        UnwindTable::build_in_steps(&image, step).map(|(table, _notes)| table).map_err(|error| error.to_string())
    };
    match origin {
        Origin::Vdso(bytes) => table(bytes, &mut || ()),
        Origin::File(file) => {
            let map = map(file)?;
            // A large library would else be in memory as a whole at its end.
            table(&map, &mut || map.release())
        }
    }
}

/// Hands the bytes of an ELF image to `read`.
pub(super) fn with_bytes<T>(origin: &Origin, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
    match origin {
        Origin::Vdso(bytes) => read(bytes),
        Origin::File(file) => read(&map(file)?),
    }
}

fn map(file: &CodeFile) -> Result<FileMap, String> {
    let opened = file.open().map_err(|error| error.to_string())?;
    FileMap::new(opened.file()).map_err(|error| format!("{}: {error}", file.path))
}
