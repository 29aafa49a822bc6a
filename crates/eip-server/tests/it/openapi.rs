//! The document that describes the API says what the API does.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::world::{Store, World, read};

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
    let bare = reqwest::Client::builder().no_proxy().build().unwrap();
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
    let bare = reqwest::Client::builder().no_proxy().build().unwrap();
    for (method, path, operation) in operations(&document()) {
        let path = path.replace("{id}", "100.64.0.1").replace("{name}", "hv1");
        let (status, body) =
            read(bare.request(method.clone(), format!("{}{path}", world.base))).await;
        if operation["security"].is_null() {
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {body}");
        } else {
            assert_eq!(status, StatusCode::OK, "{method} {path}: {body}");
        }
    }
}
