//! A client of the agent's server that can also say what no proper client would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How long an answer may take; longer than anything that the server allows itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Most lines of an answer's head.
const HEAD_LINES_MAX: usize = 100;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
    /// Whether the server ends the connection with it.
    pub(crate) closes: bool,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).context("setting a time limit")?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).context("setting a time limit")?;
        stream.set_nodelay(true).context("sending at once")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are. The server may have had enough of them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("sending a request")
    }

    /// Reads one answer; `None` if the connection ended without one.
    pub(crate) fn reply(&mut self) -> Result<Option<Reply>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
            return Ok(None);
        }
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no answer begins with {line:?}"))?;
        let (mut length, mut is_chunked, mut content_type, mut closes) = (None, false, String::new(), false);
        for number in 0.. {
            ensure!(number < HEAD_LINES_MAX, "an answer's head has no end");
            line.clear();
            self.stream.read_line(&mut line).context("reading an answer's head")?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.parse::<u64>().context("reading an answer's length")?),
                "transfer-encoding" => is_chunked = value.eq_ignore_ascii_case("chunked"),
                "content-type" => value.clone_into(&mut content_type),
                "connection" => closes = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let mut body = Vec::new();
        match length {
            _ if is_chunked => self.chunks(&mut body)?,
            Some(length) => self.take(length, &mut body)?,
            None => {
                let _ = self.stream.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut body);
                closes = true;
            }
        }
        Ok(Some(Reply { status, content_type, body, closes }))
    }

    fn take(&mut self, length: u64, body: &mut Vec<u8>) -> Result<()> {
        ensure!(length <= ANSWER_BYTES_MAX, "an answer has {length} bytes");
        let taken = self.stream.by_ref().take(length).read_to_end(body).context("reading an answer")?;
        ensure!(taken as u64 == length, "an answer ends after {taken} of {length} bytes");
        Ok(())
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<()> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).context("reading an answer")?;
            let Ok(length) = u64::from_str_radix(line.trim_end(), 16) else { bail!("a part's length is {line:?}") };
            self.take(length, body)?;
            line.clear();
            self.stream.read_line(&mut line).context("reading an answer")?;
            if length == 0 {
                return Ok(());
            }
            ensure!(body.len() as u64 <= ANSWER_BYTES_MAX, "an answer has no end");
        }
    }
}

/// The bytes of a proper request that is the only one of its connection.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends bytes on a connection of their own, and reads the answer. What the server does not want to read to its end is no error.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Option<Reply>> {
    let mut client = Client::connect(address)?;
    let _ = client.send(bytes);
    client.reply()
}

/// The answer to a GET.
pub(crate) fn get(address: SocketAddr, target: &str) -> Result<Reply> {
    let reply = exchange(address, &request("GET", target, &[], b""))?;
    reply.with_context(|| format!("{target} was not answered"))
}

/// The JSON that a GET is answered with.
pub(crate) fn json(address: SocketAddr, target: &str) -> Result<Value> {
    let reply = get(address, target)?;
    ensure!(reply.status == 200, "{target} was answered with {}: {}", reply.status, reply.text());
    serde_json::from_slice(&reply.body).with_context(|| format!("{target} is no JSON: {}", reply.text()))
}
