//! The document that describes the API says what the API does.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::world::{Store, World, plain_client, read};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// Every operation of the document: its method, its path and what is said of it.
pub(crate) fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                let method = method.to_uppercase().parse().unwrap();
                found.push((method, path.clone(), operation.clone()));
            }
        }
    }
    found
}

pub(crate) fn document() -> Value {
    serde_json::from_str(eip_server::openapi()).unwrap()
}

#[test]
fn the_document_that_is_checked_in_is_that_of_the_handlers() {
    let kept = include_str!("../../../../docs/openapi.json");
    let differs = kept.lines().zip(eip_server::openapi().lines()).position(|(a, b)| a != b);
    assert!(
        kept == eip_server::openapi(),
        "docs/openapi.json differs from line {} on: ./dev openapi writes it anew",
        differs.map_or(0, |line| line + 1)
    );
}

#[tokio::test]
async fn the_document_is_served_to_anybody() {
    let world = World::new(Store::Sqlite).await;
    let bare = plain_client();
    let answer = bare.get(format!("{}/openapi.json", world.base)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let served: Value = answer.json().await.unwrap();
    assert_eq!(served["openapi"], "3.1.0");
    assert_eq!(served, document());
}

#[test]
fn every_operation_has_a_name_a_summary_a_place_and_its_problems() {
    let document = document();
    let mut names = std::collections::BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let what = format!("{method} {path}");
        let name = operation["operationId"].as_str().expect(&what);
        assert!(names.insert(name.to_owned()), "two operations are called {name}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
        let [tag] = operation["tags"].as_array().unwrap().as_slice() else { panic!("{what}") };
        let tags = document["tags"].as_array().unwrap();
        assert!(tags.iter().any(|known| known["name"] == *tag), "{what}: {tag}");
        let needs_key = operation["security"].is_null();
        assert_eq!(needs_key, tag != "service", "{what}");
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.contains_key("500") && answers.contains_key("503"), "{what}");
        assert_eq!(needs_key, answers.contains_key("401"), "{what}");
        assert_eq!(operation["requestBody"].is_object(), answers.contains_key("413"), "{what}");
    }
    assert!(names.len() >= 22, "{names:?}");
}

#[tokio::test]
async fn what_an_operation_says_of_security_is_so() {
    let world = World::new(Store::Sqlite).await;
    let bare = plain_client();
    for (method, path, operation) in operations(&document()) {
        let path = path.replace("{id}", "100.64.0.1").replace("{name}", "hv1");
        let path = path.replace("{ip}", "100.64.0.1");
        let (status, body) =
            read(bare.request(method.clone(), format!("{}{path}", world.base))).await;
        if operation["security"].is_null() {
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
        } else {
            assert_eq!(status, StatusCode::OK, "{method} {path}: {body}");
        }
    }
}

#[tokio::test]
async fn the_viewer_loads_nothing_from_elsewhere() {
    let world = World::new(Store::Sqlite).await;
    let bare = plain_client();
    let get = async |path: &str| {
        let answer = bare.get(format!("{}{path}", world.base)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let kind = header("content-type");
        let policy = kind.starts_with("text/").then(|| header("content-security-policy"));
        (kind, policy.unwrap_or_default(), answer.text().await.unwrap())
    };
    let (kind, policy, page) = get("/docs").await;
    assert_eq!(kind, "text/html; charset=utf-8");
    assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
    let named = |attribute: &str| -> Vec<String> {
        let opening = format!("{attribute}=\"");
        let parts = page.split(&opening).skip(1);
        parts.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let (sources, links) = (named("src"), named("href"));
    assert_eq!(page.matches("<script").count(), sources.len(), "a script is inside the page");
    assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onclick="));
    assert_eq!(sources, ["/docs/viewer.js"]);
    assert!(links.contains(&"/docs/viewer.css".to_owned()), "{links:?}");
    for path in sources.iter().chain(&links).filter(|path| path.starts_with("/docs/")) {
        let (kind, _, text) = get(path).await;
        let wanted = if path.ends_with(".js") { "text/javascript" } else { "text/css" };
        assert!(kind.starts_with(wanted), "{path}: {kind}");
        for elsewhere in ["http:", "https:", "@import", "url(", "\"//", "'//", "`//"] {
            assert!(!text.contains(elsewhere), "{path} names {elsewhere}");
        }
    }
    let (_, _, script) = get("/docs/viewer.js").await;
    assert!(script.contains("fetch(\"/openapi.json\")"));
    assert!(links.iter().all(|path| path.starts_with('/') && !path.starts_with("//")), "{links:?}");
    assert!(!script.contains("innerHTML"), "what the document says is text, never markup");
}
