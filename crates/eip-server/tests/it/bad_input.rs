//! What cannot be done is said clearly, and changes nothing.

use eip_model::{ErrorCode, InstanceState, Unusable};
use reqwest::{Method, StatusCode};

use crate::world::{Answer, Store, World, container, read};

#[track_caller]
fn is_problem((status, body): &Answer, code: ErrorCode) {
    assert_eq!(status.as_u16(), code.status(), "{body}");
    assert_eq!(body["code"], code.as_str(), "{body}");
    for member in ["type", "title", "detail", "hint", "request_id"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_asked_for_is_refused() {
    let world = World::new(Store::Sqlite).await;
    let id = world.allocate().await;
    let before = world.get(&format!("/elastic-ips/{id}")).await;
    let associate = format!("/elastic-ips/{id}/associate");
    for body in [
        "{",
        "[]",
        "3",
        "null",
        "\"web\"",
        "{\"instance_id\": 3}",
        "{}",
        "{\"instance_id\": null}",
        "{\"instance_id\": \"web\", \"allow_reassociation\": \"yes\"}",
        "{\"instance_id\": \"web\", \"wait_seconds\": 61}",
        "{\"instance_id\": \"web\", \"wait_seconds\": -1}",
        "{\"instance_id\": \"web\", \"network\": \"\"}",
        "{\"instance_id\": \"web\", \"mode\": \"bridge\"}",
        "{\"instance_id\": \"web\", \"mode\": 7}",
        "{\"instance_id\": \"web\", \"alow_reassociation\": true}",
        "instance_id=web",
        "\u{0}",
        "{\"instance_id\": \"web\"} trailing",
    ] {
        is_problem(&world.post(&associate, body).await, ErrorCode::InvalidRequest);
    }
    for body in [
        "{\"address\": \"100.64.0.256\"}",
        "{\"address\": 5}",
        "{\"pool\": \"Not A Pool\"}",
        "{\"name\": \"\"}",
        "{\"name\": \"a\\nb\"}",
        "{\"tags\": {\"a\": 1}}",
        "[\"100.64.0.1\"]",
        "{\"address\": \"203.0.113.9\"}",
        "{\"size\": 3}",
    ] {
        is_problem(&world.post("/elastic-ips", body).await, ErrorCode::InvalidRequest);
    }
    let body = "{\"instance_id\": \"web\", \"mode\": 7}";
    let (_, problem) = world.post(&associate, body).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("integer `7`, expected \"nat\" or \"alias\""), "{problem}");
    assert_eq!(problem["hint"], "GET /errors explains, under invalid_request");
    let nested = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep = format!("{{\"tags\": {nested}}}");
    is_problem(&world.post("/elastic-ips", deep).await, ErrorCode::InvalidRequest);
    let not_text = vec![b'{', 0xff, 0xfe, b'}'];
    is_problem(&world.post("/elastic-ips", not_text).await, ErrorCode::InvalidRequest);
    assert_eq!(world.get(&format!("/elastic-ips/{id}")).await, before);
    assert_eq!(world.get("/elastic-ips").await.1["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_and_one_of_64_kib_is_read() {
    let world = World::new(Store::Sqlite).await;
    let padded = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    let fits = world.post("/elastic-ips", padded(64 * 1024)).await;
    assert_eq!(fits.0, StatusCode::CREATED);
    let over = world.post("/elastic-ips", padded(64 * 1024 + 1)).await;
    is_problem(&over, ErrorCode::PayloadTooLarge);
}

#[tokio::test]
async fn a_path_that_leads_nowhere_says_so() {
    let world = World::new(Store::Sqlite).await;
    is_problem(&world.get("/elastic-ip").await, ErrorCode::NotFound);
    is_problem(&world.get("/elastic-ips/").await, ErrorCode::NotFound);
    is_problem(&world.get("/elastic-ips/web").await, ErrorCode::InvalidRequest);
    is_problem(&world.get("/elastic-ips/%ff").await, ErrorCode::InvalidRequest);
    is_problem(&world.get("/elastic-ips/100.64.0.1").await, ErrorCode::ElasticIpNotFound);
    let absent = "/elastic-ips/f47ac10b-58cc-4372-a567-0e02c7d2e3f4";
    is_problem(&world.get(absent).await, ErrorCode::ElasticIpNotFound);
    is_problem(&world.delete(absent).await, ErrorCode::ElasticIpNotFound);
    let disassociate = format!("{absent}/disassociate");
    is_problem(&world.post(&disassociate, "").await, ErrorCode::ElasticIpNotFound);
    let patch = world.request(Method::PUT, "/elastic-ips");
    is_problem(&read(patch).await, ErrorCode::MethodNotAllowed);
    is_problem(&world.post("/elastic-ips", "{\"pool\": \"x\"}").await, ErrorCode::PoolNotFound);
}

#[tokio::test]
async fn an_instance_that_cannot_take_an_address_is_refused_with_the_reason() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    let mut stopped = container(2);
    stopped.state = InstanceState::Stopped;
    stopped.private_ip = None;
    let mut on_host = container(3);
    on_host.unusable = Some(Unusable::HostNetwork);
    on_host.private_ip = None;
    let mut twin = container(5);
    twin.name = "web-4".to_owned();
    host.has(vec![stopped, on_host, container(4), twin]).await;
    let id = world.allocate().await;
    let try_one = async |name: &str| world.associate(&id, name).await;
    is_problem(&try_one("web-2").await, ErrorCode::InstanceNotRunning);
    is_problem(&try_one("web-3").await, ErrorCode::InstanceHasNoNetwork);
    is_problem(&try_one("web-4").await, ErrorCode::InstanceAmbiguous);
    is_problem(&try_one("web-9").await, ErrorCode::InstanceNotFound);
    is_problem(&try_one("sandbox:web-4").await, ErrorCode::InstanceNotFound);
    is_problem(&try_one("").await, ErrorCode::InstanceNotFound);
    let (_, after) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!(after["status"], "allocated");
    let (_, listed) = world.get("/instances").await;
    let eligible: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|one| one["eligible"] == true).collect();
    assert_eq!(eligible, [false, false, true, true], "{listed}");
}

#[tokio::test]
async fn an_instance_has_one_elastic_ip_and_an_elastic_ip_one_instance() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2), container(3)]).await;
    let (one, other) = (world.allocate().await, world.allocate().await);
    assert_eq!(world.associate(&one, "web-2").await.0, StatusCode::OK);
    assert_eq!(world.associate(&one, "docker:web-2").await.0, StatusCode::OK);
    is_problem(&world.associate(&one, "web-3").await, ErrorCode::AlreadyAssociated);
    is_problem(&world.associate(&other, "web-2").await, ErrorCode::InstanceHasElasticIp);
    let moving = r#"{"instance_id": "web-3", "allow_reassociation": true, "wait_seconds": 0}"#;
    let (status, after) = world.post(&format!("/elastic-ips/{one}/associate"), moving).await;
    assert_eq!((status, &after["instance_name"]), (StatusCode::OK, &"web-3".into()));
    let again = world.post(&format!("/elastic-ips/{other}/disassociate"), "").await;
    is_problem(&again, ErrorCode::NotAssociated);
}

