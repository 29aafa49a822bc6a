//! Everything that a record answers, to be compared with what another one does.

use std::net::Ipv4Addr;
use std::sync::Arc;

use eip_model::{
    ClusterId, DesiredSet, ElasticIpId, Event, Generation, HostName, Instance, PoolConfig,
};
use eip_store::{
    ApiKeyRecord, ElasticIpFilter, ElasticIpRecord, HostRecord, InstanceFilter, Page, PoolCounts,
    PoolLoad, Repository, Scope,
};

use crate::world::list_all;

#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) cluster_id: ClusterId,
    pub(crate) pools: Vec<(PoolConfig, PoolLoad, PoolCounts)>,
    pub(crate) held: Vec<ElasticIpRecord>,
    pub(crate) in_use: Vec<Ipv4Addr>,
    pub(crate) events: Vec<Event>,
    /// Of everyone who ever held an address.
    pub(crate) stories: Vec<(ElasticIpId, Vec<Event>)>,
    pub(crate) last_event: u64,
    pub(crate) hosts: Vec<HostRecord>,
    pub(crate) desired: Vec<(HostName, DesiredSet, (Generation, Generation))>,
    pub(crate) instances: Vec<Instance>,
    /// Of the digests that hold one byte 32 times.
    pub(crate) keys: Vec<ApiKeyRecord>,
}

impl Whole {
    pub(crate) async fn of(repo: &Arc<dyn Repository>) -> Self {
        let mut pools = Vec::new();
        for pool in repo.pools().await.unwrap() {
            let load = repo.pool_load(&pool.name).await.unwrap();
            let counts = repo.pool_counts(&pool.name).await.unwrap();
            pools.push((pool, load, counts));
        }
        let mut in_use = repo.addresses_in_use().await.unwrap();
        in_use.sort();
        let events = repo.events_after(0, 1_000_000).await.unwrap();
        let mut ids: Vec<_> = events.iter().filter_map(|event| event.elastic_ip_id).collect();
        ids.sort();
        ids.dedup();
        let mut stories = Vec::new();
        for id in ids {
            stories.push((id, repo.events_of(id, &Scope::Everything, 0, 10_000).await.unwrap()));
        }
        let hosts = repo.list_hosts().await.unwrap();
        let mut desired = Vec::new();
        for host in &hosts {
            let set = repo.desired_set(&host.name).await.unwrap();
            desired.push((host.name.clone(), set, repo.generations(&host.name).await.unwrap()));
        }
        let everywhere =
            InstanceFilter { scope: Scope::Everything, named: None, page: Page::WHOLE };
        let mut keys = Vec::new();
        for byte in 0..=u8::MAX {
            keys.extend(repo.find_api_key(&[byte; 32]).await.unwrap());
        }
        Self {
            cluster_id: repo.cluster_id(),
            pools,
            held: held(repo).await,
            in_use,
            events,
            stories,
            last_event: repo.last_event().await.unwrap(),
            hosts,
            desired,
            instances: repo.list_instances(&everywhere).await.unwrap(),
            keys,
        }
    }

    /// Leaves out what happened behind this number.
    pub(crate) fn forget_events_after(&mut self, last: u64) {
        let then = |event: &Event| event.id.parse::<u64>().unwrap() <= last;
        self.events.retain(then);
        for (_, story) in &mut self.stories {
            story.retain(then);
        }
        self.stories.retain(|(_, story)| !story.is_empty());
        self.last_event = last;
    }

    /// The kinds of the events of an elastic IP, oldest first.
    pub(crate) fn told(&self, id: ElasticIpId) -> Vec<&'static str> {
        let story = self.stories.iter().find(|(of, _)| *of == id);
        story.unwrap().1.iter().map(|event| event.kind.as_str()).collect()
    }
}

async fn held(repo: &Arc<dyn Repository>) -> Vec<ElasticIpRecord> {
    let mut all: Vec<ElasticIpRecord> = Vec::new();
    loop {
        let last = all.last();
        let after = last.map(|one| eip_store::ListPlace {
            allocated_at: one.allocated_at,
            address: one.address,
        });
        let page = repo.list_elastic_ips(&ElasticIpFilter { after, ..list_all() }).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}
