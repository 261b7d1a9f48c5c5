//! The level of the agent's log: what can be changed while it runs.

use hyper::StatusCode;
use serde::Deserialize;

use crate::web::{
    answer::Answer,
    audit::{AuditEntry, Outcome},
    refusal::{Refusal, echo},
    routes::Asked,
    server::Context,
    time,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    level: String,
}

pub(in crate::web) fn get(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let control = &context.sources.log_level;
    let body = serde_json::json!({ "level": (control.get)(), "levels": control.levels });
    Ok(Answer::json(StatusCode::OK, body.to_string().into_bytes()))
}

/// Written down before it is done, so that nothing is done that is not written down.
pub(in crate::web) fn put(context: &Context, asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    let (control, audit) = (&context.sources.log_level, &context.sources.audit);
    let Some(caller) = &asked.caller else { return Err(Refusal::unauthorized("nobody is named")) };
    let wrong = |why: String| {
        let hint = format!("send {{\"level\": \"LEVEL\"}} with one of {}", control.levels.join(", "));
        Refusal::new(StatusCode::BAD_REQUEST, "cannot change the log's level", why, hint)
    };
    let Wanted { level } = serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
    if !control.levels.contains(&level.as_str()) {
        return Err(wrong(format!("there is no level `{}`", echo(&level))));
    }
    let mut entry = AuditEntry {
        time: time::rfc3339(time::now_unix_ns()),
        actor: caller.name.clone(),
        role: Some(caller.role),
        peer: Some(caller.peer.to_string()),
        action: "set-log-level",
        from: (control.get)(),
        to: level,
        outcome: Outcome::Begun,
        reason: None,
    };
    audit.record(&entry).map_err(|error| {
        let why = format!("it could not be written to the audit log: {error}");
        let hint = "make room for the audit log in the state folder; changes that are not written down are not made";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "did not change the log's level", why, hint)
    })?;
    let done = (control.set)(&entry.to);
    entry.outcome = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
    entry.reason = done.as_ref().err().cloned();
    entry.time = time::rfc3339(time::now_unix_ns());
    if let Err(error) = audit.record(&entry) {
        tracing::error!("the end of a change is missing from the audit log: {error}");
    }
    done.map_err(|error| Refusal::internal("cannot change the log's level", &error))?;
    tracing::info!(actor = %caller.name, from = %entry.from, to = %entry.to, "the log's level was changed");
    get(context, asked)
}