#[tokio::test]
async fn an_address_is_had_by_asking_for_it_if_it_is_free() {
    let world = World::new(Store::Sqlite).await;
    let ask = |address: &str| format!("{{\"address\": \"{address}\"}}");
    let (status, made) = world.post("/elastic-ips", ask("100.100.7.9")).await;
    assert_eq!((status, &made["public_ip"]), (StatusCode::CREATED, &"100.100.7.9".into()));
    is_problem(&world.post("/elastic-ips", ask("100.100.7.9")).await, ErrorCode::AddressInUse);
    is_problem(&world.post("/elastic-ips", ask("100.64.0.0")).await, ErrorCode::AddressInUse);
    assert_eq!(world.delete("/elastic-ips/100.100.7.9").await.0, StatusCode::NO_CONTENT);
    let (status, again) = world.post("/elastic-ips", ask("100.100.7.9")).await;
    assert_eq!(status, StatusCode::CREATED, "its last holder has it back: {again}");
    assert_ne!(again["id"], made["id"]);
}

#[tokio::test]
async fn a_request_id_is_taken_over_when_it_is_fit_for_a_log() {
    let world = World::new(Store::Sqlite).await;
    let id_of = async |given: &str| {
        let request = world.request(Method::GET, "/nope").header("X-Request-Id", given);
        read(request).await.1["request_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id_of("deploy-42").await, "deploy-42");
    assert_ne!(id_of("a b").await, "a b");
    assert_ne!(id_of(&"a".repeat(65)).await, "a".repeat(65));
}
