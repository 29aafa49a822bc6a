//! Two hosts never have one address in their desired sets, and the new one waits for the old one.

use eip_model::{ElasticIpRef, Generation};
use eip_store::NewAllocation;
use rstest::rstest;

use crate::world::{Kind, World, address, associate, at, docker, host, new_allocation, take};

#[rstest]
#[tokio::test]
async fn a_move_to_another_host_waits_until_the_old_one_has_let_go(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    let first = world.point(&eip, 1).await;
    world.applied("hv1", first.generation).await;

    let moved = world.shift(&eip, 2).await;
    assert_eq!((&moved.host, &moved.previous_host), (&host("hv2"), &Some(host("hv1"))));
    assert!(world.wanted("hv1").await.is_empty());
    assert!(world.wanted("hv2").await.is_empty());
    let view = world.show(&eip).await.association.unwrap().view;
    assert_eq!(view.fenced_by, Some(host("hv1")));

    // Reports that say nothing of the generation without the address change nothing.
    assert!(world.applied("hv1", first.generation).await.is_empty());
    assert!(world.applied("hv2", moved.generation).await.is_empty());
    assert!(world.wanted("hv2").await.is_empty());
    assert_eq!(world.show(&eip).await.association.unwrap().view.applied_at, None);

    let old = world.generation("hv1").await;
    assert_eq!(world.applied("hv1", old).await, [host("hv2")]);
    assert_eq!(world.wanted("hv2").await, [address(1)]);
    let new = world.generation("hv2").await;
    assert!(new > moved.generation);
    let view = world.show(&eip).await.association.unwrap().view;
    assert_eq!((view.fenced_by, view.generation), (None, new));
    assert!(world.applied("hv1", old).await.is_empty());
    assert_eq!(world.generation("hv2").await, new);

    world.applied("hv2", new).await;
    assert_eq!(world.show(&eip).await.association.unwrap().view.applied_at, Some(at(15)));
}

#[rstest]
#[tokio::test]
async fn in_a_chain_of_moves_the_last_host_waits_for_the_one_that_had_the_address(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    for (name, n) in [("hv1", 1), ("hv2", 2), ("hv3", 3)] {
        world.report(name, &[n]).await;
    }
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let second = world.shift(&eip, 2).await;
    let third = world.shift(&eip, 3).await;
    assert_eq!(third.previous_host, Some(host("hv2")));
    // The one in the middle never had it: it lets nobody wait.
    let view = world.show(&eip).await.association.unwrap().view;
    assert_eq!(view.fenced_by, Some(host("hv1")));
    world.applied("hv2", second.generation).await;
    assert!(world.wanted("hv3").await.is_empty());
    let old = world.generation("hv1").await;
    assert_eq!(world.applied("hv1", old).await, [host("hv3")]);
    assert_eq!(world.wanted("hv3").await, [address(1)]);
    assert!(world.wanted("hv2").await.is_empty());
}

#[rstest]
#[tokio::test]
async fn moving_back_to_the_host_that_still_has_it_waits_for_nobody(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    world.shift(&eip, 2).await;
    let back = world.shift(&eip, 1).await;
    assert_eq!(world.wanted("hv1").await, [address(1)]);
    assert_eq!(world.show(&eip).await.association.unwrap().view.fenced_by, None);
    // And away again: the fence is the generation without it, not the one from before.
    world.shift(&eip, 2).await;
    assert!(world.applied("hv1", back.generation).await.is_empty());
    assert!(world.wanted("hv2").await.is_empty());
    let old = world.generation("hv1").await;
    assert_eq!(world.applied("hv1", old).await, [host("hv2")]);
}

