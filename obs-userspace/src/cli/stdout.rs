//! Standard output, for every verb that prints.
//!
//! **Invariant:** no other file of `cli` writes to standard output; `println!` would end obs with a panic where the reader is gone.

use std::io::{self, Write};

/// Standard output. When its reader has seen enough (`head`, `less`), what it does not want is dropped and the verb ends as it
/// would have: with the exit code of what it found, without a word about the pipe. Other failures stay failures.
pub(super) fn stdout() -> impl Write {
    UntilClosed { target: io::stdout(), is_closed: false }
}

struct UntilClosed<W> {
    target: W,
    is_closed: bool,
}

impl<W> UntilClosed<W> {
    /// What to go on with when the reader is gone.
    fn or_dropped<T>(&mut self, outcome: io::Result<T>, dropped: T) -> io::Result<T> {
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(dropped)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        let outcome = self.target.write(bytes);
        self.or_dropped(outcome, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let outcome = self.target.flush();
        self.or_dropped(outcome, ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then fails in that way.
    struct Failing {
        room: usize,
        taken: Vec<u8>,
        kind: io::ErrorKind,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.taken.len());
            if taken == 0 {
                return Err(self.kind.into());
            }
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.kind.into())
        }
    }

    fn print_to(kind: io::ErrorKind) -> (io::Result<()>, Vec<u8>) {
        let target = Failing { room: 10, taken: Vec::new(), kind };
        let mut out = UntilClosed { target, is_closed: false };
        let outcome = (0..100).try_for_each(|number| writeln!(out, "line {number}")).and_then(|()| out.flush());
        (outcome, out.target.taken)
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure() {
        let (outcome, taken) = print_to(io::ErrorKind::BrokenPipe);
        outcome.unwrap();
        assert_eq!(taken, b"line 0\nlin");
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let (outcome, _) = print_to(io::ErrorKind::StorageFull);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_pipe_whose_reader_is_gone_is_written_to_in_silence() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut out = UntilClosed { target: writer, is_closed: false };
        (0..3).for_each(|_| out.write_all(&[b'x'; 100_000]).unwrap());
        assert!(out.is_closed);
    }
}
