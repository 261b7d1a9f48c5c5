//! What supervisors and scrapers ask: is it well, is it ready, does it move, what has it measured.

use hyper::{StatusCode, header::ACCEPT};

use super::{
    answer::Answer,
    health::{ComponentHealth, Health},
    metrics::{self, Form},
    refusal::Refusal,
    routes::Asked,
    server::Context,
    time,
    work::{Job, Prepared},
};

/// A word, and for those who may know more, why.
fn verdict(is_good: bool, word: &str) -> Answer {
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::text(status, format!("{word}\n"))
}

fn is_live(context: &Context) -> bool {
    context.sources.health.heartbeat_age().is_some_and(|age| age <= context.heartbeat_age_max)
}

/// Whether no required component has failed. Names none: everybody may ask.
pub(super) fn health(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let is_good = context.sources.health.failed().is_none();
    Ok(verdict(is_good, if is_good { "healthy" } else { "failed" }))
}

pub(super) fn ready(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let is_good = context.sources.health.not_ready().is_none();
    Ok(verdict(is_good, if is_good { "ready" } else { "not ready" }))
}

pub(super) fn live(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let is_good = is_live(context);
    Ok(verdict(is_good, if is_good { "live" } else { "stuck" }))
}

/// Every component: how it is, since when, and why.
pub(super) fn detailed(context: &Context, _: &Asked<'_>) -> Result<Answer, Refusal> {
    let board = &context.sources.health;
    let components = board.components();
    let degraded = |it: &ComponentHealth| matches!(it.status, Health::Degraded | Health::Failed);
    let (is_healthy, is_live) = (board.failed().is_none(), is_live(context));
    let word = match (is_healthy, components.iter().any(degraded)) {
        (false, _) => "failed",
        (true, true) => "degraded",
        (true, false) => "healthy",
    };
    let body = serde_json::json!({
        "status": word,
        "is_ready": board.not_ready().is_none(),
        "is_live": is_live,
        "heartbeat_age_seconds": board.heartbeat_age().map(|age| age.as_secs_f64()),
        "time": time::rfc3339(time::now_unix_ns()),
        "components": components,
    });
    let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(Answer::json(status, body.to_string().into_bytes()))
}

/// Everything that is measured now.
pub(super) fn metrics(context: &Context, asked: &Asked<'_>) -> Result<Job, Refusal> {
    let accept: Vec<&str> = asked.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let form = Form::wanted(&accept.join(","));
    let (sources, stats) = (context.sources.clone(), context.stats.clone());
    Ok(Box::new(move |_| {
        let mut records = (sources.metrics)();
        records.extend(stats.records());
        let write = move |out: &mut dyn std::io::Write| {
            let infos: Vec<_> = sources.metric_infos.iter().chain(super::stats::METRICS).copied().collect();
            let omitted = metrics::write(&records, &infos, form, out)?;
            stats.series_omitted.fetch_add(omitted, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        };
        Ok(Prepared {
            content_type: form.content_type(),
            file_name: None,
            is_compressible: true,
            write: Box::new(write),
        })
    }))
}
