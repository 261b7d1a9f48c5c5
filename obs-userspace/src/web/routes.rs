//! What there is to ask for. This is the one list of paths; `docs/openapi.yaml` is held to it by a test.

use super::{
    api::{events, functions, labels, log_level, processes, profile, series, state},
    guard::Access,
    page, probes,
    query::{Parameter, once, repeated},
    refusal::Refusal,
    server::Context,
    tokens::Role,
    {answer::Answer, guard::Caller, query::Query, work},
};

/// What a request asks for, when it was looked at.
pub(super) struct Asked<'a> {
    pub(super) query: Query,
    /// The part of the path that the route leaves open.
    pub(super) name: Option<String>,
    pub(super) caller: Option<Caller>,
    pub(super) headers: &'a hyper::HeaderMap,
}

/// How a route is answered.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// At once.
    Now(fn(&Context, &Asked<'_>) -> Result<Answer, Refusal>),
    /// With work on another thread.
    Later(work::Kind, fn(&Context, &Asked<'_>) -> Result<work::Job, Refusal>),
    /// After its body was read; it changes something.
    Change(fn(&Context, &Asked<'_>, &[u8]) -> Result<Answer, Refusal>),
}

/// One method of one path.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// May end in `/{name}`.
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) parameters: &'static [Parameter],
    pub(super) handler: Handler,
}

const fn get(path: &'static str, access: Access, parameters: &'static [Parameter], handler: Handler) -> Route {
    Route { method: "GET", path, access, parameters, handler }
}

const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const RANGE: &[Parameter] = &[once("from"), once("to")];
const QUERY: work::Kind = work::Kind::Query;

pub(super) static ROUTES: &[Route] = &[
    get("/", Access::Open, &[], Handler::Now(page::index)),
    get("/assets/{name}", Access::Open, &[], Handler::Now(page::asset)),
    get("/health", Access::Open, &[], Handler::Now(probes::health)),
    get("/health/detailed", VIEWER, &[], Handler::Now(probes::detailed)),
    get("/ready", Access::Open, &[], Handler::Now(probes::ready)),
    get("/live", Access::Open, &[], Handler::Now(probes::live)),
    get("/metrics", VIEWER, &[], Handler::Later(work::Kind::Scrape, probes::metrics)),
    get("/api/v1/openapi.yaml", Access::Open, &[], Handler::Now(page::openapi)),
    get("/api/v1/status", VIEWER, &[], Handler::Now(state::status)),
    get("/api/v1/catalog", VIEWER, RANGE, Handler::Later(QUERY, state::catalog)),
    get("/api/v1/labels/{name}", VIEWER, RANGE, Handler::Later(QUERY, labels::values)),
    get(
        "/api/v1/profile",
        VIEWER,
        &[
            once("from"),
            once("to"),
            once("collector"),
            once("type"),
            repeated("match"),
            once("format"),
            once("nodes_max"),
        ],
        Handler::Later(QUERY, profile::profile),
    ),
    get(
        "/api/v1/functions",
        VIEWER,
        &[once("from"), once("to"), once("collector"), once("type"), repeated("match"), once("limit")],
        Handler::Later(QUERY, functions::functions),
    ),
    get(
        "/api/v1/series",
        VIEWER,
        &[once("from"), once("to"), once("name"), repeated("match"), once("step"), once("limit")],
        Handler::Later(QUERY, series::series),
    ),
    get(
        "/api/v1/processes",
        VIEWER,
        &[once("from"), once("to"), once("collector"), repeated("match"), once("limit")],
        Handler::Later(QUERY, processes::processes),
    ),
    get(
        "/api/v1/events",
        VIEWER,
        &[once("from"), once("to"), repeated("name"), repeated("match"), once("limit")],
        Handler::Later(QUERY, events::events),
    ),
    get("/api/v1/log-level", VIEWER, &[], Handler::Now(log_level::get)),
    Route {
        method: "PUT",
        path: "/api/v1/log-level",
        access: OPERATOR,
        parameters: &[],
        handler: Handler::Change(log_level::put),
    },
];

/// The route of a request, and the part of the path that it leaves open.
pub(super) fn find(method: &str, path: &str) -> Result<(&'static Route, Option<String>), Refusal> {
    // The answer to HEAD is that to GET; its body is left out when it is sent.
    let method = if method == "HEAD" { "GET" } else { method };
    let mut found: Vec<(&'static Route, Option<String>)> = Vec::new();
    for route in ROUTES {
        match route.path.strip_suffix("{name}") {
            None if route.path == path => found.push((route, None)),
            None => {}
            Some(folder) => {
                if let Some(name) = path.strip_prefix(folder)
                    && !name.is_empty()
                    && !name.contains('/')
                    && let Some(name) = super::query::decoded(&name.replace('+', "%2B"))
                {
                    found.push((route, Some(name)));
                }
            }
        }
    }
    let allowed = match found.as_slice() {
        [] => return Err(Refusal::not_found(path)),
        routes if routes.iter().any(|(route, _)| route.method == "PUT") => "GET, HEAD, PUT",
        _ => "GET, HEAD",
    };
    found.into_iter().find(|(route, _)| route.method == method).ok_or_else(|| Refusal::method(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_routes() {
        for (method, path, expected) in [
            ("GET", "/", Some(("/", None))),
            ("HEAD", "/health", Some(("/health", None))),
            ("GET", "/assets/main.js", Some(("/assets/{name}", Some("main.js")))),
            ("GET", "/api/v1/labels/a%2Fb+c", Some(("/api/v1/labels/{name}", Some("a/b+c")))),
            ("PUT", "/api/v1/log-level", Some(("/api/v1/log-level", None))),
            ("DELETE", "/api/v1/log-level", None),
            ("POST", "/health", None),
            ("GET", "/assets/", None),
            ("GET", "/assets/../x", None),
            ("GET", "/assets/%ff", None),
            ("GET", "//", None),
            ("GET", "/health/", None),
            ("GET", "/HEALTH", None),
        ] {
            let found = find(method, path).ok();
            let found = found.as_ref().map(|(route, name)| (route.path, name.as_deref()));
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
