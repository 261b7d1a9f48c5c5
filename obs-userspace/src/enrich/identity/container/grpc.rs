//! As much HTTP/2 and gRPC as asking a local daemon needs: one call with one answer on a connection of its own.
//!
//! Headers are sent as literals, and those that come back are not decoded: whether there was an answer shows by its
//! message. So nothing depends on the state of a header table, and no library of a hundred crates is needed for some
//! bytes a minute. RFC 9113 (frames), RFC 7541 (headers), and gRPC's protocol over HTTP/2.

use std::io::{self, Read, Write};

use prost::Message;

/// Most bytes of an answer: lists of all containers of a host. As much is granted to the server from the beginning, so
/// that nothing need be granted later.
const ANSWER_BYTES_MAX: u32 = 16 << 20;

/// Most bytes of one frame: the protocol's default, which we never raise.
const FRAME_BYTES_MAX: usize = 16_384;

/// Most frames that are read for one answer.
const FRAMES_MAX: usize = 65_536;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The types of frames that matter; RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The one stream that we open.
const STREAM: u32 = 1;

/// The window that every connection begins with.
const WINDOW_BYTES: u32 = 65_535;

/// Calls `method` (`/package.Service/Method`) and returns its answer. `metadata` are further headers, in lower case.
///
/// # Errors
/// If the connection fails, or the server says no: it sends no message then.
pub(super) fn call<A: Message + Default>(
    connection: &mut (impl Read + Write),
    method: &str,
    metadata: &[(&str, &str)],
    request: &impl Message,
) -> io::Result<A> {
    connection.write_all(&opening(method, metadata, &request.encode_to_vec()))?;
    let message = receive(connection)?;
    A::decode(message.as_slice()).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the answer is not what was asked for: {error}"))
    })
}

/// All that we send unasked: preface, settings, the call and its one message.
fn opening(method: &str, metadata: &[(&str, &str)], message: &[u8]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE (4), and SETTINGS_ENABLE_PUSH (2) off.
    let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
    settings.extend_from_slice(&ANSWER_BYTES_MAX.to_be_bytes());
    push_frame(&mut bytes, SETTINGS, 0, 0, &settings);
    push_frame(&mut bytes, WINDOW_UPDATE, 0, 0, &(ANSWER_BYTES_MAX - WINDOW_BYTES).to_be_bytes());
    let mut headers = Vec::new();
    let fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "obs"),
    ];
    for (name, value) in fixed.iter().chain(metadata) {
        // Literal, never indexed, with a new name; neither is compressed.
        headers.push(0x10);
        push_string(&mut headers, name);
        push_string(&mut headers, value);
    }
    push_frame(&mut bytes, HEADERS, END_HEADERS, STREAM, &headers);
    // Not compressed, and how long it is.
    let mut data = vec![0];
    data.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend_from_slice(message);
    push_frame(&mut bytes, DATA, END_STREAM, STREAM, &data);
    bytes
}

/// A string with its length in 7 bits, and more bytes where that is not enough; RFC 7541 section 5.
fn push_string(bytes: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap_or(0));
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).unwrap_or(0) | 128);
            length /= 128;
        }
        bytes.push(u8::try_from(length).unwrap_or(0));
    }
    bytes.extend_from_slice(text.as_bytes());
}

fn push_frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn read_frame(connection: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    connection.read_exact(&mut head)?;
    let [l0, l1, l2, kind, flags, stream @ ..] = head;
    let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(invalid("a frame is larger than was allowed"));
    }
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload)?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
}

/// Reads frames until the message is whole.
fn receive(connection: &mut (impl Read + Write)) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    for _ in 0..FRAMES_MAX {
        let Frame { kind, flags, stream, payload } = read_frame(connection)?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let mut answer = Vec::new();
                push_frame(&mut answer, SETTINGS, ACK, 0, &[]);
                connection.write_all(&answer)?;
            }
            PING if flags & ACK == 0 => {
                let mut answer = Vec::new();
                push_frame(&mut answer, PING, ACK, 0, &payload);
                connection.write_all(&answer)?;
            }
            DATA if stream == STREAM => {
                data.extend_from_slice(without_padding(&payload, flags)?);
                if data.len() > ANSWER_BYTES_MAX as usize {
                    return Err(invalid("the answer is larger than was allowed"));
                }
                if let Some(message) = whole_message(&data)? {
                    return Ok(message.to_owned());
                }
            }
            RST_STREAM if stream == STREAM => return Err(refused()),
            GOAWAY => return Err(refused()),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && stream == STREAM && flags & END_STREAM != 0 {
            return Err(refused());
        }
    }
    Err(invalid("the answer has too many frames"))
}

