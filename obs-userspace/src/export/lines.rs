//! JSON with one entry per line: as small as compact JSON, and a text that `diff`, `grep` and editors can handle.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

/// Breaks lines between the members of outer objects and arrays; what lies deeper stays on one line.
struct LineFormatter {
    /// Arrays down to this depth have an element per line; the outermost value has depth 1.
    array_depth: usize,
    /// Objects down to this depth have a member per line.
    object_depth: usize,
    /// How deep we are.
    depth: usize,
    /// Whether the innermost open object or array has something in it.
    has_member: bool,
}

impl LineFormatter {
    fn open(&mut self) {
        self.depth += 1;
        self.has_member = false;
    }

    fn member<W: ?Sized + Write>(&self, out: &mut W, first: bool, depth_max: usize) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        if self.depth <= depth_max { out.write_all(b"\n") } else { Ok(()) }
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, depth_max: usize) -> io::Result<()> {
        if self.has_member && self.depth <= depth_max {
            out.write_all(b"\n")?;
        }
        self.depth -= 1;
        // Whatever encloses what was just closed has it as a member.
        self.has_member = true;
        Ok(())
    }
}

impl Formatter for LineFormatter {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open();
        out.write_all(b"[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.member(out, first, self.array_depth)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.has_member = true;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, self.array_depth)?;
        out.write_all(b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open();
        out.write_all(b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.member(out, first, self.object_depth)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _out: &mut W) -> io::Result<()> {
        self.has_member = true;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, self.object_depth)?;
        out.write_all(b"}")
    }
}

/// Writes `value` with line breaks in arrays and objects down to the given depths, and one at its end.
pub(super) fn write(
    value: &impl Serialize,
    array_depth: usize,
    object_depth: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let formatter = LineFormatter { array_depth, object_depth, depth: 0, has_member: false };
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, formatter);
    value.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// A sequence that is made while it is written.
pub(super) struct Streamed<F>(pub(super) F);

impl<F, I> Serialize for Streamed<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn outer_members_have_lines_of_their_own() {
        let value = json!({"a": [[1, 2], [], {"x": {}}], "b": [], "c": {"d": 1}, "e": {}});
        let mut text = Vec::new();
        write(&value, 2, 1, &mut text).expect("a vector takes everything");
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        assert_eq!(text, "{\n\"a\":[\n[1,2],\n[],\n{\"x\":{}}\n],\n\"b\":[],\n\"c\":{\"d\":1},\n\"e\":{}\n}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON"), value);
    }
}
