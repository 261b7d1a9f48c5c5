//! What is asked for is what is answered.

use super::*;

#[test]
fn probes_say_how_the_agent_is() {
    let rig = Rig::new();
    assert_eq!((rig.get("/health").status, rig.get("/ready").status, rig.get("/live").status), (200, 503, 503));
    rig.health.set("store", Health::Healthy, "");
    rig.health.beat();
    assert_eq!((rig.get("/health").status, rig.get("/ready").status, rig.get("/live").status), (200, 200, 200));
    assert_eq!(rig.json("/health/detailed")["status"], "healthy");
    rig.health.set("gpu", Health::Failed, "there is none");
    let detailed = rig.json("/health/detailed");
    assert_eq!(detailed["status"], "degraded");
    assert_eq!(detailed["components"][0]["reason"], "there is none");
    rig.health.set("store", Health::Failed, "the disk is full");
    let health = rig.get("/health");
    assert_eq!((health.status, health.text().as_str()), (503, "failed\n"));
    assert_eq!((rig.get("/health/detailed").status, rig.get("/ready").status), (503, 503));
}

#[test]
fn an_old_heartbeat_is_no_heartbeat() {
    let rig = Rig::with(WebOptions { heartbeat_age_max: Duration::ZERO, ..local() });
    rig.health.beat();
    assert_eq!(rig.get("/live").text(), "stuck\n");
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    let rig = Rig::new();
    let text = rig.get("/metrics");
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.text().contains("\nsystem_cpu_time_seconds_total{cpu_mode=\"user\"} 12.5\n"), "{}", text.text());
    assert!(text.text().contains("\nobs_agent_http_connections 1\n"));
    let open = rig.send("GET", "/metrics", &[("Accept", "application/openmetrics-text")], b"");
    assert!(open.text().ends_with("# EOF\n"));
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let protobuf = rig.send("GET", "/metrics", &[("Accept", accept)], b"");
    assert!(protobuf.header("content-type").starts_with("application/vnd.google.protobuf"));
    assert!(!protobuf.body.is_empty());
}

#[test]
fn a_profile_becomes_a_flame_graph_with_its_quality() {
    let rig = Rig::new();
    let answer = rig.json(&format!("/api/v1/profile?{RANGE}"));
    assert_eq!((answer["collector"].as_str(), answer["total"].as_u64()), (Some("cpu"), Some(100_000_000)));
    assert_eq!(answer["value_type"]["name"], "cpu");
    assert_eq!(answer["covered_seconds"], 10.0);
    assert_eq!(answer["quality"]["complete"], 90_000_000);
    assert_eq!(answer["quality"]["cut"][0]["reason"], "no unwind information at address");
    let flame = &answer["flame"];
    let names: Vec<&str> = flame["name"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| flame["names"][name.as_u64().unwrap() as usize].as_str().unwrap())
        .collect();
    assert_eq!(names, ["app", "[cut: no unwind information at address]", "work", "main", "read", "work"]);
    assert_eq!(flame["kind"], serde_json::json!([0, 6, 1, 1, 4, 1]));
    assert_eq!(flame["depth"], serde_json::json!([0, 1, 2, 1, 2, 2]));
    assert_eq!(answer["completeness"]["is_complete"], true);
    let samples = rig.json(&format!("/api/v1/profile?{RANGE}&type=samples&nodes_max=1"));
    assert_eq!((samples["total"].as_u64(), samples["nodes_omitted"].as_u64()), (Some(10), Some(5)));
    let nobody = rig.json(&format!("/api/v1/profile?{RANGE}&match=process%3Dnobody"));
    assert_eq!(nobody["total"], 0);
    let worker = rig.json(&format!("/api/v1/profile?{RANGE}&match=process=app&match=thread~work*&match=pid!=7"));
    assert_eq!(worker["total"], 100_000_000);
    let elsewhere = rig.json("/api/v1/profile?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z");
    assert_eq!((elsewhere["total"].as_u64(), elsewhere["value_type"].is_null()), (Some(0), true));
}

#[test]
fn a_profile_is_had_in_other_formats_as_a_file() {
    let rig = Rig::new();
    let folded = rig.get(&format!("/api/v1/profile?{RANGE}&format=folded"));
    assert_eq!((folded.status, folded.text().as_str()), (200, "3 samples of cpu\n"));
    let disposition = folded.header("content-disposition");
    assert_eq!(disposition, "attachment; filename=\"obs-cpu-2023-11-14T22-13-10.folded\"");
    let nothing = rig.get("/api/v1/profile?format=folded&collector=none");
    assert_eq!(nothing.status, 404);
}

#[test]
fn a_long_answer_comes_in_pieces_and_whole() {
    let rig = Rig::new();
    let long = rig.get(&format!("/api/v1/profile?{RANGE}&format=long"));
    assert_eq!(long.header("transfer-encoding"), "chunked");
    assert!(long.is_whole);
    assert_eq!(long.body.len(), 64 << 20);
}

#[test]
fn an_encoder_that_fails_is_told_of_and_never_half_an_answer() {
    let rig = Rig::new();
    let broken = rig.get(&format!("/api/v1/profile?{RANGE}&format=broken"));
    assert_eq!((broken.status, broken.error()[1].as_str()), (500, "the encoder is broken"));
    let late = rig.get(&format!("/api/v1/profile?{RANGE}&format=breaks-late"));
    assert_eq!((late.status, late.is_whole), (200, false));
}