fn without_padding(payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let padding = payload.split_first().and_then(|(length, rest)| {
        let kept = rest.len().checked_sub(usize::from(*length))?;
        rest.get(..kept)
    });
    padding.ok_or_else(|| invalid("a frame has more padding than bytes"))
}

/// The message, if all of it is there.
fn whole_message(data: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(([compressed, length @ ..], rest)) = data.split_first_chunk::<5>() else { return Ok(None) };
    if *compressed != 0 {
        return Err(invalid("the answer is compressed, which was not asked for"));
    }
    let length = u32::from_be_bytes(*length);
    if length > ANSWER_BYTES_MAX {
        return Err(invalid("the answer is larger than was allowed"));
    }
    Ok(rest.get(..length as usize))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn refused() -> io::Error {
    io::Error::other("the server refused the call")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// Answers with fixed bytes, and keeps what it was sent.
    struct Server {
        answer: Cursor<Vec<u8>>,
        received: Vec<u8>,
    }

    impl Read for Server {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    impl Write for Server {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, PartialEq, Message)]
    struct Text {
        #[prost(string, tag = "1")]
        text: String,
    }

    fn ask(answer: Vec<u8>) -> (io::Result<Text>, Vec<u8>) {
        let mut server = Server { answer: Cursor::new(answer), received: Vec::new() };
        let outcome = call(&mut server, "/a.B/C", &[("x-namespace", "default")], &Text { text: "ask".to_owned() });
        (outcome, server.received)
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, kind, flags, stream, payload);
        bytes
    }

    fn message(text: &str) -> Vec<u8> {
        let message = Text { text: text.to_owned() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0], length.to_be_bytes().as_slice(), &message].concat()
    }

    #[test]
    fn an_answer_in_pieces_between_other_frames() {
        let answer = message("yes");
        let (first, second) = answer.split_at(4);
        let padded = [&[3], second, &[0, 0, 0]].concat();
        let frames = [
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(SETTINGS, ACK, 0, &[]),
            frame(PING, 0, 0, b"12345678"),
            frame(HEADERS, END_HEADERS, STREAM, &[0x88]),
            frame(DATA, 0, STREAM, first),
            frame(99, 0, 7, b"unknown"),
            frame(DATA, PADDED, STREAM, &padded),
        ];
        let (outcome, received) = ask(frames.concat());
        assert_eq!(outcome.unwrap().text, "yes");
        assert!(received.starts_with(PREFACE));
        let contains = |bytes: &[u8]| received.windows(bytes.len()).any(|window| window == bytes);
        assert!(contains(b"\x05:path\x06/a.B/C") && contains(b"\x0bx-namespace\x07default"));
        assert!(contains(&frame(SETTINGS, ACK, 0, &[])) && contains(&frame(PING, ACK, 0, b"12345678")));
    }

    #[test]
    fn refusals_and_nonsense() {
        let error = |frames: Vec<u8>| ask(frames).0.unwrap_err().to_string();
        // Trailers without a message: an error status.
        assert!(error(frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x88])).contains("refused"));
        assert!(error(frame(RST_STREAM, 0, STREAM, &[0; 4])).contains("refused"));
        assert!(error(frame(GOAWAY, 0, 0, &[0; 8])).contains("refused"));
        assert!(error(frame(DATA, 0, STREAM, &[1, 0, 0, 0, 0])).contains("compressed"));
        assert!(error(frame(DATA, 0, STREAM, &[0, 255, 255, 255, 255])).contains("larger"));
        assert!(error(frame(DATA, PADDED, STREAM, &[9, 0])).contains("padding"));
        assert!(error(vec![255; 9]).contains("larger"));
        assert!(error(frame(DATA, 0, STREAM, &[0, 0, 0, 0, 2, 255, 255])).contains("not what was asked for"));
        assert!(!error(Vec::new()).is_empty());
    }

    #[test]
    fn long_strings() {
        let mut bytes = Vec::new();
        push_string(&mut bytes, &"x".repeat(1337));
        // 1337 - 127 = 1210 = 9 × 128 + 58.
        assert_eq!(bytes.get(..3), Some([127, 58 | 128, 9].as_slice()));
    }

    proptest! {
        #[test]
        fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u8..10, flags in any::<u8>()) {
            let _ = ask(bytes.clone());
            let _ = ask(frame(kind, flags, STREAM, &bytes));
        }
    }
}
