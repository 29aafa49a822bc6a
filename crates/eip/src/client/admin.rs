//! What administrators do: projects, pools, keys, and the history of an address.

use std::net::Ipv4Addr;

use eip_model::{
    AddressHistory, ApiKeyList, CreateKeyRequest, CreatePoolRequest, CreateProjectRequest,
    CreatedKey, Pool, PoolList, Project, ProjectList, UpdatePoolRequest, UpdateProjectRequest,
};
use jiff::Timestamp;

use super::api::Api;
use super::output::Shown;
use crate::args::{Keys, Pools, Projects};
use crate::exit::Failure;

/// How many periods are shown.
const PERIODS: u32 = 500;

pub(super) async fn history(
    api: &Api,
    shown: Shown,
    address: Ipv4Addr,
    at: Option<Timestamp>,
) -> Result<(), Failure> {
    let mut query = vec![("limit", PERIODS.to_string())];
    query.extend(at.map(|at| ("at", at.to_string())));
    let path = format!("/addresses/{address}/history");
    shown.history(&api.get::<AddressHistory>(&path, &query).await?)
}

pub(super) async fn keys(api: &Api, shown: Shown, command: Keys) -> Result<(), Failure> {
    match command {
        Keys::Create { role, project, host, name, expires_at } => {
            let role = role.as_str().to_owned();
            let request = CreateKeyRequest { role, project, host, name, expires_at };
            shown.key(&api.post::<CreatedKey>("/api-keys", &request).await?)
        }
        Keys::List => {
            let items = api.all("/api-keys", &[]).await?;
            shown.keys(&ApiKeyList { items, next_cursor: None })
        }
        Keys::Revoke { id } => {
            api.delete(&format!("/api-keys/{id}")).await?;
            shown.gone("revoked", &id)
        }
    }
}

pub(super) async fn pools(api: &Api, shown: Shown, command: Pools) -> Result<(), Failure> {
    let change = async |name, request: UpdatePoolRequest| {
        shown.pool(&api.patch::<Pool>(&format!("/pools/{name}"), &request).await?)
    };
    match command {
        Pools::List => {
            let items = api.all("/pools", &[]).await?;
            shown.pools(&PoolList { items, next_cursor: None })
        }
        Pools::Show { name } => shown.pool(&api.get::<Pool>(&format!("/pools/{name}"), &[]).await?),
        Pools::Create { name, ranges, quarantine, mode, reserved, projects } => {
            let request = CreatePoolRequest {
                name,
                ranges,
                quarantine_seconds: quarantine,
                mode: mode.unwrap_or_default(),
                reserved,
                projects: Some(projects).filter(|all| !all.is_empty()),
            };
            shown.pool(&api.post::<Pool>("/pools", &request).await?)
        }
        Pools::Grow { name, ranges } => {
            let request = UpdatePoolRequest { add_ranges: ranges, ..UpdatePoolRequest::default() };
            change(name, request).await
        }
        Pools::Drain { name, undo } => {
            let draining = Some(!undo);
            change(name, UpdatePoolRequest { draining, ..UpdatePoolRequest::default() }).await
        }
        Pools::Delete { name } => {
            api.delete(&format!("/pools/{name}")).await?;
            shown.gone("deleted", name.as_str())
        }
    }
}

pub(super) async fn projects(api: &Api, shown: Shown, command: Projects) -> Result<(), Failure> {
    match command {
        Projects::List => {
            let items = api.all("/projects", &[]).await?;
            shown.projects(&ProjectList { items, next_cursor: None })
        }
        Projects::Create { name, quota } => {
            let request = CreateProjectRequest { name, quota: quota.wish() };
            shown.project(&api.post::<Project>("/projects", &request).await?)
        }
        Projects::Set { name, quota } => {
            let request = UpdateProjectRequest { quota: quota.wish() };
            shown.project(&api.patch::<Project>(&format!("/projects/{name}"), &request).await?)
        }
        Projects::Delete { name } => {
            api.delete(&format!("/projects/{name}")).await?;
            shown.gone("deleted", name.as_str())
        }
    }
}
