//! The page and its parts, which are in the binary.

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};

use super::{answer::Answer, body::Body, refusal::Refusal, routes::Asked, server::Context};

const INDEX: &[u8] = include_bytes!("../../web/index.html");
const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name, media type, content.
pub(super) static ASSETS: &[(&str, &str, &[u8])] = &[
    ("style.css", "text/css; charset=utf-8", include_bytes!("../../web/style.css")),
    ("main.js", SCRIPT, include_bytes!("../../web/main.js")),
    ("flame.js", SCRIPT, include_bytes!("../../web/flame.js")),
    ("layout.js", SCRIPT, include_bytes!("../../web/layout.js")),
    ("api.js", SCRIPT, include_bytes!("../../web/api.js")),
    ("format.js", SCRIPT, include_bytes!("../../web/format.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../web/icon.svg")),
];

/// The binary may be another one after a restart: ask each time.
fn content(content_type: &'static str, bytes: &'static [u8]) -> Answer {
    Answer::new(StatusCode::OK, content_type, Body::whole(Bytes::from_static(bytes)))
        .with(CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

pub(super) fn index(_: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    Ok(content("text/html; charset=utf-8", INDEX))
}

pub(super) fn asset(_: &Context, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let wanted = asked.name.as_deref().unwrap_or_default();
    let found = ASSETS.iter().find(|(name, _, _)| *name == wanted);
    let (_, content_type, bytes) = found.ok_or_else(|| Refusal::not_found(wanted))?;
    Ok(content(content_type, bytes))
}

pub(super) fn openapi(_: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    Ok(content("application/yaml", OPENAPI.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of scripts.
    const SCRIPT_BYTES_MAX: usize = 60 << 10;

    #[test]
    fn the_page_is_small_and_has_nothing_inline_or_foreign() {
        let scripts: usize =
            ASSETS.iter().filter(|(_, kind, _)| *kind == SCRIPT).map(|(_, _, bytes)| bytes.len()).sum();
        assert!(scripts <= SCRIPT_BYTES_MAX, "{scripts} bytes of scripts");
        let index = std::str::from_utf8(INDEX).unwrap();
        for forbidden in ["style=", "onclick", "onload", "<style", "http://", "https://", "javascript:"] {
            assert!(!index.contains(forbidden), "the page has {forbidden}");
        }
        for tag in index.split('<').filter(|tag| tag.starts_with("script")) {
            assert!(tag.contains("src=\"/assets/") && tag.ends_with('>'), "{tag}");
        }
        for (name, _, bytes) in ASSETS {
            let text = std::str::from_utf8(bytes).unwrap();
            for forbidden in ["eval(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "new Function"]
            {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }

    #[test]
    fn every_part_that_is_named_is_there() {
        let all = ASSETS.iter().map(|(_, _, bytes)| *bytes).chain([INDEX]);
        for text in all.map(|bytes| std::str::from_utf8(bytes).unwrap()) {
            for name in text.split("/assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(ASSETS.iter().any(|(known, _, _)| *known == name), "{name}");
            }
            for name in text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(ASSETS.iter().any(|(known, _, _)| *known == name), "{name}");
            }
        }
    }
}
