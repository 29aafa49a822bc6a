//! Associate, disassociate, release, and looking at what there is.

use std::net::Ipv4Addr;
use std::time::Duration;

use eip_model::{
    AssociateRequest, DataPlaneState, DisassociateRequest, ElasticIp, ElasticIpPage, ElasticIpRef,
    ElasticIpStatus, Event, InstanceId, InstanceRef, Label, PoolName, Traffic, UpdateRequest,
    Volume,
};
use eip_store::{
    AssociateCommand, DisassociateCommand, ElasticIpFilter, ElasticIpRecord, ListPlace,
    NetworkWish, ReleaseCommand, Scope, Settled, Terms, UpdateCommand, Wish,
};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::info;

use super::error::About;
use super::signals::Waiting;
use super::terms::{Asked, Done, kept};
use super::{Caller, Error, Service};

/// How long a change waits for the host when the caller does not say, in seconds.
const WAIT_SECONDS: i64 = 5;
/// How long it may wait at most, in seconds.
const LONGEST_WAIT_SECONDS: i64 = 60;
/// The longest name of a network, in characters.
const LONGEST_NETWORK: usize = 255;
/// How long an instance may take to be reported as running, after whoever started it believes so.
const GRACE: Duration = Duration::from_millis(500);
/// How often a waiter looks by itself: another server may have taken the host's report.
pub(super) const SLOW_POLL: Duration = Duration::from_millis(250);

/// Which elastic IPs a caller wants to see.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListQuery {
    pub(crate) status: Option<ElasticIpStatus>,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) public_ip: Option<Ipv4Addr>,
    pub(crate) name: Option<Label>,
    pub(crate) pool: Option<PoolName>,
    pub(crate) tag: Option<(String, String)>,
    pub(crate) after: Option<ListPlace>,
    pub(crate) limit: u32,
}

impl Service {
    /// Points an elastic IP at an instance, and waits until its host has made it true.
    pub(crate) async fn associate(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        request: AssociateRequest,
        asked: &Asked,
    ) -> Result<Done<ElasticIp>, Error> {
        let wait = wait_for(request.wait_seconds)?;
        let scope = caller.may_write()?;
        let terms = asked.terms(caller, &("associate", target.to_string(), &request));
        let settled = self.wish(caller, target, &request, &terms).await?;
        self.answered(settled, target, &scope, wait, asked, &terms).await
    }

    /// Waits until a change is true, and returns what is true then; of one that was made before, what
    /// was answered then.
    async fn answered(
        &self,
        settled: Settled<Wish>,
        target: ElasticIpRef,
        scope: &Scope,
        wait: Duration,
        asked: &Asked,
        terms: &Terms,
    ) -> Result<Done<ElasticIp>, Error> {
        if let Some(body) = settled.body {
            return Ok(asked.done(kept(body)?, true));
        }
        let wait = if asked.dry_run { Duration::ZERO } else { wait };
        let answer = self.settled(settled.answer, target, scope, wait).await?;
        self.note(terms, &answer).await;
        Ok(asked.done(answer, settled.repeated))
    }

    /// Records that an elastic IP is to reach an instance, and wakes the hosts concerned.
    pub(super) async fn wish(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        request: &AssociateRequest,
        terms: &Terms,
    ) -> Result<Settled<Wish>, Error> {
        let command = association(caller, target, request)?;
        let named = command.instance.clone();
        let command = || AssociateCommand { now: Timestamp::now(), ..command.clone() };
        let settled = self.associate_when_seen(&named, terms, command).await?;
        if !terms.rehearse && !settled.repeated {
            self.tell_of(caller, &named, &settled.answer);
        }
        Ok(settled)
    }

    /// Says that an association has been made, if it was, and wakes the hosts concerned.
    pub(super) fn tell_of(&self, caller: &Caller, named: &InstanceRef, wish: &Wish) {
        if wish.changed {
            info!(
                elastic_ip.id = %wish.elastic_ip, instance = %named, host = %wish.host,
                generation = %wish.generation, key.id = %caller.key, "Associated"
            );
        }
        self.wake(wish);
    }

