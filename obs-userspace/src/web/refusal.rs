//! Why a request is refused, in words: what was attempted, why it failed, what to do.

use hyper::{
    StatusCode,
    header::{ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::answer::Answer;

/// Longest piece of a request that is repeated in an answer, in characters.
const ECHO_CHARS_MAX: usize = 80;

/// A request that is not granted.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    what: String,
    why: String,
    hint: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        what: impl Into<String>,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, what: what.into(), why: why.into(), hint: hint.into(), headers: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A parameter that is not as it must be.
    pub(super) fn parameter(name: &str, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("cannot use the parameter `{}`", echo(name)), why, hint)
    }

    pub(super) fn not_found(path: &str) -> Self {
        let what = format!("there is nothing at {}", echo(path));
        Self::new(StatusCode::NOT_FOUND, what, "no such path", "see /api/v1/openapi.yaml for what there is")
    }

    pub(super) fn method(allowed: &'static str) -> Self {
        let what = "cannot do that here";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, what, "the path knows other methods", format!("use {allowed}"))
            .with(ALLOW, HeaderValue::from_static(allowed))
    }

    pub(super) fn unauthorized(why: &'static str) -> Self {
        let hint = "send `Authorization: Bearer TOKEN` with a token of the agent's token file";
        Self::new(StatusCode::UNAUTHORIZED, "cannot tell who asks", why, hint)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"obs\""))
    }

    pub(super) fn forbidden(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "this is not allowed", why, hint)
    }

    pub(super) fn busy(what: &'static str) -> Self {
        let hint = "try again in some seconds, or ask for a shorter range";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, what, "others are being answered", hint)
            .with(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(super) fn spent() -> Self {
        let why = "questions of the last minute cost as much CPU time as they may";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "cannot answer now", why, "ask less often, or for shorter ranges")
            .with(RETRY_AFTER, HeaderValue::from_static("30"))
    }

    pub(super) fn internal(what: impl Into<String>, why: &dyn ToString) -> Self {
        let hint = "the agent's log may say more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, what, why.to_string(), hint)
    }

    /// The connection ends with the answer: the rest of what was sent will not be read.
    pub(super) fn and_close(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn answer(&self) -> Answer {
        let Self { status, what, why, hint, headers } = self;
        let body = serde_json::json!({ "error": { "what": what, "why": why, "hint": hint } });
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), "{what}: {why}");
        } else {
            tracing::debug!(status = status.as_u16(), "{what}: {why}");
        }
        let mut answer = Answer::json(*status, body.to_string().into_bytes());
        for (name, value) in headers {
            answer = answer.with(name.clone(), value.clone());
        }
        answer
    }
}

/// A piece of the request, cut and without control characters.
pub(super) fn echo(text: &str) -> String {
    let plain = text.chars().take(ECHO_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c });
    plain.collect()
}
