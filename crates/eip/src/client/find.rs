//! From what a person typed to the thing that is meant.

use eip_model::{ElasticIp, ElasticIpPage, ElasticIpRef, Instance};

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
    let mut found: Vec<ElasticIp> = api.all("/elastic-ips", &[]).await?;
    found.retain(|one| one.id.to_string().starts_with(&word));
    match found.len() {
        0 => Err(not_found()),
        1 => found.pop().ok_or_else(not_found),
        _ => Err(ambiguous(&word, found.iter().map(|one| one.public_ip.to_string()))),
    }
}

/// Finds an instance by id, name or backend and name.
pub(crate) async fn instance(api: &Api, word: &str) -> Result<Instance, Failure> {
    // A dot would lead to elsewhere: no instance is called so.
    if matches!(word, "" | "." | "..") || word.contains('/') {
        let detail = format!("there is no instance {word}");
        let hint = "see eip instance list";
        return Err(Failure::here(Exit::NotFound, "instance_not_found", detail, hint));
    }
    api.get(&format!("/instances/{word}"), &[]).await
}

fn ambiguous(word: &str, candidates: impl Iterator<Item = String>) -> Failure {
    let all: Vec<String> = candidates.collect();
    let detail = format!("{word} could be any of {}", all.join(", "));
    Failure::here(Exit::Conflict, "ambiguous", detail, "name one of them by its id or address")
}
