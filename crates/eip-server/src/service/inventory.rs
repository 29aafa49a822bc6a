//! Looking at instances and hosts.

use eip_model::{Host, HostName, Instance, InstanceRef};
use eip_store::{HostRecord, InstanceFilter, InstancePlace, Page};
use jiff::Timestamp;

use super::{Caller, Error, Service};

impl Service {
    pub(crate) async fn instances(
        &self,
        caller: &Caller,
        page: Page<InstancePlace>,
    ) -> Result<Vec<Instance>, Error> {
        let filter = InstanceFilter { scope: caller.may_read()?, named: None, page };
        self.repository().list_instances(&filter).await.map_err(Error::Store)
    }

    pub(crate) async fn instance(&self, caller: &Caller, named: &str) -> Result<Instance, Error> {
        let scope = caller.may_read()?;
        let named_so = Some(InstanceRef::parse(named));
        let filter = InstanceFilter { scope, named: named_so, page: Page::WHOLE };
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

    pub(crate) async fn hosts(
        &self,
        caller: &Caller,
        page: Page<HostName>,
    ) -> Result<Vec<Host>, Error> {
        caller.may_read()?;
        let hosts = self.every_host().await?;
        Ok(part(hosts, |host| &host.name, &page))
    }

    pub(super) async fn every_host(&self) -> Result<Vec<Host>, Error> {
        let now = Timestamp::now();
        let hosts = self.repository().list_hosts().await.map_err(Error::Store)?;
        Ok(hosts.into_iter().map(|host: HostRecord| host.at(now)).collect())
    }
}

/// Returns a page of a list that was read whole because it is short.
pub(super) fn part<T, P: Ord>(mut all: Vec<T>, place: impl Fn(&T) -> &P, page: &Page<P>) -> Vec<T> {
    // Not every database sorts as we do.
    all.sort_by(|one, other| place(one).cmp(place(other)));
    let begin = match &page.after {
        Some(after) => all.partition_point(|one| place(one) <= after),
        None => 0,
    };
    all.drain(..begin);
    all.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
    all
}
