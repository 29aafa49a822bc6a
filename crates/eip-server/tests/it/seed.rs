//! The calls that the service was asked for in the first place.

use reqwest::{Method, StatusCode};
use rstest::rstest;

use crate::world::{Store, World, container, plain_client, read};

#[rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn allocate_associate_disassociate_release(#[case] store: Store) {
    let world = World::new(store).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let _obeying = host.obey();

    let (status, made) = world.post("/elastic-ips", "").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(made["status"], "allocated");
    assert_eq!(made["data_plane"]["state"], "none");
    let id = made["id"].as_str().unwrap();
    let bytes = *uuid::Uuid::parse_str(id).unwrap().as_bytes();
    let derived = format!("100.{}.{}.{}", 64 + bytes[12] % 64, bytes[13], bytes[14]);
    assert_eq!(made["public_ip"], derived);

    let instance = container(2).id.to_string();
    let body = format!(r#"{{"instance_id": "{instance}"}}"#);
    let (status, after) = world.post(&format!("/elastic-ips/{id}/associate"), body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(after["status"], "associated");
    assert_eq!(after["data_plane"]["state"], "active", "{after}");
    assert_eq!(after["instance_id"], instance);
    assert_eq!(after["private_ip"], "172.17.0.2");
    assert_eq!(after["host"], "hv1");

    let (status, problem) = world.delete(&format!("/elastic-ips/{id}")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"still_associated".into()));

    let (status, after) = world.post(&format!("/elastic-ips/{id}/disassociate"), "").await;
    assert_eq!((status, &after["status"]), (StatusCode::OK, &"allocated".into()));
    assert_eq!(after["instance_id"], serde_json::Value::Null);

    assert_eq!(world.delete(&format!("/elastic-ips/{id}")).await.0, StatusCode::NO_CONTENT);
    let (status, problem) = world.get(&format!("/elastic-ips/{id}")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"elastic_ip_not_found".into()));
}

#[tokio::test]
async fn an_elastic_ip_is_found_by_its_id_and_by_its_address() {
    let world = World::new(Store::Sqlite).await;
    let id = world.allocate().await;
    let (_, by_id) = world.get(&format!("/elastic-ips/{id}")).await;
    let address = by_id["public_ip"].as_str().unwrap();
    let (_, by_address) = world.get(&format!("/elastic-ips/{address}")).await;
    assert_eq!(by_id, by_address);
}

#[tokio::test]
async fn the_answer_to_an_allocation_says_where_it_is() {
    let world = World::new(Store::Sqlite).await;
    let answer = world.request(Method::POST, "/elastic-ips").send().await.unwrap();
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let made: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(location, format!("/elastic-ips/{}", made["id"].as_str().unwrap()));
    assert_eq!(world.get(&location).await.0, StatusCode::OK);
}

#[tokio::test]
async fn who_has_no_good_key_is_told_so_and_nothing_else() {
    let world = World::new(Store::Sqlite).await;
    let wrong = eip_server::ApiKey::generate();
    let mut typo = world.key.clone();
    typo.pop();
    let bare = plain_client();
    for key in [None, Some("guess"), Some(wrong.expose()), Some(typo.as_str()), Some("")] {
        for (method, path) in [
            (Method::GET, "/elastic-ips"),
            (Method::POST, "/elastic-ips"),
            (Method::GET, "/instances"),
            (Method::GET, "/hosts"),
            (Method::GET, "/agent/v1/desired"),
        ] {
            let mut request = bare.request(method, format!("{}{path}", world.base));
            if let Some(key) = key {
                request = request.header("X-API-Key", key);
            }
            let (status, problem) = read(request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} with {key:?}");
            assert_eq!(problem["code"], "unauthenticated");
        }
    }
    let bearer = bare.get(format!("{}/elastic-ips", world.base)).bearer_auth(&world.key);
    assert_eq!(read(bearer).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_agent_may_speak_for_its_host_and_nothing_else() {
    let world = World::new(Store::Sqlite).await;
    let host = world.host("hv1").await;
    host.has(vec![container(2)]).await;
    let as_agent = host.request(Method::GET, "../../elastic-ips");
    assert_eq!(read(as_agent).await.0, StatusCode::FORBIDDEN);
    let as_admin = world.request(Method::GET, "/agent/v1/desired");
    assert_eq!(read(as_admin).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_key_may_do_what_its_role_says_in_its_project_alone() {
    let world = World::new(Store::Sqlite).await;
    let of_others = world.allocate().await;
    let create = async |body: &str| world.post("/api-keys", body.to_owned()).await;
    let (status, made) = create(r#"{"role": "member", "project": "team-a"}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let member = made["key"].as_str().unwrap().to_owned();
    let (_, made) = create(r#"{"role": "reader", "project": "team-a"}"#).await;
    let reader = made["key"].as_str().unwrap().to_owned();
    let call = async |key: &str, method: Method, path: &str| {
        let client = plain_client();
        read(client.request(method, format!("{}{path}", world.base)).header("X-API-Key", key)).await
    };
    let (status, own) = call(&member, Method::POST, "/elastic-ips").await;
    assert_eq!((status, &own["project"]), (StatusCode::CREATED, &"team-a".into()));
    let own = format!("/elastic-ips/{}", own["id"].as_str().unwrap());
    assert_eq!(call(&reader, Method::GET, &own).await.0, StatusCode::OK);
    assert_eq!(call(&reader, Method::DELETE, &own).await.0, StatusCode::FORBIDDEN);
    assert_eq!(call(&reader, Method::POST, "/elastic-ips").await.0, StatusCode::FORBIDDEN);
    let of_others = format!("/elastic-ips/{of_others}");
    for method in [Method::GET, Method::DELETE] {
        let answer = call(&member, method, &of_others).await;
        assert_eq!(answer.0, StatusCode::NOT_FOUND, "{}", answer.1);
    }
    let more = plain_client();
    let more = more.post(format!("{}/api-keys", world.base)).header("X-API-Key", &member);
    assert_eq!(read(more.body(r#"{"role": "admin"}"#)).await.0, StatusCode::FORBIDDEN);
    let (_, listed) = call(&member, Method::GET, "/elastic-ips").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    for wrong in
        [r#"{"role": "king"}"#, r#"{"role": "agent"}"#, r#"{"role": "admin", "host": "h"}"#]
    {
        assert_eq!(create(wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
