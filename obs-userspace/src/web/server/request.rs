//! From a request to its answer.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ACCEPT_ENCODING, HeaderMap},
    http::request::Parts,
};
use tokio::time::{Instant, timeout_at};

use super::{Context, Watch};
use crate::web::{
    answer::Answer,
    body::Body,
    query::Query,
    refusal::Refusal,
    routes::{self, Asked, Handler},
    work::{Kind, Order},
};

/// Of a request's time, what is kept for handing out the answer, and as much again for making it of what was read; but at most
/// a quarter each.
const SEND_TIME: Duration = Duration::from_secs(2);

/// Answers a request, whatever it is.
pub(super) async fn answer(
    context: &Arc<Context>,
    watch: &Arc<Watch>,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let answer = match respond(context, watch, &parts, body, peer).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    };
    let response = answer.into_response();
    context.stats.answered(response.status().as_u16());
    tracing::debug!(method = %parts.method, path = parts.uri.path(), status = response.status().as_u16(), "answered");
    response.map(|body| body.of(Arc::clone(watch)))
}

async fn respond(
    context: &Arc<Context>,
    watch: &Arc<Watch>,
    parts: &Parts,
    body: Incoming,
    peer: SocketAddr,
) -> Result<Answer, Refusal> {
    let limits = &context.limits;
    let now = Instant::now();
    let deadline = now + limits.request_timeout;
    let send_time = SEND_TIME.min(limits.request_timeout / 4);
    let answer_by = deadline - send_time;
    let Parts { method, uri, version, headers, .. } = parts;
    check_size(parts, limits.header_bytes_max)?;
    context.guard.check_host(*version, headers, uri.authority().map(hyper::http::uri::Authority::as_str))?;
    let (route, name) = routes::find(method.as_str(), uri.path())?;
    context.guard.check_origin(method, headers)?;
    let caller = context.guard.caller(route.access, headers, peer)?;
    let query = Query::parse(uri.query().unwrap_or_default(), route.parameters)?;
    let asked = Asked { query, name, caller, headers };
    match route.handler {
        Handler::Now(answer) => {
            refuse_body(&body)?;
            answer(context, &asked)
        }
        Handler::Later(kind, prepare) => {
            refuse_body(&body)?;
            if kind == Kind::Query && (context.sources.is_spent)() {
                return Err(Refusal::spent());
            }
            let job = prepare(context, &asked)?;
            // Nothing is made for nobody: what HEAD asks for is whether there would be an answer.
            if method == Method::HEAD {
                return Ok(Answer::text(StatusCode::OK, ""));
            }
            let wants_gzip = !peer.ip().is_loopback() && accepts_gzip(headers);
            let order =
                Order { watch: Arc::clone(watch), deadline, answer_by, read_by: answer_by - send_time, wants_gzip };
            context.workshop.answer(kind, job, order).await
        }
        Handler::Change(change) => {
            let read = timeout_at(answer_by, read_body(body, limits.body_bytes_max)).await;
            let Ok(bytes) = read else {
                let why = "the body did not come in time (http.limits.request_timeout)";
                let refusal =
                    Refusal::new(StatusCode::REQUEST_TIMEOUT, "cannot read the request", why, "send it again");
                return Err(refusal.and_close());
            };
            change(context, &asked, &bytes?)
        }
    }
}

/// hyper's own bound is coarser where the limit is small.
fn check_size(parts: &Parts, max: usize) -> Result<(), Refusal> {
    let Parts { method, uri, headers, .. } = parts;
    let address = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let line = method.as_str().len() + address + " HTTP/1.1\r\n".len() + 1;
    let bytes =
        headers.iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + ": \r\n".len());
    if bytes <= max {
        return Ok(());
    }
    let why = format!("its line and headers have {bytes} bytes, more than {max} (http.limits.header)");
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Err(Refusal::new(status, "cannot read the request", why, "send fewer headers or a shorter address").and_close())
}

fn refuse_body(body: &Incoming) -> Result<(), Refusal> {
    if body.is_end_stream() {
        return Ok(());
    }
    let why = "there is a body, for which this path has no use";
    Err(Refusal::new(StatusCode::BAD_REQUEST, "cannot use the request", why, "send it without a body").and_close())
}

async fn read_body(mut body: Incoming, max: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let why = format!("the body is longer than {max} bytes (http.limits.body)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "cannot read the request", why, "send less").and_close()
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let broken = |error: hyper::Error| {
            let what = "cannot read the request";
            Refusal::new(StatusCode::BAD_REQUEST, what, error.to_string(), "send it again").and_close()
        };
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if bytes.len() + data.len() > max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// On this host compressing costs more than it saves; beyond, it is the other way round.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip && !parts.any(|part| matches!(part.replace(' ', "").as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}
