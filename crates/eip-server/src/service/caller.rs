//! Who asks, and what they may do.

use eip_model::{HostName, KeyId, PoolConfig, ProjectName, Role};
use eip_store::{By, Scope};
use jiff::Timestamp;

use super::{Error, Service};

/// Whoever presented a good key.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: KeyId,
    role: Role,
}

impl Service {
    /// Finds out who presents this key.
    pub(crate) async fn authenticate(&self, presented: Option<&str>) -> Result<Caller, Error> {
        let Some(presented) = presented else {
            return Err(Error::Unauthenticated { detail: "the request has no API key" });
        };
        let record = self.keys.recognise(presented, self.repository(), Timestamp::now()).await?;
        Ok(Caller { key: record.id, role: record.role })
    }
}

impl Caller {
    /// How events name whoever made a change.
    pub(crate) fn actor(&self) -> String {
        format!("key:{}", self.key)
    }

    /// The caller, now.
    pub(crate) fn by(&self) -> By {
        By { actor: self.actor(), at: Timestamp::now() }
    }

    /// Returns whose things the caller may see.
    pub(crate) fn may_read(&self) -> Result<Scope, Error> {
        match &self.role {
            Role::Admin { .. } => Ok(Scope::Everything),
            Role::Member { project } | Role::Reader { project } => {
                Ok(Scope::Project(project.clone()))
            }
            Role::Agent { .. } => Err(self.forbidden("read elastic IPs")),
        }
    }

    /// Returns whose things the caller may change.
    pub(crate) fn may_write(&self) -> Result<Scope, Error> {
        match &self.role {
            Role::Admin { .. } => Ok(Scope::Everything),
            Role::Member { project } => Ok(Scope::Project(project.clone())),
            Role::Reader { .. } | Role::Agent { .. } => Err(self.forbidden("change elastic IPs")),
        }
    }

    /// Returns the project that what the caller makes belongs to.
    pub(crate) fn project(&self) -> Result<ProjectName, Error> {
        self.may_write()?;
        match self.role.project() {
            Some(project) => Ok(project.clone()),
            None => Err(self.forbidden("hold elastic IPs")),
        }
    }

    /// Whether the caller may have elastic IPs of the pool, or administers it.
    pub(crate) fn may_use(&self, pool: &PoolConfig) -> bool {
        match &self.role {
            Role::Admin { .. } => true,
            Role::Member { project } | Role::Reader { project } => pool.admits(project),
            Role::Agent { .. } => false,
        }
    }

    /// Returns the project of an administrator.
    pub(crate) fn may_administer(&self) -> Result<&ProjectName, Error> {
        match &self.role {
            Role::Admin { project } => Ok(project),
            Role::Member { .. } | Role::Reader { .. } | Role::Agent { .. } => {
                Err(self.forbidden("administer the service"))
            }
        }
    }

    /// Whether there may be a limit to how often the caller asks. Agents keep traffic flowing, and
    /// administrators put right what has gone wrong.
    pub(crate) fn is_limited(&self) -> bool {
        match &self.role {
            Role::Member { .. } | Role::Reader { .. } => true,
            Role::Admin { .. } | Role::Agent { .. } => false,
        }
    }

    /// Returns the host whose agent the caller is.
    pub(crate) fn host(&self) -> Result<&HostName, Error> {
        self.role.host().ok_or_else(|| self.forbidden("speak for a host"))
    }

    fn forbidden(&self, what: &str) -> Error {
        let role = self.role.as_str();
        Error::Forbidden { detail: format!("a key of role {role} may not {what}") }
    }
}
