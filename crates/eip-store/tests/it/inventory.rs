//! What hosts say of their instances.

use std::net::Ipv4Addr;

use eip_model::{
    AddressSource, Backend, BackendInventory, BackendListing, InstanceRef, InstanceReport,
    InstanceState, Unusable,
};
use eip_store::{InstanceFilter, Page, Scope};
use rstest::rstest;

use crate::raw::ask;
use crate::world::{
    Kind, World, address, at, docker, host, instance, instance_id, project, scope, whole,
};

fn all() -> InstanceFilter {
    InstanceFilter { scope: Scope::Everything, named: None, page: Page::WHOLE }
}

fn silent() -> BackendInventory {
    let reason = "timed out".to_owned();
    BackendInventory { backend: Backend::Docker, listing: BackendListing::Unreachable { reason } }
}

#[rstest]
#[tokio::test]
async fn a_removed_instance_loses_its_association_and_the_hold_stays(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2, 3]).await;
    let (first, second) = (world.hold(1).await, world.hold(2).await);
    world.point(&first, 1).await;
    let last = world.point(&second, 2).await;
    let outcome = world.report("hv1", &[3]).await;
    assert_eq!(outcome.ended, [address(1), address(2)]);
    assert!(outcome.refused.is_empty());
    assert!(world.wanted("hv1").await.is_empty());
    assert_eq!(world.generation("hv1").await.value(), last.generation.value() + 1);
    for eip in [&first, &second] {
        let shown = world.show(eip).await;
        assert_eq!(shown.association, None);
        assert_eq!(shown.revision, 3);
        assert_eq!(world.told(eip).await, ["allocated", "associated", "instance_removed"]);
    }
    let events = world.repo.events_of(first.id, &scope("default"), 0, 10_000).await.unwrap();
    let event = events.last().unwrap();
    assert_eq!(event.actor, "agent:hv1");
    assert_eq!(event.instance_id, Some(instance_id(1)));
    assert_eq!(event.instance_name.as_deref(), Some("web-1"));
    // It may come back, and be pointed at again.
    world.report("hv1", &[1, 3]).await;
    world.point(&first, 1).await;
    assert_eq!(world.wanted("hv1").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn a_removed_instance_fences_the_next_host_of_its_address(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    world.report("hv1", &[]).await;
    world.point(&eip, 2).await;
    assert!(world.wanted("hv2").await.is_empty());
    let old = world.generation("hv1").await;
    assert_eq!(world.applied("hv1", old).await, [host("hv2")]);
}

#[rstest]
#[tokio::test]
async fn what_a_silent_backend_had_stays(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let libvirt = BackendListing::Listed {
        instances: vec![InstanceReport { name: "vm".into(), ..instance(2) }],
    };
    let libvirt = BackendInventory { backend: Backend::Libvirt, listing: libvirt };
    let outcome = world.report_backends("hv1", &[silent(), libvirt]).await;
    assert!(outcome.ended.is_empty());
    let names: Vec<_> = world.repo.list_instances(&all()).await.unwrap();
    let names: Vec<_> = names.iter().map(|one| (one.backend, one.name.as_str())).collect();
    assert_eq!(names, [(Backend::Docker, "web-1"), (Backend::Libvirt, "vm")]);
    assert_eq!(world.generation("hv1").await, wish.generation);
    let hosts = world.repo.list_hosts().await.unwrap();
    let backends = &hosts[0].backends;
    assert_eq!((backends[0].reachable, backends[1].reachable), (false, true));
    assert_eq!(backends[0].reason.as_deref(), Some("timed out"));
}

#[rstest]
#[tokio::test]
async fn an_instance_that_another_host_has_is_left_out(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let outcome = world.report("hv2", &[1, 2]).await;
    assert_eq!(outcome.refused, [instance_id(1)]);
    let hosts: Vec<_> = world.repo.list_instances(&all()).await.unwrap();
    let hosts: Vec<_> = hosts.iter().map(|one| (one.id, one.host.as_str())).collect();
    assert_eq!(hosts, [(instance_id(1), "hv1"), (instance_id(2), "hv2")]);
    // The thief leaving does not end the association either.
    assert!(world.report("hv2", &[]).await.ended.is_empty());
    assert_eq!(world.wanted("hv1").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn a_changed_private_address_is_followed_without_a_new_generation(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    let eip = world.hold(1).await;
    let wish = world.point(&eip, 1).await;
    let elsewhere = Some(Ipv4Addr::new(172, 17, 0, 200));
    let moved = InstanceReport { private_ip: elsewhere, ..instance(1) };
    world.report_backends("hv1", &[docker(vec![moved])]).await;
    assert_eq!(world.show(&eip).await.association.unwrap().private_ip, elsewhere);
    assert_eq!(world.generation("hv1").await, wish.generation);
}

#[rstest]
#[tokio::test]
async fn an_instance_that_has_not_changed_keeps_its_time(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let (repo, owner) = (&world.repo, project("default"));
    let report = async |instances: Vec<InstanceReport>, second| {
        repo.record_inventory(&host("hv1"), &owner, &whole(&[docker(instances)]), at(second))
            .await
            .unwrap()
    };
    let times = async || {
        let found = repo.list_instances(&all()).await.unwrap();
        found.iter().map(|one| one.updated_at).collect::<Vec<_>>()
    };
    report(vec![instance(1), instance(2)], 1).await;
    let stopped = InstanceReport { state: InstanceState::Stopped, ..instance(2) };
    report(vec![instance(1), stopped.clone()], 2).await;
    assert_eq!(times().await, [at(1), at(2)]);
    report(vec![instance(1), stopped], 3).await;
    assert_eq!(times().await, [at(1), at(2)]);
    assert_eq!(repo.list_hosts().await.unwrap()[0].last_seen_at, at(3));
}

#[rstest]
#[tokio::test]
async fn an_instance_says_whether_it_can_take_an_elastic_ip_and_why_not(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let on_host = InstanceReport { unusable: Some(Unusable::HostNetwork), ..instance(2) };
    let stopped = InstanceReport { state: InstanceState::Stopped, ..instance(3) };
    world.report_backends("hv1", &[docker(vec![instance(1), on_host, stopped, instance(4)])]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 4).await;
    let found = world.repo.list_instances(&all()).await.unwrap();
    let told: Vec<_> = found.iter().map(|one| (one.eligible, one.reason.as_deref())).collect();
    assert_eq!(
        told,
        [
            (true, None),
            (false, Some("it shares the network of its host")),
            (false, Some("it is stopped")),
            (false, Some("it has elastic IP 100.64.0.1")),
        ]
    );
    assert_eq!(found[3].public_ip, Some(address(1)));
}

#[rstest]
#[tokio::test]
async fn how_an_address_is_known_and_every_reason_why_not_is_kept_and_told(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let sources = || AddressSource::ALL.into_iter().map(Some).chain([None]);
    let known = sources().map(|source| InstanceReport { address_source: source, ..instance(0) });
    let unusable =
        Unusable::ALL.into_iter().map(|why| InstanceReport { unusable: Some(why), ..instance(0) });
    let numbered = (1..).zip(known.chain(unusable));
    let all: Vec<_> =
        numbered.map(|(n, one)| InstanceReport { id: instance_id(n), ..one }).collect();
    world.report_backends("hv1", &[docker(all.clone())]).await;
    let found = world.repo.list_instances(&self::all()).await.unwrap();
    let mut told: Vec<_> =
        found.iter().map(|one| (one.id, one.address_source, one.reason.clone())).collect();
    told.sort();
    let expected = all.iter().map(|one| {
        let reason = one.unusable.map(|why| why.sentence().to_owned());
        (one.id, one.address_source, reason)
    });
    assert_eq!(told, expected.collect::<Vec<_>>());
    let guesses = found.iter().filter(|one| one.address_is_guess);
    let guesses: Vec<_> = guesses.map(|one| one.address_source).collect();
    assert_eq!(guesses, [Some(AddressSource::Neighbour)]);
}

#[rstest]
#[tokio::test]
async fn instances_are_found_by_every_way_of_naming_them_in_their_project_only(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    let theirs =
        InstanceReport { project: Some(project("other")), name: "web-1".into(), ..instance(2) };
    let vm = InstanceReport { name: "web-1".into(), ..instance(3) };
    let libvirt = BackendInventory {
        backend: Backend::Libvirt,
        listing: BackendListing::Listed { instances: vec![vm] },
    };
    world.report_backends("hv1", &[docker(vec![instance(1), theirs]), libvirt]).await;
    let find = async |scope: Scope, text: &str| {
        let named = Some(InstanceRef::parse(text));
        let found = world
            .repo
            .list_instances(&InstanceFilter { scope, named, page: Page::WHOLE })
            .await
            .unwrap();
        let mut ids: Vec<_> = found.iter().map(|one| one.id).collect();
        ids.sort();
        ids
    };
    let [one, two, three] = [1, 2, 3].map(instance_id);
    assert_eq!(find(Scope::Everything, "web-1").await, [one, two, three]);
    assert_eq!(find(scope("default"), "web-1").await, [one, three]);
    assert_eq!(find(scope("default"), "libvirt:web-1").await, [three]);
    assert_eq!(find(scope("default"), &one.to_string()).await, [one]);
    assert!(find(scope("default"), &two.to_string()).await.is_empty());
    assert!(find(scope("default"), "nothing").await.is_empty());
}

#[rstest]
#[tokio::test]
async fn a_thousand_instances_appear_and_disappear_at_once(
    #[values(Kind::Sqlite, Kind::Postgres)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv2", &[7, 500]).await;
    let outcome = world.report("hv1", &(1..=1_000).collect::<Vec<_>>()).await;
    assert_eq!(outcome.refused, [instance_id(7), instance_id(500)]);
    for n in 1..=3 {
        let eip = world.hold(n).await;
        world.point(&eip, u128::from(n) * 300).await;
    }
    let count =
        "SELECT host, count(*), count(DISTINCT name) FROM instance GROUP BY host ORDER BY 1";
    let there = ask(&world.url, count).await;
    assert_eq!(there, [["hv1", "998", "998"], ["hv2", "2", "2"]]);
    let outcome = world.report("hv1", &[900, 1_001]).await;
    assert_eq!(outcome.ended, [address(1), address(2)]);
    assert_eq!(ask(&world.url, count).await, [["hv1", "2", "2"], ["hv2", "2", "2"]]);
    assert_eq!(world.wanted("hv1").await, [address(3)]);
}