#[rstest]
#[tokio::test]
async fn a_detour_over_disassociate_is_fenced_like_a_move(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let parted = world.part(&eip).await.unwrap();
    let wish = world.point(&eip, 2).await;
    assert_eq!(wish.previous_host, None);
    assert!(world.wanted("hv2").await.is_empty());
    assert_eq!(world.applied("hv1", parted.generation).await, [host("hv2")]);
    assert_eq!(world.wanted("hv2").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn disassociating_what_waits_leaves_no_fence_of_its_own(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    for (name, n) in [("hv1", 1), ("hv2", 2), ("hv3", 3)] {
        world.report(name, &[n]).await;
    }
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    world.shift(&eip, 2).await;
    let parted = world.part(&eip).await.unwrap();
    assert_eq!(parted.host, host("hv2"));
    let old = world.generation("hv1").await;
    assert!(world.applied("hv1", old).await.is_empty());
    // Nobody is waited for: hv2 has reported nothing, and never had it.
    world.point(&eip, 3).await;
    assert_eq!(world.wanted("hv3").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn the_next_holder_of_an_address_waits_for_the_host_of_the_last_one(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    let theirs = eip_model::InstanceReport {
        project: Some("other".parse().unwrap()),
        ..crate::world::instance(2)
    };
    world.report("hv1", &[1]).await;
    world.report_backends("hv2", &[docker(vec![theirs])]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    let parted = world.part(&eip).await.unwrap();
    world.release(&eip).await.unwrap();
    let new = NewAllocation { now: at(31), ..new_allocation(1, "other") };
    let next = take(&world.repo, &new).await.unwrap();
    let command = eip_store::AssociateCommand {
        scope: crate::world::scope("other"),
        ..associate(ElasticIpRef::Id(next.id), 2)
    };
    world.repo.associate(&command).await.unwrap();
    assert!(world.wanted("hv2").await.is_empty());
    assert_eq!(world.applied("hv1", parted.generation).await, [host("hv2")]);
    assert_eq!(world.wanted("hv2").await, [address(1)]);
}

#[rstest]
#[tokio::test]
async fn a_generation_that_the_record_never_reached_lifts_nothing(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    world.point(&eip, 1).await;
    world.shift(&eip, 2).await;
    for strange in [1_000, u64::MAX] {
        assert!(world.applied("hv1", Generation::new(strange)).await.is_empty());
        assert_eq!(world.repo.generations(&host("hv1")).await.unwrap().1, Generation::default());
    }
    assert!(world.wanted("hv2").await.is_empty());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_is_never_in_two_desired_sets_whatever_the_order(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = std::sync::Arc::new(World::new(kind).await);
    for (name, n) in [("hv1", 1), ("hv2", 2), ("hv3", 3)] {
        world.report(name, &[n]).await;
    }
    let eip = world.hold(1).await;
    let mut agents = Vec::new();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    // What each host has in force: written after the set was read, before it is reported.
    let carrying = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    for name in ["hv1", "hv2", "hv3"] {
        let (world, done, carrying) = (world.clone(), done.clone(), carrying.clone());
        agents.push(tokio::spawn(async move {
            let mut had = world.desired(name).await;
            loop {
                let last = done.load(std::sync::atomic::Ordering::SeqCst);
                let desired = world.desired(name).await;
                // An agent that sees the generation it knows does not look again.
                if desired.generation == had.generation {
                    assert_eq!(desired, had, "changed without a new generation");
                }
                {
                    let mut carrying = carrying.lock().unwrap();
                    if desired.attachments.is_empty() {
                        carrying.remove(name);
                    } else {
                        carrying.insert(name);
                        assert_eq!(carrying.len(), 1, "two hosts at once: {carrying:?}");
                    }
                }
                world.applied(name, desired.generation).await;
                had = desired;
                if last {
                    return;
                }
            }
        }));
    }
    for step in 0..60_u32 {
        if step % 7 == 6 {
            world.part(&eip).await.unwrap();
        } else {
            world.shift(&eip, u128::from(step * 5 % 3 + 1)).await;
        }
    }
    let last = world.shift(&eip, 3).await.host;
    assert_eq!(last, host("hv3"));
    eip_testkit::eventually_async(
        "the last host has the address",
        std::time::Duration::from_secs(10),
        async || {
            let view = world.show(&eip).await.association.unwrap().view;
            view.applied_at.map(|_| ())
        },
    )
    .await;
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    for agent in agents {
        agent.await.unwrap();
    }
    assert_eq!(*carrying.lock().unwrap(), std::collections::BTreeSet::from(["hv3"]));
}
