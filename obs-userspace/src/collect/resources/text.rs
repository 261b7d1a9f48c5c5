//! The kernel's text files: kept open, read whole into one buffer, taken apart without allocating.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Most bytes that are read of one file. `/proc/stat` of a host with 4,096 CPUs has about 1 MiB.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;

/// What the buffer begins with: enough for every file on an ordinary host.
const BUFFER_BYTES: usize = 32 << 10;

/// A file that is read again and again.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: Option<File>,
}

impl Source {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file as it is now.
    pub(super) fn read<'b>(&mut self, buffer: &'b mut Buffer) -> io::Result<&'b [u8]> {
        // A descriptor may have died with its device or its cgroup; the path may lead to a new one.
        if let Some(file) = &self.file {
            match buffer.fill(file) {
                Ok(length) => return Ok(buffer.first(length)),
                Err(_) => self.file = None,
            }
        }
        let file = File::open(&self.path)?;
        let length = buffer.fill(&file)?;
        self.file = Some(file);
        Ok(buffer.first(length))
    }
}

/// Reads the whole of a file that is not kept open.
pub(super) fn read_once<'b>(path: &Path, buffer: &'b mut Buffer) -> io::Result<&'b [u8]> {
    let length = buffer.fill(&File::open(path)?)?;
    Ok(buffer.first(length))
}

/// Where files are read into; it keeps the size that the largest of them needed.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    fn first(&self, length: usize) -> &[u8] {
        self.0.get(..length).unwrap_or_default()
    }

    fn fill(&mut self, file: &File) -> io::Result<usize> {
        if self.0.is_empty() {
            self.0.resize(BUFFER_BYTES, 0);
        }
        let mut length = 0;
        loop {
            if length == self.0.len() {
                if length >= FILE_BYTES_MAX {
                    return Err(io::Error::new(
                        io::ErrorKind::FileTooLarge,
                        format!("it has more than {FILE_BYTES_MAX} bytes"),
                    ));
                }
                self.0.resize((length * 2).min(FILE_BYTES_MAX), 0);
            }
            let free = self.0.get_mut(length..).unwrap_or_default();
            match file.read_at(free, length as u64) {
                Ok(0) => return Ok(length),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The lines of a text; what follows the last line break, if anything, is one too.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// What stands between blanks.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// A decimal number without a sign.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field.is_empty() || !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(field).ok()?.parse().ok()
}

/// The numbers of a line that consists of nothing else, from its first field on; fields beyond `N` are left alone, and
/// missing ones make it `None`.
pub(super) fn numbers<'a, const N: usize>(fields: impl Iterator<Item = &'a [u8]>) -> Option<[u64; N]> {
    let mut values = [0; N];
    let mut count = 0;
    for (value, field) in values.iter_mut().zip(fields) {
        *value = number(field)?;
        count += 1;
    }
    (count == N).then_some(values)
}

/// The values behind these keys, in a text of lines `KEY VALUE` or `KEY: VALUE kB`; `None` for those that are not there.
pub(super) fn values_of<const N: usize>(text: &[u8], keys: [&str; N]) -> [Option<u64>; N] {
    let mut values = [None; N];
    for line in lines(text) {
        let mut fields = fields(line);
        let Some(key) = fields.next() else { continue };
        let key = key.strip_suffix(b":").unwrap_or(key);
        if let Some(at) = keys.iter().position(|wanted| wanted.as_bytes() == key)
            && let Some(value) = values.get_mut(at)
        {
            *value = value.or_else(|| number(fields.next()?));
        }
    }
    values
}

/// A number with a decimal point, as `/proc/loadavg` and `/proc/uptime` have it; never negative, infinite or no number.
pub(super) fn decimal(field: &[u8]) -> Option<f64> {
    let plain = field.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let value: f64 = str::from_utf8(field).ok().filter(|_| plain)?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_kept_file_shows_what_it_holds_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stat");
        std::fs::write(&path, "one").unwrap();
        let (mut source, mut buffer) = (Source::new(&path), Buffer::default());
        assert_eq!(source.read(&mut buffer).unwrap(), b"one");
        std::fs::write(&path, "t").unwrap();
        assert_eq!(source.read(&mut buffer).unwrap(), b"t");
        assert_eq!(source.path(), path);
        assert!(Source::new(folder.path().join("none")).read(&mut buffer).is_err());
    }

    #[test]
    fn a_long_file_is_read_whole_and_an_endless_one_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; BUFFER_BYTES * 3 + 7]).unwrap();
        let mut buffer = Buffer::default();
        assert_eq!(read_once(file.path(), &mut buffer).unwrap().len(), BUFFER_BYTES * 3 + 7);
        let error = read_once(Path::new("/dev/zero"), &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn numbers_and_garbage() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for garbage in [&b""[..], b"-1", b"+1", b"18446744073709551616", b"1x", b"\xff", b" 1"] {
            assert_eq!(number(garbage), None);
        }
        assert_eq!(numbers::<2>(fields(b"1  2 x")), Some([1, 2]));
        assert_eq!(numbers::<3>(fields(b"1 2")), None);
        assert_eq!((decimal(b"0.25"), decimal(b"7")), (Some(0.25), Some(7.0)));
        for garbage in [&b""[..], b"nan", b"inf", b"1e9", b"-1", b"1.2.3", b"."] {
            assert_eq!(decimal(garbage), None, "{garbage:?}");
        }
        let text = b"MemTotal:  10 kB\nMemFree: x\n\nswap 3\nMemTotal: 11 kB";
        assert_eq!(values_of(text, ["MemTotal", "MemFree", "swap", "none"]), [Some(10), None, Some(3), None]);
    }
}
