//! The OpenAPI document: made from what stands at each handler, so that it says what they do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use eip_model::{ErrorCode, Problem, WebhookMessage};
use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Content, ContentBuilder, OpenApi as OpenApiDocument, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema,
};
use utoipa::{IntoParams, Modify, OpenApi};

/// By code: the problems that any operation with a key can answer.
const KEYED: &[ErrorCode] = &[
    ErrorCode::InvalidRequest,
    ErrorCode::Unauthenticated,
    ErrorCode::Forbidden,
    ErrorCode::RateLimited,
    ErrorCode::Internal,
    ErrorCode::Unavailable,
];

/// Those that come on top where an operation takes a body.
const BODIED: &[ErrorCode] = &[ErrorCode::RequestTimeout, ErrorCode::PayloadTooLarge];

/// The document as text, made once.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut document = super::routes().split_for_parts().1;
    name_every_answer(&mut document);
    leave_bodies_out(&mut document);
    complete_answers(&mut document);
    document.to_pretty_json().map(|text| text + "\n").unwrap_or_default()
});

#[derive(OpenApi)]
#[openapi(
    info(
        title = "eip",
        description = "Elastic IPs for machines that you own: public IPv4 addresses that stay while \
                       the container or virtual machine behind them changes.\n\n\
                       Bodies are JSON whatever the Content-Type says; an empty body is `{}`. A field \
                       that is not known is refused. Every error is an RFC 9457 problem with a stable \
                       `code`; `/errors` explains each. What belongs to another project is answered \
                       like what does not exist.",
        license(name = "MIT", identifier = "MIT")
    ),
    components(schemas(Problem, WebhookMessage)),
    modifiers(&Schemes, &Problems),
    security(("api_key" = []), ("bearer" = [])),
    tags(
        (name = "elastic-ips", description = "Allocate addresses, point them at instances, release them."),
        (name = "events", description = "Every change, as a list and as a stream."),
        (name = "webhooks", description = "Where events are sent as they happen."),
        (name = "inventory", description = "Instances, hosts and pools."),
        (name = "administration", description = "For keys of the role `admin`."),
        (name = "service", description = "The service itself. No key is needed."),
    )
)]
pub(crate) struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut OpenApiDocument) {
        let header = ApiKeyValue::with_description("X-API-Key", "The key as it was given out.");
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(header)));
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("bearer", bearer);
    }
}

/// Every problem, so that operations need not tell of one that has a status for itself.
struct Problems;

impl Modify for Problems {
    fn modify(&self, document: &mut OpenApiDocument) {
        let components = document.components.get_or_insert_default();
        for code in ErrorCode::ALL {
            components.responses.insert(code.to_string(), named(problem(&[*code])).into());
        }
    }
}

/// Which elastic IP a path means.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "says to readers what `Target` reads")]
pub(crate) struct OfElasticIp {
    /// The UUID of an elastic IP, or its address.
    #[param(example = "100.64.12.15")]
    id: String,
}

/// How a request says that it is one that may have been carried out before.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "says to readers what `Asked` reads")]
pub(crate) struct OnceHeader {
    /// The same key and request within 24 hours give the first answer again, with
    /// `Idempotent-Replayed: true`.
    #[param(rename = "Idempotency-Key", required = false, nullable = false)]
    #[param(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// How a request says that it is about the elastic IP as the caller has seen it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "says to readers what `Asked` reads")]
pub(crate) struct IfMatch {
    /// The `ETag` of the elastic IP as it was read: 412 if it has changed since.
    #[param(rename = "If-Match", required = false, nullable = false)]
    if_match: Option<String>,
}

/// How a request says that nothing is to be changed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "says to readers what `Asked` reads")]
pub(crate) struct DryRun {
    /// Say what would be done, with `Dry-Run: true`, and do nothing.
    #[param(required = false, nullable = false)]
    dry_run: Option<bool>,
}

/// Declares what operations may answer when they do not do what was asked: the codes that an
/// operation has beside those of every one that `looks` or `takes` a body.
macro_rules! problems {
    ($($manner:ident $name:ident: $($code:ident)*;)+) => { $(
        pub(crate) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                $crate::api::openapi::$manner(&[$(eip_model::ErrorCode::$code),*])
            }
        }
    )+ };
}
pub(crate) use problems;

pub(crate) type Responses = BTreeMap<String, RefOr<Response>>;

/// Of an operation that needs no key.
pub(crate) fn open(codes: &[ErrorCode]) -> Responses {
    by_status(&[codes, &[ErrorCode::Internal, ErrorCode::Unavailable]])
}

/// Of an operation that takes no body.
pub(crate) fn looks(codes: &[ErrorCode]) -> Responses {
    by_status(&[KEYED, codes])
}

