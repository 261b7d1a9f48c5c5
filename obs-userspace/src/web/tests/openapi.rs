//! The description of the API is held to the API: the same paths, methods and parameters, the statuses that each handler can answer
//! with, and answers of the shape described. Beyond that, every answer that any test gets is looked up in it.

use std::{collections::BTreeSet, sync::LazyLock};

use serde_json::Value;

use super::*;
use crate::web::{
    guard::Access,
    routes::{self, Handler, ROUTES, Route},
};

fn description() -> Value {
    serde_saphyr::from_str(include_str!("../../../../docs/openapi.yaml")).unwrap()
}

/// What a reference leads to, or the value itself.
fn resolved<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => root.pointer(reference.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{reference}")),
        None => value,
    }
}

#[test]
fn it_describes_every_route_and_no_other() {
    let root = description();
    let mut described = BTreeSet::new();
    for (path, methods) in root["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((path.clone(), method.to_ascii_uppercase()));
        }
    }
    let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
    assert_eq!(described, routes);
}

static DESCRIPTION: LazyLock<Value> = LazyLock::new(description);

/// Whether an answer is one of those that are described: its status, and the kind of its content.
pub(super) fn check_answer(method: &str, path: &str, reply: &Reply) {
    // What has no route, and what the server ended, is not described route by route.
    let Ok((route, _)) = routes::find(method, path.split('?').next().unwrap_or_default()) else { return };
    if reply.status == 0 {
        return;
    }
    let responses = &DESCRIPTION["paths"][route.path][route.method.to_ascii_lowercase()]["responses"];
    let response = resolved(&DESCRIPTION, &responses[reply.status.to_string()]);
    assert!(response.is_object(), "{method} {path}: {} is not described", reply.status);
    let kind = reply.header("content-type").split(';').next().unwrap_or_default();
    if method == "HEAD" || kind.is_empty() {
        return;
    }
    assert!(response["content"].get(kind).is_some(), "{method} {path}: {} with {kind} is not described", reply.status);
}

/// What a route can be answered with.
fn statuses(route: &Route) -> BTreeSet<u16> {
    // Of an address or a body that is wrong, of a host that is another one, and of too much of it, nobody is spared.
    let mut all = BTreeSet::from([200, 400, 421, 431]);
    match route.access {
        Access::Open => {}
        Access::Role(Role::Viewer) => all.extend([401]),
        Access::Role(Role::Operator) => all.extend([401, 403]),
    }
    match route.handler {
        Handler::Now(_) => {}
        Handler::Later(..) => all.extend([500, 503, 504]),
        Handler::Change(_) => all.extend([403, 408, 413, 500, 503]),
    }
    if route.path.ends_with("/{name}") {
        all.insert(404);
    }
    match route.path {
        "/health" | "/health/detailed" | "/ready" | "/live" => all.extend([503]),
        "/api/v1/status" => all.extend([500]),
        "/api/v1/profile" => all.extend([404]),
        _ => {}
    }
    all
}

#[test]
fn it_describes_every_status() {
    let root = description();
    for route in ROUTES {
        let responses = &root["paths"][route.path][route.method.to_ascii_lowercase()]["responses"];
        let responses = responses.as_object().unwrap();
        let described: BTreeSet<u16> = responses.keys().map(|status| status.parse().unwrap()).collect();
        assert_eq!(described, statuses(route), "{} {}", route.method, route.path);
        for (status, response) in responses {
            let content = &resolved(&root, response)["content"];
            assert!(content.is_object(), "{} {}: {status} without a kind of content", route.method, route.path);
        }
    }
}

#[test]
fn it_describes_every_parameter_and_who_may_ask() {
    let root = description();
    for route in ROUTES {
        let operation = &root["paths"][route.path][route.method.to_ascii_lowercase()];
        let empty = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&empty).iter().map(|it| resolved(&root, it));
        let described: BTreeSet<(&str, bool)> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| (parameter["name"].as_str().unwrap(), parameter["schema"]["type"] == "array"))
            .collect();
        let known = route.parameters.iter().map(|parameter| (parameter.name, parameter.repeats)).collect();
        assert_eq!(described, known, "{}", route.path);
        let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(is_open, route.access == Access::Open, "{}", route.path);
        let says_401 = operation["responses"].get("401").is_some();
        assert_eq!(says_401, route.access != Access::Open, "{}", route.path);
    }
}