#[test]
fn the_other_questions_are_answered() {
    let rig = Rig::new();
    let functions = rig.json(&format!("/api/v1/functions?{RANGE}&limit=1"));
    assert_eq!(
        (functions["functions"][0]["name"].as_str(), functions["total"].as_u64()),
        (Some("work"), Some(100_000_000))
    );
    assert_eq!(
        (functions["functions"][0]["own"].as_u64(), functions["functions_omitted"].as_u64()),
        (Some(70_000_000), Some(2))
    );
    let gauge = rig.json(&format!("/api/v1/series?{RANGE}&name=system.cpu.load_average.1m&step=10s&match=stage=drain"));
    assert_eq!(
        gauge["series"][0]["points"][0],
        serde_json::json!({"time": 1.7e9, "last": 0.5, "min": 0.5, "max": 0.5, "mean": 0.5})
    );
    let counter = rig.json(&format!("/api/v1/series?{RANGE}&name=system.disk.io"));
    assert_eq!(counter["series"][0]["points"][0]["last"], 4096.0);
    let histogram = rig.json(&format!("/api/v1/series?{RANGE}&name=obs.latency"));
    assert_eq!(histogram["series"][0]["points"][0]["count"], 3);
    let processes = rig.json(&format!("/api/v1/processes?{RANGE}"));
    assert_eq!(
        (processes["processes"][0]["pid"].as_u64(), processes["processes"][0]["values"][1].as_u64()),
        (Some(42), Some(100_000_000))
    );
    let events = rig.json(&format!("/api/v1/events?{RANGE}&name=process.exec"));
    assert_eq!(
        (events["events"][0]["time"].as_str(), events["events"][0]["process"]["name"].as_str()),
        (Some("2023-11-14T22:13:25.000Z"), Some("app"))
    );
    assert_eq!(rig.json(&format!("/api/v1/events?{RANGE}&name=other"))["events"], serde_json::json!([]));
    let catalog = rig.json(&format!("/api/v1/catalog?{RANGE}"));
    assert_eq!(
        (catalog["collectors"][0]["name"].as_str(), catalog["events"][0].as_str()),
        (Some("cpu"), Some("process.exec"))
    );
    assert_eq!(rig.json(&format!("/api/v1/labels/thread?{RANGE}"))["values"], serde_json::json!(["worker"]));
    assert_eq!(rig.json("/api/v1/status")["version"], "1.2.3");
    assert_eq!(rig.json("/api/v1/log-level")["level"], "info");
}

#[test]
fn wrong_questions_are_refused_with_a_reason_and_a_hint() {
    let rig = Rig::new();
    for (path, status, what, why) in [
        ("/nowhere", 404, "there is nothing at /nowhere", "no such path"),
        ("/api/v1/profile?form=x", 400, "`form`", "not known"),
        ("/api/v1/profile?format=x", 400, "`format`", "no format `x`"),
        ("/api/v1/profile?from=-5", 400, "`from`", "not a time"),
        ("/api/v1/profile?from=now&to=-5m", 400, "`from`", "not before"),
        ("/api/v1/profile?from=1&from=2", 400, "`from`", "twice"),
        ("/api/v1/profile?match=x", 400, "`match`", "not a condition"),
        ("/api/v1/profile?nodes_max=0", 400, "`nodes_max`", "out of range"),
        ("/api/v1/profile?from=1699999990&to=1700000020&type=heap", 400, "`type`", "does not measure"),
        ("/api/v1/series", 400, "`name`", "missing"),
        ("/api/v1/series?name=x&step=5", 400, "`step`", "not a duration"),
        ("/api/v1/status?x=1", 400, "`x`", "not known"),
        ("/health?x=%zz", 400, "`x`", "not known"),
        ("/api/v1/profile?from=%ff", 400, "`from`", "UTF-8"),
    ] {
        let reply = rig.get(path);
        let [found_what, found_why, hint] = reply.error();
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(found_what.contains(what) && found_why.contains(why) && !hint.is_empty(), "{path}: {}", reply.text());
        assert_eq!(reply.header("content-type"), "application/json");
    }
    let post = rig.send("POST", "/health", &[], b"");
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    let body = rig.send("GET", "/health", &[], b"x");
    assert_eq!((body.status, body.header("connection")), (400, "close"));
}

#[test]
fn head_is_get_without_the_body() {
    let rig = Rig::new();
    for path in ["/", "/health", "/metrics", "/api/v1/catalog"] {
        let reply = rig.send("HEAD", path, &[], b"");
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn the_page_and_its_parts_are_served() {
    let rig = Rig::new();
    let index = rig.get("/");
    assert_eq!((index.status, index.header("content-type")), (200, "text/html; charset=utf-8"));
    for (name, content_type, bytes) in page::ASSETS {
        let reply = rig.get(&format!("/assets/{name}"));
        assert_eq!((reply.status, reply.header("content-type")), (200, *content_type));
        assert_eq!(reply.body, *bytes);
    }
    assert_eq!(rig.get("/assets/none.js").status, 404);
}