    /// Associates, giving an instance that was started a moment ago the time to be reported.
    async fn associate_when_seen(
        &self,
        named: &InstanceRef,
        terms: &Terms,
        command: impl Fn() -> AssociateCommand,
    ) -> Result<Settled<Wish>, Error> {
        let inventories = self.signals.watch_inventory();
        let mut waiting = Waiting::until(Instant::now() + GRACE, inventories, SLOW_POLL);
        loop {
            let command = command();
            let error = match self.repository().associate_under(terms, &command).await {
                Ok(settled) => return Ok(settled),
                Err(error) => About { target: &command.target, named }.explain(error),
            };
            if !error.is_of_the_instance() || !waiting.again().await {
                return Err(error);
            }
        }
    }

    /// Ends an association, and waits until the host has let go of the address.
    pub(crate) async fn disassociate(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        request: DisassociateRequest,
        asked: &Asked,
    ) -> Result<Done<ElasticIp>, Error> {
        let scope = caller.may_write()?;
        let wait = wait_for(request.wait_seconds)?;
        let command = DisassociateCommand {
            target,
            scope: scope.clone(),
            actor: caller.actor(),
            now: Timestamp::now(),
        };
        let about = About { target: &target, named: &"" };
        let terms = asked.terms(caller, &("disassociate", target.to_string(), &request));
        let settled = self.repository().disassociate_under(&terms, &command).await;
        let settled = settled.map_err(|error| about.explain(error))?;
        if !settled.repeated && !asked.dry_run {
            let wish = &settled.answer;
            info!(
                elastic_ip.id = %wish.elastic_ip, host = %wish.host, generation = %wish.generation,
                key.id = %caller.key, "Disassociated"
            );
            self.wake(wish);
        }
        self.answered(settled, target, &scope, wait, asked, &terms).await
    }

    /// Ends the hold on an address and starts its quarantine.
    pub(crate) async fn release(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        asked: &Asked,
    ) -> Result<Done<()>, Error> {
        let scope = caller.may_write()?;
        let terms = asked.unkeyed();
        let command =
            ReleaseCommand { target, scope, actor: caller.actor(), now: Timestamp::now() };
        let about = About { target: &target, named: &"" };
        let released = self.repository().release_under(&terms, &command).await;
        let released = released.map_err(|error| about.explain(error))?;
        if !asked.dry_run {
            if released.free_at <= command.now {
                self.allocator.give_back(released.address);
            }
            info!(elastic_ip = %target, key.id = %caller.key, "Released");
        }
        Ok(asked.done((), false))
    }

    /// Changes what people call an elastic IP.
    pub(crate) async fn update(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        request: UpdateRequest,
        asked: &Asked,
    ) -> Result<Done<ElasticIp>, Error> {
        let scope = caller.may_write()?;
        let name = request.name.clone().flatten().map(String::from).unwrap_or_default();
        let command = UpdateCommand {
            target,
            scope,
            name: request.name,
            tags: request.tags,
            protected: request.protected,
            actor: caller.actor(),
            now: Timestamp::now(),
        };
        let about = About { target: &target, named: &name };
        let terms = asked.unkeyed();
        let record = self.repository().update_under(&terms, &command).await;
        let record = record.map_err(|error| about.explain(error))?;
        Ok(asked.done(record.at(Timestamp::now()), false))
    }

    pub(crate) async fn show(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
    ) -> Result<ElasticIp, Error> {
        let record = self.find(target, &caller.may_read()?).await?;
        Ok(record.at(Timestamp::now()))
    }

    /// Returns what the elastic IP has carried; nothing, and no times, while no host has told of it.
    pub(crate) async fn traffic(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
    ) -> Result<Traffic, Error> {
        let record = self.find(target, &caller.may_read()?).await?;
        let told = self.repository().traffic(record.address, record.id).await;
        let nothing = Traffic { volume: Volume::default(), since: None, at: None };
        Ok(told.map_err(Error::Store)?.unwrap_or(nothing))
    }

    /// Returns a page; the caller makes `next_cursor` of the last address when the page is full.
    pub(crate) async fn list(
        &self,
        caller: &Caller,
        query: ListQuery,
    ) -> Result<ElasticIpPage, Error> {
        let filter = ElasticIpFilter {
            scope: caller.may_read()?,
            status: query.status,
            instance_id: query.instance_id,
            public_ip: query.public_ip,
            name: query.name,
            pool: query.pool,
            tag: query.tag,
            after: query.after,
            limit: query.limit,
        };
        let records = self.repository().list_elastic_ips(&filter).await.map_err(Error::Store)?;
        let now = Timestamp::now();
        let items = records.into_iter().map(|record| record.at(now)).collect();
        Ok(ElasticIpPage { items, next_cursor: None })
    }