/// Compares a value with its schema; what differs is a line.
fn differences(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let schema = resolved(root, schema);
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().for_each(|part| differences(root, part, value, at, found));
    }
    let is_right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        other => panic!("{at}: no known type {other:?}"),
    };
    if !is_right {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if schema["format"] == "date-time" && time::parse(value.as_str().unwrap_or_default(), 0).is_none() {
        found.push(format!("{at}: {value} is no time"));
    }
    if let Some(items) = value.as_array() {
        items.iter().for_each(|item| differences(root, &schema["items"], item, &format!("{at}[]"), found));
    }
    let Some(fields) = value.as_object() else { return };
    let empty = Vec::new();
    for required in schema["required"].as_array().unwrap_or(&empty) {
        if !fields.contains_key(required.as_str().unwrap()) {
            found.push(format!("{at}: {required} is missing"));
        }
    }
    for (name, field) in fields {
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(of), _) | (None, Some(of)) => differences(root, of, field, &format!("{at}.{name}"), found),
            (None, None) => found.push(format!("{at}: {name} is not described")),
        }
    }
}

/// The schema of an answer.
fn schema<'a>(root: &'a Value, path: &str, status: &str) -> &'a Value {
    let response = resolved(root, &root["paths"][path]["get"]["responses"][status]);
    let schema = &response["content"]["application/json"]["schema"];
    // Of several, the first is our own; the others are files for other programs.
    schema["anyOf"].get(0).unwrap_or(schema)
}

#[test]
fn answers_have_the_shape_that_it_describes() {
    let (root, rig) = (description(), Rig::new());
    let series = |name: &str| ("/api/v1/series", format!("/api/v1/series?{RANGE}&name={name}"));
    let plain = |path: &'static str| (path, format!("{path}?{RANGE}"));
    let mut checked = BTreeSet::new();
    for (path, question) in [
        ("/health/detailed", "/health/detailed".to_owned()),
        ("/api/v1/status", "/api/v1/status".to_owned()),
        ("/api/v1/log-level", "/api/v1/log-level".to_owned()),
        ("/api/v1/labels/{name}", format!("/api/v1/labels/process?{RANGE}")),
        plain("/api/v1/catalog"),
        plain("/api/v1/profile"),
        ("/api/v1/profile", "/api/v1/profile?collector=none".to_owned()),
        plain("/api/v1/functions"),
        plain("/api/v1/processes"),
        plain("/api/v1/events"),
        series("system.cpu.load_average.1m"),
        series("system.disk.io"),
        series("obs.latency"),
    ] {
        let answer = rig.json(&question);
        let mut found = Vec::new();
        differences(&root, schema(&root, path, "200"), &answer, path, &mut found);
        assert!(found.is_empty(), "{question}: {found:#?}");
        checked.insert(path);
    }
    let of_json: BTreeSet<&str> = ROUTES
        .iter()
        .filter(|it| it.method == "GET" && !schema(&root, it.path, "200").is_null())
        .map(|it| it.path)
        .collect();
    assert_eq!(checked, of_json, "every answer in JSON is looked at");
    let refused = rig.get("/api/v1/profile?x=1");
    let mut found = Vec::new();
    let answer = serde_json::from_slice(&refused.body).unwrap();
    differences(&root, schema(&root, "/api/v1/profile", "400"), &answer, "error", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

/// A check that cannot fail would be worth nothing.
#[test]
fn the_comparison_finds_what_is_wrong() {
    let root = description();
    let schema = &root["components"]["schemas"]["LogLevel"];
    for wrong in [
        serde_json::json!({"level": "info"}),
        serde_json::json!({"level": 1, "levels": []}),
        serde_json::json!({"level": "info", "levels": [], "more": 1}),
        serde_json::json!({"level": "info", "levels": [1]}),
        serde_json::json!([]),
    ] {
        let mut found = Vec::new();
        differences(&root, schema, &wrong, "", &mut found);
        assert!(!found.is_empty(), "{wrong}");
    }
}
