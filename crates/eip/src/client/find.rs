//! From what a person typed to the thing that is meant.

use eip_model::{ElasticIp, ElasticIpPage, ElasticIpRef, Instance, InstanceList, InstanceRef};

use super::api::Api;
use crate::exit::{Exit, Failure};

/// Finds an elastic IP by id, address, name or the beginning of its id.
pub(crate) async fn elastic_ip(api: &Api, word: &str) -> Result<ElasticIp, Failure> {
    if word.parse::<ElasticIpRef>().is_ok() {
        return api.get(&format!("/elastic-ips/{word}"), &[]).await;
    }
    if let Some(found) = by_name(api, word).await? {
        return Ok(found);
    }
    by_prefix(api, word).await
}

pub(crate) async fn by_name(api: &Api, name: &str) -> Result<Option<ElasticIp>, Failure> {
    let query = [("name", name.to_owned())];
    let page: ElasticIpPage = api.get("/elastic-ips", &query).await?;
    match page.items.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => Err(ambiguous(name, several.iter().map(|one| one.public_ip.to_string()))),
    }
}

async fn by_prefix(api: &Api, word: &str) -> Result<ElasticIp, Failure> {
    let not_found = || {
        let detail = format!("there is no elastic IP {word}");
        Failure::here(Exit::NotFound, "elastic_ip_not_found", detail, "see eip list")
    };
    let could_be = word.len() >= 4 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !could_be {
        return Err(not_found());
    }
    let word = word.to_ascii_lowercase();
    let mut query = vec![("limit", "500".to_owned())];
    let mut found: Vec<ElasticIp> = Vec::new();
    loop {
        let page: ElasticIpPage = api.get("/elastic-ips", &query).await?;
        found.extend(page.items.into_iter().filter(|one| one.id.to_string().starts_with(&word)));
        let Some(cursor) = page.next_cursor else { break };
        query.truncate(1);
        query.push(("cursor", cursor));
    }
    match found.len() {
        0 => Err(not_found()),
        1 => found.pop().ok_or_else(not_found),
        _ => Err(ambiguous(&word, found.iter().map(|one| one.public_ip.to_string()))),
    }
}

/// Finds an instance by id, name or backend and name.
pub(crate) async fn instance(api: &Api, word: &str) -> Result<Instance, Failure> {
    let listed: InstanceList = api.get("/instances", &[]).await?;
    let named = InstanceRef::parse(word);
    let mut found = listed.items.into_iter().filter(|one| match &named {
        InstanceRef::Id(id) => one.id == *id,
        InstanceRef::Name { backend, name } => {
            one.name == *name && backend.is_none_or(|backend| one.backend == backend)
        }
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => {
            let all = [one, other].into_iter().chain(found);
            let describe = |one: Instance| format!("{}:{} on {}", one.backend, one.name, one.host);
            Err(ambiguous(word, all.map(describe)))
        }
        (None, _) => {
            let detail = format!("there is no instance {word}");
            let hint = "see eip instance list";
            Err(Failure::here(Exit::NotFound, "instance_not_found", detail, hint))
        }
    }
}

fn ambiguous(word: &str, candidates: impl Iterator<Item = String>) -> Failure {
    let all: Vec<String> = candidates.collect();
    let detail = format!("{word} could be any of {}", all.join(", "));
    Failure::here(Exit::Conflict, "ambiguous", detail, "name one of them by its id or address")
}