/// Of an operation that takes a body.
pub(crate) fn takes(codes: &[ErrorCode]) -> Responses {
    by_status(&[KEYED, BODIED, codes])
}

fn by_status(lists: &[&[ErrorCode]]) -> Responses {
    let mut statuses: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in ErrorCode::ALL.iter().filter(|code| lists.iter().any(|list| list.contains(code))) {
        statuses.entry(code.status()).or_default().push(*code);
    }
    let answer = |codes: &[ErrorCode]| match codes {
        [only] => RefOr::Ref(Ref::from_response_name(only.as_str())),
        several => problem(several).into(),
    };
    statuses.iter().map(|(status, codes)| (status.to_string(), answer(codes))).collect()
}

fn problem(codes: &[ErrorCode]) -> Response {
    let words = codes.iter().map(|code| code.as_str());
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
    let this = ObjectBuilder::new().property("code", code).required("code");
    let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(this);
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let said: Vec<String> =
        codes.iter().map(|code| format!("`{code}`: {}", code.title())).collect();
    let mut response = ResponseBuilder::new()
        .description(said.join("; "))
        .content("application/problem+json", content);
    if codes.contains(&ErrorCode::RateLimited) {
        let policy = "What the key may make: `\"key\";q=100;w=1` is 100 requests in each second.";
        let left = "What is left: `\"key\";r=0;t=1` is none now, and all of them in a second.";
        response = response
            .header("RateLimit-Policy", header(Type::String, policy))
            .header("RateLimit", header(Type::String, left));
    }
    let waits = codes.iter().any(|code| matches!(code.status(), 429 | 503));
    match waits {
        true => response.header("Retry-After", header(Type::Integer, "Seconds to wait.")).build(),
        false => response.build(),
    }
}

fn header(kind: Type, description: &str) -> utoipa::openapi::Header {
    let schema = ObjectBuilder::new().schema_type(kind);
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// Adds what every answer carries.
fn name_every_answer(document: &mut OpenApiDocument) {
    for operation in operations(document) {
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                *response = named(response.clone());
            }
        }
    }
}

fn operations(document: &mut OpenApiDocument) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, patch, .. } = item;
        [get, put, post, delete, patch].into_iter().flatten()
    })
}

/// Says of bodies in which nothing is required that there need be none: an empty one is `{}`.
fn leave_bodies_out(document: &mut OpenApiDocument) {
    let schemas = document.components.as_ref().map(|all| all.schemas.clone()).unwrap_or_default();
    let asks_nothing = |content: &RefOr<Content>| {
        let RefOr::T(Content { schema: Some(RefOr::Ref(named)), .. }) = content else {
            return false;
        };
        let name = named.ref_location.rsplit('/').next().unwrap_or_default();
        matches!(schemas.get(name), Some(RefOr::T(Schema::Object(it))) if it.required.is_empty())
    };
    for body in operations(document).filter_map(|one| one.request_body.as_mut()) {
        if let RefOr::T(body) = body
            && body.content.values().all(asks_nothing)
        {
            body.required = Some(Required::False);
        }
    }
}

fn named(mut response: Response) -> Response {
    let id = header(Type::String, "The id of this request in the log.");
    response.headers.insert("X-Request-Id".to_owned(), id.into());
    response
}

/// Says of what is answered that no field is ever left out: one without a value is `null`.
fn complete_answers(document: &mut OpenApiDocument) {
    let asked = asked(document);
    let Some(components) = &mut document.components else { return };
    for (_, schema) in components.schemas.iter_mut().filter(|(name, _)| !asked.contains(*name)) {
        complete(schema);
    }
}

fn complete(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            object.required = object.properties.keys().cloned().collect();
        }
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(complete),
        RefOr::Ref(_) | RefOr::T(_) => {}
    }
}

/// Returns the names of the schemas that bodies of requests are made of.
fn asked(document: &OpenApiDocument) -> BTreeSet<String> {
    let text_of = |name: &str| {
        let schemas = document.components.as_ref().map(|components| &components.schemas);
        schemas.and_then(|all| all.get(name)).map(|schema| json!(schema)).unwrap_or_default()
    };
    let items = document.paths.paths.values();
    let operations = items.flat_map(|item| [&item.put, &item.post, &item.patch]).flatten();
    let bodies = operations.filter_map(|operation| operation.request_body.as_ref());
    let mut pending: Vec<Value> = bodies.map(|body| json!(body)).collect();
    let mut found = BTreeSet::new();
    while let Some(value) = pending.pop() {
        match value {
            Value::Object(members) => pending.extend(members.into_iter().map(|(_, value)| value)),
            Value::Array(items) => pending.extend(items),
            Value::String(text) => {
                if let Some(name) = text.strip_prefix("#/components/schemas/")
                    && found.insert(name.to_owned())
                {
                    pending.push(text_of(name));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    found
}
