//! Every operation of the `OpenAPI` document, tried by those who may not: without a key, with the key of
//! another project, of a reader, of an agent. An operation that is added is tried by itself.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::openapi::{document, operations};
use crate::world::{Store, World, container, plain_client, read};

/// What another project owns, by the name that it goes by in a path.
struct Foreign {
    elastic_ip: String,
    address: String,
    instance: String,
    webhook: String,
}

/// A server with a project that owns things, and those who do not belong to it.
struct Tenants {
    world: World,
    foreign: Foreign,
    member: World,
    reader: World,
    agent: World,
}

impl Tenants {
    async fn new(store: Store) -> Self {
        let world = World::new(store).await;
        let key_of = async |role: &str, project: &str| {
            let body = json!({ "role": role, "project": project }).to_string();
            let (status, made) = world.post("/api-keys", body).await;
            assert_eq!(status, StatusCode::CREATED, "{made}");
            world.with_key(made["key"].as_str().unwrap())
        };
        let owner = key_of("member", "team-a").await;
        let member = key_of("member", "team-b").await;
        let reader = key_of("reader", "team-a").await;
        let (_, made) = world.post("/api-keys", r#"{"role": "agent", "host": "hv9"}"#).await;
        let agent = world.with_key(made["key"].as_str().unwrap());
        let host = world.host("hv1").await;
        let mut instance = container(2);
        instance.project = Some("team-a".parse().unwrap());
        host.has(vec![instance]).await;
        let pool = json!({
            "name": "secret-pool", "ranges": ["203.0.113.0/24"], "projects": ["team-a"],
        });
        let (status, made) = world.post("/pools", pool.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let (status, made) = owner.post("/elastic-ips", r#"{"name": "secret-name"}"#).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let id = made["id"].as_str().unwrap().to_owned();
        let associated = owner.associate(&id, "web-2").await;
        assert_eq!(associated.0, StatusCode::OK, "{}", associated.1);
        let hook = json!({ "url": "https://secret-hook.example.com/", "name": "secret-name" });
        let (status, hook) = owner.post("/webhooks", hook.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{hook}");
        let foreign = Foreign {
            webhook: hook["id"].as_str().unwrap().to_owned(),
            elastic_ip: id,
            address: made["public_ip"].as_str().unwrap().to_owned(),
            instance: container(2).id.to_string(),
        };
        Self { world, foreign, member, reader, agent }
    }

    /// Everything that is recorded of the owner's things.
    async fn state(&self) -> Vec<Value> {
        let id = &self.foreign.elastic_ip;
        let mut seen = Vec::new();
        for path in [
            format!("/elastic-ips/{id}"),
            format!("/elastic-ips/{id}/events"),
            "/elastic-ips?limit=500".to_owned(),
            "/instances".to_owned(),
            "/pools".to_owned(),
            "/webhooks".to_owned(),
        ] {
            let (status, mut body) = self.world.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{path}: {body}");
            forget_time(&mut body);
            seen.push(body);
        }
        seen
    }
}

/// Takes out what changes with time alone: what the data plane does, whose host says nothing here.
fn forget_time(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("data_plane");
            members.values_mut().for_each(forget_time);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_time),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A body that the operation takes, as far as its schema tells: what is required, from examples.
fn body_of(document: &Value, operation: &Value) -> Option<Value> {
    let schema = operation.pointer("/requestBody/content/application~1json/schema")?;
    Some(value_of(document, schema))
}

fn value_of(document: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return value_of(document, document.pointer(&name[1..]).unwrap());
    }
    if let Some(example) = schema.get("example").or_else(|| schema.pointer("/examples/0")) {
        return example.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let needed = schema["required"].as_array().into_iter().flatten();
            let names = needed.map(|name| name.as_str().unwrap());
            names
                .map(|name| (name.to_owned(), value_of(document, &schema["properties"][name])))
                .collect()
        }
        Some("array") => json!([value_of(document, &schema["items"])]),
        other => panic!("give an example of this {other:?} in its schema: {schema}"),
    }
}

/// What an answer says but for what names the request and what was asked for.
fn without_names((status, body): (StatusCode, Value), names: &[&str]) -> (StatusCode, String) {
    let mut body = body;
    if let Some(members) = body.as_object_mut() {
        members.remove("request_id");
    }
    let mut text = body.to_string();
    for name in names {
        text = text.replace(name, "IT");
    }
    (status, text)
}

async fn ask(
    who: &World,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let request = who.request(method.clone(), path);
    read(match body {
        Some(body) => request.body(body.to_string()),
        None => request,
    })
    .await
}

/// The operations whose path names a thing, with what it is called.
fn about_one() -> Vec<(Method, String, Value)> {
    let mut all = operations(&document());
    all.retain(|(_, path, _)| path.contains('{'));
    all
}

#[rstest::rstest]
#[case(Store::Sqlite)]
#[case(Store::Postgres)]
#[tokio::test]
async fn what_belongs_to_others_is_answered_like_what_does_not_exist(#[case] store: Store) {
    let tenants = Tenants::new(store).await;
    let foreign = &tenants.foreign;
    let document = document();
    let before = tenants.state().await;
    let absent_id = "f47ac10b-58cc-4372-a567-0e02c7d2e3f4";
    let mut tried = 0;
    for (method, path, operation) in about_one() {
        if operation["tags"] == json!(["administration"]) {
            continue;
        }
        let body = body_of(&document, &operation);
        let names: Vec<(&str, &str)> = match path.split('/').nth(1).unwrap() {
            "elastic-ips" => {
                vec![(&foreign.elastic_ip, absent_id), (&foreign.address, "100.64.0.77")]
            }
            "instances" => vec![
                (&foreign.instance, absent_id),
                ("web-2", "web-77"),
                ("docker:web-2", "docker:web-77"),
            ],
            "webhooks" => vec![(&foreign.webhook, absent_id)],
            "pools" => vec![("secret-pool", "nowhere")],
            // Every address has a history; what is theirs is not in it.
            "addresses" => continue,
            other => panic!("say how another project's things are named in /{other}/{{...}}"),
        };
        for (theirs, absent) in names {
            let of = |name: &str| path.replace("{id}", name).replace("{name}", name);
            let found = ask(&tenants.member, &method, &of(theirs), body.as_ref()).await;
            let missed = ask(&tenants.member, &method, &of(absent), body.as_ref()).await;
            assert_eq!(found.0, StatusCode::NOT_FOUND, "{method} {path}: {}", found.1);
            let (found, missed) =
                (without_names(found, &[theirs]), without_names(missed, &[absent]));
            assert_eq!(found, missed, "{method} {path} of {theirs}");
            tried += 1;
        }
    }
    assert!(tried >= 15, "{tried}");
    assert_eq!(tenants.state().await, before, "somebody changed what is not theirs");
}

#[tokio::test]
async fn lists_show_nothing_of_another_project() {
    let tenants = Tenants::new(Store::Sqlite).await;
    let foreign = &tenants.foreign;
    let secrets = [
        &*foreign.elastic_ip,
        &*foreign.address,
        &*foreign.instance,
        "web-2",
        "secret-name",
        "secret-pool",
        "secret-hook",
    ];
    let mut tried = 0;
    for (method, path, operation) in operations(&document()) {
        let stream = operation.pointer("/responses/200/content/text~1event-stream").is_some();
        if method != Method::GET || path.contains('{') || stream {
            continue;
        }
        let (status, body) = ask(&tenants.member, &method, &path, None).await;
        let text = body.to_string();
        assert!(status == StatusCode::OK || status == StatusCode::FORBIDDEN, "{path}: {text}");
        for secret in secrets {
            assert!(!text.contains(secret), "{path} shows {secret}: {text}");
        }
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
    let history = format!("/addresses/{}/history", foreign.address);
    let (status, told) = tenants.member.get(&history).await;
    assert_eq!((status, &told["items"]), (StatusCode::OK, &json!([])));
    let id = &foreign.elastic_ip;
    for filter in [
        format!("instance_id={}", foreign.instance),
        format!("public_ip={}", foreign.address),
        "name=secret-name".to_owned(),
    ] {
        let (status, body) = tenants.member.get(&format!("/elastic-ips?{filter}")).await;
        assert_eq!((status, &body["items"]), (StatusCode::OK, &json!([])), "{filter} of {id}");
    }
}

#[tokio::test]
async fn an_instance_of_another_project_takes_nobody_elses_address() {
    let tenants = Tenants::new(Store::Sqlite).await;
    let own = tenants.member.allocate().await;
    let one = format!("/elastic-ips/{own}/associate");
    for name in ["web-2", "docker:web-2", tenants.foreign.instance.as_str()] {
        let body = |name: &str| json!({ "instance_id": name, "allow_reassociation": true });
        let found = ask(&tenants.member, &Method::POST, &one, Some(&body(name))).await;
        let missed = ask(&tenants.member, &Method::POST, &one, Some(&body("nobody"))).await;
        assert_eq!(found.0, StatusCode::NOT_FOUND, "{}", found.1);
        assert_eq!(without_names(found, &[name]), without_names(missed, &["nobody"]));
        let many = json!({ "associations": [{ "elastic_ip": own, "instance_id": name }] });
        let (_, all) =
            ask(&tenants.member, &Method::POST, "/elastic-ips/associate", Some(&many)).await;
        assert_eq!(all["items"][0]["problem"]["code"], "instance_not_found", "{all}");
    }
}

#[tokio::test]
async fn nothing_is_done_for_who_has_no_key_or_one_that_may_not() {
    let tenants = Tenants::new(Store::Sqlite).await;
    let document = document();
    let before = tenants.state().await;
    let nobody = plain_client();
    let mut tried = 0;
    for (method, path, operation) in operations(&document) {
        if !operation["security"].is_null() {
            continue;
        }
        let body = body_of(&document, &operation);
        let at = path.replace("{id}", &tenants.foreign.elastic_ip);
        let at = at.replace("{name}", "hv1").replace("{ip}", &tenants.foreign.address);
        let url = format!("{}{at}", tenants.world.base);
        let mut bare = nobody.request(method.clone(), url);
        if let Some(body) = &body {
            bare = bare.body(body.to_string());
        }
        let (status, problem) = read(bare).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {problem}");
        let unknown = tenants.world.with_key(eip_server::ApiKey::generate().expose());
        let (status, problem) = ask(&unknown, &method, &at, body.as_ref()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}: {problem}");
        let (status, problem) = ask(&tenants.agent, &method, &at, body.as_ref()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} by an agent: {problem}");
        if method != Method::GET {
            let (status, problem) = ask(&tenants.reader, &method, &at, body.as_ref()).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} by a reader: {problem}");
        }
        if operation["tags"] == json!(["administration"]) {
            let (status, problem) = ask(&tenants.member, &method, &at, body.as_ref()).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} by a member: {problem}");
        }
        tried += 1;
    }
    assert!(tried >= 16, "{tried}");
    assert_eq!(tenants.state().await, before, "somebody changed what they may not");
}
