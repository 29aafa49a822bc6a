//! Projects and their keys, for administrators.

use std::time::Duration;

use eip_model::{
    ApiKeyInfo, CreateKeyRequest, CreateProjectRequest, CreatedKey, KeyId, Project, ProjectName,
    Role, UpdateProjectRequest,
};
use eip_store::{ApiKeyRecord, KeyPlace, NewApiKey, Page};
use jiff::Timestamp;
use tracing::{info, warn};

use super::admin_error::{AdminError, explained};
use super::keys::ApiKey;
use super::terms::{Asked, Done};
use super::{Caller, Error, Service};

/// How many addresses a project may hold unless told otherwise. The default project has no quota.
const QUOTA: u32 = 20;

impl Service {
    pub(crate) async fn projects(
        &self,
        caller: &Caller,
        page: Page<ProjectName>,
    ) -> Result<Vec<Project>, Error> {
        caller.may_administer()?;
        self.repository().projects(&page).await.map_err(Error::Store)
    }

    pub(crate) async fn project(&self, caller: &Caller, named: &str) -> Result<Project, Error> {
        caller.may_administer()?;
        let name: ProjectName = named.parse().map_err(|_| no_project(named))?;
        let found = self.repository().project(&name).await.map_err(Error::Store)?;
        found.ok_or_else(|| no_project(named))
    }

    pub(crate) async fn make_project(
        &self,
        caller: &Caller,
        request: CreateProjectRequest,
        asked: &Asked,
    ) -> Result<Done<Project>, Error> {
        caller.may_administer()?;
        let terms = asked.no_version()?.terms(caller, &("POST /projects", &request));
        let quota = request.quota.unwrap_or(Some(QUOTA));
        let by = caller.by();
        let made = self.repository().make_project(&terms, &request.name, quota, &by);
        let made =
            made.await.map_err(|error| explained(error, "project", request.name.as_str()))?;
        Ok(asked.settled(made))
    }

    pub(crate) async fn update_project(
        &self,
        caller: &Caller,
        named: &str,
        request: UpdateProjectRequest,
        asked: &Asked,
    ) -> Result<Done<Project>, Error> {
        caller.may_administer()?;
        let name: ProjectName = named.parse().map_err(|_| no_project(named))?;
        let terms = asked.no_version()?.unkeyed();
        let by = caller.by();
        let changed = self.repository().set_quota(&terms, &name, request.quota, &by);
        let project = changed.await.map_err(|error| explained(error, "project", named))?;
        Ok(asked.done(project, false))
    }

    pub(crate) async fn delete_project(
        &self,
        caller: &Caller,
        named: &str,
        asked: &Asked,
    ) -> Result<Done<()>, Error> {
        let own = caller.may_administer()?;
        let name: ProjectName = named.parse().map_err(|_| no_project(named))?;
        if name == *own || name == self.default_project {
            let what = "it is the service's own, or that of your key".to_owned();
            return Err(AdminError::ProjectInUse { name: named.to_owned(), what }.into());
        }
        let terms = asked.no_version()?.unkeyed();
        let deleted = self.repository().delete_project(&terms, &name, &caller.by()).await;
        deleted.map_err(|error| explained(error, "project", named))?;
        Ok(asked.done((), false))
    }

    pub(crate) async fn api_keys(
        &self,
        caller: &Caller,
        page: Page<KeyPlace>,
    ) -> Result<Vec<ApiKeyInfo>, Error> {
        caller.may_administer()?;
        self.note_key_use().await;
        let keys = self.repository().api_keys(&page).await.map_err(Error::Store)?;
        Ok(keys.into_iter().map(ApiKeyRecord::info).collect())
    }

    pub(crate) async fn api_key(&self, caller: &Caller, id: &str) -> Result<ApiKeyInfo, Error> {
        caller.may_administer()?;
        self.note_key_use().await;
        let found = self.repository().api_key(&KeyId::new(id)).await.map_err(Error::Store)?;
        let found = found.map(ApiKeyRecord::info);
        found.ok_or_else(|| AdminError::ApiKeyNotFound { id: id.to_owned() }.into())
    }

    /// Makes a key. It is in the answer and nowhere else: who repeats the request under the same
    /// `Idempotency-Key` gets it again because it follows from that, from the caller's own key, which
    /// the record does not have either, and from what was noted.
    pub(crate) async fn create_key(
        &self,
        caller: &Caller,
        presented: &ApiKey,
        request: CreateKeyRequest,
        asked: &Asked,
    ) -> Result<Done<CreatedKey>, Error> {
        let own = caller.may_administer()?;
        let terms = asked.no_version()?.terms(caller, &("POST /api-keys", &request));
        let CreateKeyRequest { role: word, project, host, name, expires_at } = request;
        let project = match host {
            Some(_) => project,
            None => project.or_else(|| Some(own.clone())),
        };
        let role = Role::from_parts(&word, project.clone(), host).map_err(|error| {
            let hint = "a key of role agent names a host and no project, any other no host";
            Error::invalid(error.to_string(), hint)
        })?;
        let now = Timestamp::now();
        let salt = uuid::Uuid::new_v4().simple().to_string();
        // Any, or under an `Idempotency-Key` the one that follows from it.
        let derive = |salt: &str| asked.key.as_ref().map(|once| presented.derive(once, salt));
        let key = derive(&salt).unwrap_or_else(ApiKey::generate);
        let new = NewApiKey { id: key.id(), digest: key.digest(), role, name, expires_at, now };
        let made =
            self.repository().make_api_key(&terms, &new, &salt, Some(QUOTA), &caller.actor()).await;
        let named = project.as_ref().map(ToString::to_string).unwrap_or_default();
        let made = made.map_err(|error| explained(error, "key", &named))?;
        let info = made.answer.info;
        let key = derive(&made.answer.note).unwrap_or(key);
        if !made.repeated && !asked.dry_run {
            info!(key.id = %caller.key, made = %info.id, role = word, "Made an API key");
        }
        let created = CreatedKey {
            id: info.id,
            role: info.role,
            project: info.project,
            host: info.host,
            name: info.name,
            expires_at: info.expires_at,
            key: key.expose().to_owned(),
        };
        Ok(asked.done(created, made.repeated))
    }

    pub(crate) async fn revoke_key(
        &self,
        caller: &Caller,
        id: &str,
        asked: &Asked,
    ) -> Result<Done<()>, Error> {
        caller.may_administer()?;
        let id = KeyId::new(id);
        let terms = asked.no_version()?.unkeyed();
        let revoked = self.repository().revoke_api_key(&terms, &id, &caller.by()).await;
        revoked.map_err(|error| explained(error, "key", id.as_str()))?;
        if !asked.dry_run {
            self.keys.forget(&id);
            warn!(key.id = %caller.key, revoked = %id, "Revoked an API key");
        }
        Ok(asked.done((), false))
    }

    /// Writes down which keys were used since the last time.
    pub(super) async fn note_key_use(&self) {
        let used = self.keys.used();
        if used.is_empty() {
            return;
        }
        if let Err(error) = self.repository().note_key_use(&used).await {
            warn!(%error, "Could not note which keys are used");
        }
    }
}

/// How often the use of keys is written down.
pub(super) const NOTE_USE: Duration = Duration::from_secs(10);

fn no_project(named: &str) -> Error {
    AdminError::ProjectNotFound { name: named.to_owned() }.into()
}
