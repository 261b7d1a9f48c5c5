//! The names of the host's users, from its `/etc/passwd`. Not from its name services, which can block and run foreign code.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Most bytes that are read of the file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Most users that are remembered.
const USERS_MAX: usize = 65_536;

/// How often it is looked whether the file has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What tells two states of the file apart.
type State = (u64, u64, i64, i64, u64);

/// The users.
#[derive(Debug)]
pub(super) struct Users {
    path: PathBuf,
    state: Option<State>,
    checked: Option<Instant>,
    names: HashMap<u32, Arc<str>>,
}

impl Users {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), state: None, checked: None, names: HashMap::new() }
    }

    /// The name of a user.
    pub(super) fn name(&mut self, id: u32) -> Option<Arc<str>> {
        if self.checked.is_none_or(|checked| checked.elapsed() >= CHECK_INTERVAL) {
            self.checked = Some(Instant::now());
            self.refresh();
        }
        self.names.get(&id).cloned()
    }

    fn refresh(&mut self) {
        let state = std::fs::metadata(&self.path)
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|data| (data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.len()));
        if state == self.state {
            return;
        }
        self.state = state;
        self.names.clear();
        let Some(file) = state.and_then(|_| File::open(&self.path).ok()) else { return };
        let mut text = Vec::new();
        if let Err(error) = file.take(FILE_BYTES_MAX).read_to_end(&mut text) {
            tracing::debug!(path = %self.path.display(), %error, "cannot read the names of users");
        }
        self.names = parse(&text);
    }
}

/// `NAME:x:UID:GID:…`, one line each. Of several names of a user the first counts, as for everybody.
fn parse(text: &[u8]) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let id = str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        let (Some(id), Ok(name)) = (id, str::from_utf8(name)) else { continue };
        if names.len() < USERS_MAX && !name.is_empty() && !name.contains(char::is_control) {
            names.entry(id).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_good_and_bad() {
        let text =
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n# no\n+::::::\nbad\n:x:5:5::/:/\nx:x:-1:0\n\
            y:x:4294967296:0\nnobody:x:65534:65534\n\xff:x:7:7\n";
        let names = parse(text);
        assert_eq!(names.get(&0).map(|name| &**name), Some("root"));
        assert_eq!(names.get(&65_534).map(|name| &**name), Some("nobody"));
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let mut users = Users::new(&path);
        assert_eq!(users.name(5), None);
        std::fs::write(&path, "five:x:5:5\n").unwrap();
        assert_eq!(users.name(5), None, "it was looked at a moment ago");
        users.checked = None;
        assert_eq!(users.name(5).as_deref(), Some("five"));
        std::fs::write(&path, "fifth:x:5:5\n").unwrap();
        users.checked = None;
        assert_eq!(users.name(5).as_deref(), Some("fifth"));
        std::fs::remove_file(&path).unwrap();
        users.checked = None;
        assert_eq!(users.name(5), None);
    }
}