    pub(crate) async fn events_of(
        &self,
        caller: &Caller,
        target: ElasticIpRef,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let scope = caller.may_read()?;
        let id = match target {
            ElasticIpRef::Id(id) => id,
            ElasticIpRef::Address(_) => self.find(target, &scope).await?.id,
        };
        let look = async |after, limit| {
            self.repository().events_of(id, &scope, after, limit).await.map_err(Error::Store)
        };
        let events = look(after, limit).await?;
        // Every one that there ever was has a first event.
        if events.is_empty() && (after == 0 || look(0, 1).await?.is_empty()) {
            return Err(Error::ElasticIpNotFound { target: target.to_string() });
        }
        Ok(events)
    }

    async fn find(&self, target: ElasticIpRef, scope: &Scope) -> Result<ElasticIpRecord, Error> {
        let found = self.repository().find_elastic_ip(target, scope).await;
        let not_found = || Error::ElasticIpNotFound { target: target.to_string() };
        found.map_err(Error::Store)?.ok_or_else(not_found)
    }

    fn wake(&self, wish: &Wish) {
        if wish.changed {
            self.signals.desired_changed(&wish.host);
            if let Some(previous) = &wish.previous_host {
                self.signals.desired_changed(previous);
            }
        }
    }

    /// Waits until the data plane's state is not `pending` any more or the time is up, and returns
    /// what is true then.
    pub(super) async fn settled(
        &self,
        wish: Wish,
        target: ElasticIpRef,
        scope: &Scope,
        wait: Duration,
    ) -> Result<ElasticIp, Error> {
        let reports = self.signals.watch_observed(&wish.host);
        let mut waiting = Waiting::until(Instant::now() + wait, reports, SLOW_POLL);
        let mut recorded = wish.record;
        loop {
            let record = match recorded.take() {
                Some(record) => record,
                None => self.find(target, scope).await?,
            };
            let now = record.at(Timestamp::now());
            if now.data_plane.state != DataPlaneState::Pending || !waiting.again().await {
                return Ok(now);
            }
        }
    }
}

/// Returns what a request to associate asks of the record.
pub(super) fn association(
    caller: &Caller,
    target: ElasticIpRef,
    request: &AssociateRequest,
) -> Result<AssociateCommand, Error> {
    let scope = caller.may_write()?;
    if let Some(Some(network)) = &request.network
        && !(1..=LONGEST_NETWORK).contains(&network.chars().count())
    {
        let detail = format!("network has 1 to {LONGEST_NETWORK} characters");
        let hint = "leave it out for the one that it has, or send null for the instance's first \
                    choice; GET /instances lists them";
        return Err(Error::invalid(detail, hint));
    }
    // No database could be asked for it.
    let texts = [Some(&request.instance_id), request.network.as_ref().and_then(Option::as_ref)];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        let hint = "GET /instances lists instances and their networks";
        return Err(Error::invalid("nothing is called by a text with a NUL in it", hint));
    }
    Ok(AssociateCommand {
        target,
        scope,
        instance: InstanceRef::parse(&request.instance_id),
        allow_reassociation: request.allow_reassociation,
        mode: request.mode,
        network: match &request.network {
            None => NetworkWish::AsItIs,
            Some(None) => NetworkWish::FirstChoice,
            Some(Some(name)) => NetworkWish::Named(name.clone()),
        },
        actor: caller.actor(),
        now: Timestamp::now(),
    })
}

pub(super) fn wait_for(seconds: Option<i64>) -> Result<Duration, Error> {
    let seconds = seconds.unwrap_or(WAIT_SECONDS);
    if !(0..=LONGEST_WAIT_SECONDS).contains(&seconds) {
        let detail = format!("wait_seconds is 0 to {LONGEST_WAIT_SECONDS}, not {seconds}");
        return Err(Error::invalid(detail, "ask again later instead of waiting longer"));
    }
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}
