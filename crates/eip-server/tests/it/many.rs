//! Many associations in one request.

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::world::{Store, World, container};

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_are_moved_by_one_request_and_each_has_an_outcome_of_its_own(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has((1..=120).map(container).collect()).await;
    let _obeying = host.obey();
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.allocate().await);
    }
    let to = |first: usize, allow: bool| {
        let one = |(at, id): (usize, &String)| json!({ "elastic_ip": id, "instance_id": format!("web-{}", first + at) });
        let all: Vec<Value> = ids.iter().enumerate().map(one).collect();
        json!({ "associations": all, "allow_reassociation": allow, "wait_seconds": 30 })
    };
    let path = "/elastic-ips/associate";
    let (status, answer) = world.post(path, to(1, false).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for (at, item) in answer["items"].as_array().unwrap().iter().enumerate() {
        assert_eq!(item["problem"], Value::Null);
        assert_eq!(item["elastic_ip"]["id"], ids[at].as_str());
        assert_eq!(item["elastic_ip"]["instance_name"], format!("web-{}", at + 1));
        assert_eq!(item["elastic_ip"]["data_plane"]["state"], "active", "{item}");
    }
    // Two name the same instance, one nothing that there is, one is no reference at all.
    let mut moving = to(61, true);
    moving["associations"][1]["instance_id"] = "web-61".into();
    moving["associations"][2]["instance_id"] = "nobody".into();
    moving["associations"][3]["elastic_ip"] = "100.64.0".into();
    let (status, answer) = world.post(path, moving.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 40);
    let codes: Vec<&str> =
        items.iter().filter_map(|item| item["problem"]["code"].as_str()).collect();
    let expected = ["instance_has_elastic_ip", "instance_not_found", "invalid_request"];
    assert_eq!(codes, expected, "{answer}");
    assert!(items[2]["problem"]["request_id"].is_string(), "{answer}");
    for (at, item) in items.iter().enumerate().skip(4) {
        assert_eq!(item["elastic_ip"]["instance_name"], format!("web-{}", 61 + at));
        assert_eq!(item["elastic_ip"]["data_plane"]["state"], "active", "{item}");
    }
}

#[tokio::test]
async fn none_and_too_many_are_refused_and_a_reader_may_not() {
    let world = World::new(Store::Sqlite).await;
    let path = "/elastic-ips/associate";
    let one = json!({ "elastic_ip": "100.64.0.1", "instance_id": "web" });
    for count in [0, 1_001] {
        let body = json!({ "associations": vec![one.clone(); count] }).to_string();
        let (status, problem) = world.post(path, body).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::BAD_REQUEST, &"invalid_request".into())
        );
        assert!(problem["detail"].as_str().unwrap().contains("1 to 1000"), "{problem}");
    }
    let (status, problem) = world.post(path, " ".repeat(300 * 1024)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    let (_, made) = world.post("/api-keys", r#"{"role": "reader"}"#).await;
    let reader = world.with_key(made["key"].as_str().unwrap());
    let body = json!({ "associations": [one] }).to_string();
    assert_eq!(reader.post(path, body).await.0, StatusCode::FORBIDDEN);
}
