//! Associating many elastic IPs at once.

use std::collections::BTreeMap;
use std::time::Duration;

use eip_model::{
    AssociateManyRequest, AssociateOne, AssociateRequest, ElasticIp, ElasticIpRef, Generation,
    HostName, MOST_AT_ONCE,
};
use eip_store::{AssociateCommand, Scope, Settled, StoreError, Terms, Wish};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::elastic_ips::{SLOW_POLL, association, wait_for};
use super::error::About;
use super::signals::Waiting;
use super::terms::{Asked, Done, fingerprint, kept};
use super::{Caller, Error, Service};

/// One of many, as it is asked for.
#[derive(Debug)]
struct Item {
    target: ElasticIpRef,
    request: AssociateRequest,
    terms: Terms,
}

/// What became of one that was settled with others.
type First = (AssociateCommand, Result<Wish, StoreError>);

type Wished = Result<(ElasticIpRef, Settled<Wish>, Terms), Error>;

impl Service {
    /// Associates many, each for itself: what stands in the way of one does not keep the others from
    /// it. They are settled together, and the hosts are waited for once.
    pub(crate) async fn associate_many(
        &self,
        caller: &Caller,
        request: AssociateManyRequest,
        asked: &Asked,
    ) -> Result<Done<Vec<Result<ElasticIp, Error>>>, Error> {
        let scope = caller.may_write()?;
        let what = fingerprint(&("associate", &request));
        let AssociateManyRequest { associations, allow_reassociation, wait_seconds } = request;
        let deadline = Instant::now() + wait_for(wait_seconds)?;
        if !(1..=MOST_AT_ONCE).contains(&associations.len()) {
            let detail =
                format!("associations are 1 to {MOST_AT_ONCE}, not {}", associations.len());
            return Err(Error::invalid(detail, "send them in several requests"));
        }
        let count = associations.len();
        let item = |(at, one): (usize, AssociateOne)| {
            let AssociateOne { elastic_ip, instance_id, mode, network } = one;
            let target = Error::or_reference(&elastic_ip)?;
            let request =
                AssociateRequest { instance_id, allow_reassociation, mode, network, wait_seconds };
            let terms = asked.of_many(at).terms(caller, &what);
            Ok(Item { target, request, terms })
        };
        let items = associations.into_iter().enumerate().map(item).collect();
        let wishes = self.wish_all(caller, items).await;
        let conflicts = |one: &Wished| matches!(one, Err(Error::IdempotencyConflict));
        if wishes.iter().any(conflicts) {
            return Err(Error::IdempotencyConflict);
        }
        let repeated = wishes.iter().flatten().filter(|(_, wish, _)| wish.repeated).count();
        let mut hosts: BTreeMap<&HostName, Generation> = BTreeMap::new();
        for (_, wish, _) in wishes.iter().flatten().filter(|_| !asked.dry_run) {
            let wish = &wish.answer;
            let newest = hosts.entry(&wish.host).or_default();
            *newest = wish.generation.max(*newest);
        }
        let reported = |(host, newest)| self.reported(host, newest, deadline);
        join_all(hosts.into_iter().map(reported)).await;
        let outcome = |wished| self.outcome(wished, &scope, deadline, asked);
        let all = join_all(wishes.into_iter().map(outcome)).await;
        Ok(asked.done(all, repeated == count))
    }

    /// Records all of them: those that come without terms together, so that their hosts hear of them at
    /// once. One whose instance is not known yet is given its time, as are the others.
    async fn wish_all(&self, caller: &Caller, items: Vec<Result<Item, Error>>) -> Vec<Wished> {
        let command = |item: &Result<Item, Error>| {
            let item = item.as_ref().ok().filter(|item| item.terms.is_none())?;
            association(caller, item.target, &item.request).ok()
        };
        let commands: Vec<Option<AssociateCommand>> = items.iter().map(command).collect();
        let together: Vec<AssociateCommand> = commands.iter().flatten().cloned().collect();
        let mut settled = self.repository().associate_all(&together).await.into_iter();
        let firsts: Vec<_> = commands
            .into_iter()
            .map(|command| command.and_then(|command| Some((command, settled.next()?))))
            .collect();
        let wish = |(item, first): (Result<Item, Error>, Option<First>)| async move {
            let Item { target, request, terms } = item?;
            if let Some((command, outcome)) = first {
                let named = &command.instance;
                match outcome.map_err(|error| About { target: &target, named }.explain(error)) {
                    Ok(wish) => {
                        self.tell_of(caller, named, &wish);
                        return Ok((target, Settled::first(wish), terms));
                    }
                    Err(error) if !error.is_of_the_instance() => return Err(error),
                    Err(_) => {}
                }
            }
            Ok((target, self.wish(caller, target, &request, &terms).await?, terms))
        };
        join_all(items.into_iter().zip(firsts).map(wish)).await
    }

    /// Says what is true now, or once another host has let go of the address.
    async fn outcome(
        &self,
        wished: Wished,
        scope: &Scope,
        deadline: Instant,
        asked: &Asked,
    ) -> Result<ElasticIp, Error> {
        let (target, settled, terms) = wished?;
        if asked.dry_run {
            let now = Duration::ZERO;
            return self.settled(settled.answer, target, scope, now).await;
        }
        if let Some(body) = settled.body {
            return kept(body);
        }
        // What was recorded was true before the host reported.
        let wish = Wish { record: None, ..settled.answer };
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = self.settled(wish, target, scope, left).await?;
        self.note(&terms, &answer).await;
        Ok(answer)
    }

    /// Waits until a host has reported a generation, or the deadline has passed. So has it for the
    /// waiting when the record does not answer: what was recorded is, and each is asked for next.
    async fn reported(&self, host: &HostName, wanted: Generation, deadline: Instant) {
        let mut waiting = Waiting::until(deadline, self.signals.watch_observed(host), SLOW_POLL);
        loop {
            let Ok((_, observed)) = self.repository().generations(host).await else { return };
            if observed >= wanted || !waiting.again().await {
                return;
            }
        }
    }
}
