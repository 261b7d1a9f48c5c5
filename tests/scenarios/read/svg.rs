//! A flame graph: well-formed XML, whose boxes have titles `NAME (N samples, P%)`.

use anyhow::{Context as _, Result, ensure};
use quick_xml::{Reader, events::Event};

/// A flame graph's boxes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Svg {
    /// Each box's title.
    pub(crate) titles: Vec<String>,
}

impl Svg {
    /// Reads it to its end: every element must be closed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("SVG that is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut svg = Self::default();
        let mut open: Vec<Vec<u8>> = Vec::new();
        let mut title = String::new();
        loop {
            match reader.read_event().with_context(|| format!("SVG, byte {}", reader.error_position()))? {
                Event::Start(start) => {
                    ensure!(!open.is_empty() || start.name().as_ref() == b"svg", "the root is not <svg>");
                    open.push(start.name().as_ref().to_vec());
                    title.clear();
                }
                Event::Text(text) => title.push_str(&text.decode()?),
                Event::GeneralRef(reference) => match reference.decode()?.as_ref() {
                    "lt" => title.push('<'),
                    "gt" => title.push('>'),
                    "amp" => title.push('&'),
                    other => title.push_str(other),
                },
                Event::End(_) => {
                    if open.pop().is_some_and(|name| name == b"title") {
                        svg.titles.push(std::mem::take(&mut title));
                    }
                }
                Event::Eof => break,
                Event::Empty(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_) => {}
            }
        }
        ensure!(open.is_empty(), "the SVG ends inside {} elements", open.len());
        ensure!(!svg.titles.is_empty(), "a flame graph without boxes");
        Ok(svg)
    }

    /// The samples of the widest box of this name, as its title says.
    pub(crate) fn samples_of(&self, name: &str) -> Option<u64> {
        let titles = self.titles.iter().filter_map(|title| title.strip_prefix(name)?.strip_prefix(" ("));
        titles.filter_map(|rest| rest.split(' ').next()?.replace(',', "").parse().ok()).max()
    }
}
