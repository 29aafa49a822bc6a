//! Looking at instances and hosts.

use eip_model::{Host, Instance, InstanceRef};
use eip_store::{HostRecord, InstanceFilter};
use jiff::Timestamp;

use super::{Caller, Error, Service};

impl Service {
    pub(crate) async fn instances(&self, caller: &Caller) -> Result<Vec<Instance>, Error> {
        let filter = InstanceFilter { scope: caller.may_read()?, named: None };
        self.repository().list_instances(&filter).await.map_err(Error::Store)
    }

    pub(crate) async fn instance(&self, caller: &Caller, named: &str) -> Result<Instance, Error> {
        let scope = caller.may_read()?;
        let filter = InstanceFilter { scope, named: Some(InstanceRef::parse(named)) };
        let found = self.repository().list_instances(&filter).await.map_err(Error::Store)?;
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(Error::InstanceNotFound { named: named.to_owned() }),
            (Some(one), Some(other)) => {
                let all = [one, other].into_iter().chain(found);
                let candidates = all.map(|one| one.id.to_string()).collect();
                Err(Error::InstanceAmbiguous { named: named.to_owned(), candidates })
            }
        }
    }

    pub(crate) async fn hosts(&self, caller: &Caller) -> Result<Vec<Host>, Error> {
        caller.may_read()?;
        self.every_host().await
    }

    pub(super) async fn every_host(&self) -> Result<Vec<Host>, Error> {
        let now = Timestamp::now();
        let hosts = self.repository().list_hosts().await.map_err(Error::Store)?;
        Ok(hosts.into_iter().map(|host: HostRecord| host.at(now)).collect())
    }
}
