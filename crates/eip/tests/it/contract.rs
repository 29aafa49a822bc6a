//! The API does what its `OpenAPI` document says, whatever is sent to it: schemathesis reads the
//! document and thinks of thousands of requests, good ones and bad ones.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::scene::Scene;

/// What no answer may violate.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,ignored_auth,\
                      unsupported_method,allow_header_conformance,use_after_free,\
                      negative_data_rejection,missing_required_header";

/// How many requests there are to be at least.
const CASES: u64 = 2_000;

#[test]
fn no_request_is_answered_by_a_fault_or_outside_of_the_document() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--compute", "sandbox"]);
    // What the examples of the document name is there.
    scene.sandbox("web-1");
    let made = "-X POST http://localhost:8080/elastic-ips -H \"X-API-Key: $API_KEY\" \
                -d '{\"address\": \"100.64.12.15\"}'";
    assert_eq!(scene.curl(made).0, 201);
    scene.eip("associate 100.64.12.15 web-1");

    // Nobody can think of the id of a key.
    let other = scene.eip_json("key create --role reader");
    let own = format!("http://localhost:8080/api-keys/{}", other["id"].as_str().unwrap());
    assert_eq!(scene.curl(&format!("{own} -H \"X-API-Key: $API_KEY\"")).0, 200);
    assert_eq!(scene.curl(&format!("-X DELETE {own} -H \"X-API-Key: $API_KEY\"")).0, 204);

    // Nor of that of a webhook. Where it points nobody answers, which is no fault of the service.
    let hooks = "http://localhost:8080/webhooks";
    let body = "-d '{\"url\": \"http://192.0.2.9:9/\"}' -H \"X-API-Key: $API_KEY\"";
    let (status, made) = scene.curl(&format!("-X POST {hooks} {body}"));
    assert_eq!(status, 201, "{made}");
    let own = format!("{hooks}/{}", made["id"].as_str().unwrap());
    for (method, status) in [("GET", 200), ("PATCH", 200), ("DELETE", 204)] {
        assert_eq!(scene.curl(&format!("-X {method} {own} -H \"X-API-Key: $API_KEY\"")).0, status);
    }
    let (_, made) = scene.curl(&format!("-X POST {hooks} {body}"));
    let rotate = format!("{hooks}/{}/rotate", made["id"].as_str().unwrap());
    assert_eq!(scene.curl(&format!("-X POST {rotate} -H \"X-API-Key: $API_KEY\"")).0, 200);

    let key = std::fs::read_to_string(scene.data_dir().join("admin.key")).unwrap();
    let mut command = scene.host.command("sh");
    command.args(["-c", "cd \"$0\" && exec \"$@\""]).arg(scene.folder.path()).arg(schemathesis());
    command.args(["--no-color", "run", "http://localhost:8080/openapi.json"]);
    command.args(["--header", &format!("X-API-Key: {}", key.trim()), "--checks", CHECKS]);
    // It has no end; the tests of the server follow it.
    command.args(["--exclude-path", "/events/stream"]);
    // It would take its own key away.
    command.args(["--exclude-operation-id", "revoke_api_key"]);
    // The same requests each time: what passes here passes there.
    command.args(["--max-examples", "100", "--generation-deterministic"]);
    command.args(["--workers", "1", "--request-timeout", "60"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let erred = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{erred}\n{}", scene.log());
    let cases = generated(&said);
    assert!(cases.is_some_and(|cases| cases >= CASES), "{cases:?} of {CASES}: {said}");
    // The run did not lock itself out on its way, and the log has no fault either.
    let (status, _) = scene.curl("http://localhost:8080/elastic-ips -H \"X-API-Key: $API_KEY\"");
    assert_eq!(status, 200);
    assert!(!scene.log().contains("ERROR"), "{}", scene.log());
    let never = never_done(&scene);
    assert!(never.is_empty(), "no request got as far as doing {never:?}: {said}");
}

/// Where `./dev test` has put the program: beside what cargo builds, and so beside this one.
fn schemathesis() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let there = |above: &std::path::Path| above.join("schemathesis/bin/schemathesis");
    let found = here.ancestors().map(there).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("no schemathesis beside {}: ./dev test installs it", here.display())
    })
}

/// Reads how many requests were made out of the summary: `2054 generated, 2054 passed`.
fn generated(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains(" generated,"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Which operations of the document were never carried out, by the server's own count.
fn never_done(scene: &Scene) -> BTreeSet<String> {
    let document: Value =
        serde_json::from_str(&scene.host.sh("curl -sf http://localhost:8080/openapi.json"))
            .unwrap();
    let metrics = scene.host.sh("curl -sf http://localhost:8080/metrics");
    let counts: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("eip_http_requests_total{")).collect();
    let done = |method: &str, path: &str| {
        let (method, route) = (format!("method=\"{method}\""), format!("route=\"{path}\""));
        counts.iter().any(|line| {
            line.contains(&method) && line.contains(&route) && line.contains("status=\"2")
        })
    };
    let mut never = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            if !done(&method, path) && path != "/events/stream" {
                never.insert(format!("{method} {path}"));
            }
        }
    }
    never
}
