//! As much HTTP as asking a local daemon needs: one GET, in version 1.0, whose answer ends with the connection and is not
//! sent in pieces.

use std::io::{self, Read, Write};

/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Asks for a path, which must need no escaping.
pub(super) fn get(connection: &mut (impl Read + Write), path: &str) -> io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    connection.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > ANSWER_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the answer has more than {ANSWER_BYTES_MAX} bytes"),
        ));
    }
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = str::from_utf8(bytes.get(..head_end)?).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.splitn(3, ' ');
    first.next()?.strip_prefix("HTTP/1.")?;
    let status = first.next()?.parse().ok()?;
    let body = bytes.get(head_end + 4..)?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        // To a request of version 1.0 nobody may answer in pieces.
        if name.eq_ignore_ascii_case("transfer-encoding") && !value.trim().eq_ignore_ascii_case("identity") {
            return None;
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().ok()?);
        }
    }
    // A shorter body than was promised is one that was cut off.
    let body = match length {
        Some(length) => body.get(..length)?,
        None => body,
    };
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers() {
        let answer = parse(b"HTTP/1.0 404 Not Found\r\nContent-Type: x\r\ncontent-length: 2\r\n\r\n{}rest");
        assert_eq!(answer, Some(Answer { status: 404, body: b"{}".to_vec() }));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\nabc").map(|answer| answer.body), Some(b"abc".to_vec()));
        for bad in [
            &b""[..],
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.0 two OK\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nbad\r\n\r\n",
        ] {
            assert_eq!(parse(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"HTTP/1.0 200 OK\r\n".as_slice(), &bytes].concat());
        }
    }
}
