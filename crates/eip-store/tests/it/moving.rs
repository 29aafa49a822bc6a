//! Moves that PostgreSQL settles in one statement, as it does most.

use eip_model::{AttachmentProblem, ElasticIpRef, ProblemKind};
use eip_store::{AssociateCommand, ElasticIpRecord, Refusal};

use crate::races::{at_once, split};
use crate::world::{Kind, World, associate, host, refusal};

/// Moves that are settled step by step end the one association and make another: with this they fail.
const ONE_STATEMENT: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''an association was ended''; END';
    CREATE TRIGGER not_step_by_step BEFORE DELETE ON association
        FOR EACH ROW EXECUTE FUNCTION refuse();";

fn move_of(eip: &ElasticIpRecord, instance: u128) -> AssociateCommand {
    AssociateCommand { allow_reassociation: true, ..associate(ElasticIpRef::Id(eip.id), instance) }
}

/// Runs them as one batch, or two, and returns how each went.
async fn all(
    world: &World,
    commands: impl Iterator<Item = AssociateCommand>,
) -> Vec<Result<eip_store::Wish, eip_store::StoreError>> {
    let calls = commands.map(|command| {
        let repo = world.repo.clone();
        async move { repo.associate(&command).await }
    });
    at_once(calls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_that_are_asked_for_together_are_one_change_of_the_host_and_each_is_told() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &(1..=800).collect::<Vec<_>>()).await;
    let mut held = Vec::new();
    for offset in 1..=400 {
        held.push(world.hold(offset).await);
    }
    let pairs = || held.iter().zip(1_u128..);
    let (won, lost) = split(all(&world, pairs().map(|(eip, n)| move_of(eip, n))).await);
    assert_eq!((won.len(), lost.len()), (400, 0));
    crate::raw::execute(&world.url, ONE_STATEMENT).await;
    let before = world.generation("hv1").await.value();
    let moves: Vec<_> = pairs().map(|(eip, n)| move_of(eip, n + 400)).collect();
    let (won, lost) = split(world.repo.associate_all(&moves).await);
    assert_eq!((won.len(), lost.len()), (400, 0));
    let after = world.generation("hv1").await.value();
    assert_eq!(after, before + 1, "the host hears of them at once");
    for wish in won {
        let record = wish.record.unwrap();
        assert_eq!(world.show(&record).await, record);
        assert_eq!((wish.changed, wish.previous_host), (true, None));
        assert_eq!(world.told(&record).await, ["allocated", "associated", "moved"]);
    }
    let desired = world.desired("hv1").await.attachments;
    let instances: Vec<_> = desired.iter().map(|one| one.instance_id.uuid().as_u128()).collect();
    assert_eq!(instances, (401..=800).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_move_to_another_host_in_one_statement_is_fenced_and_leaves_no_problem() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &[1]).await;
    world.report("hv2", &[2]).await;
    let eip = world.hold(1).await;
    let first = world.point(&eip, 1).await;
    let problem = AttachmentProblem {
        public_ip: eip.address,
        kind: ProblemKind::Failing,
        reason: "broken".into(),
    };
    world.applied_with("hv1", first.generation, &[problem]).await;
    assert!(world.show(&eip).await.association.unwrap().view.problem.is_some());
    crate::raw::execute(&world.url, ONE_STATEMENT).await;

    let moved = world.shift(&eip, 2).await;
    assert_eq!((&moved.host, &moved.previous_host), (&host("hv2"), &Some(host("hv1"))));
    let record = moved.record.clone().unwrap();
    assert_eq!(world.show(&eip).await, record);
    let view = record.association.unwrap().view;
    assert_eq!((view.fenced_by, view.applied_at, view.problem), (Some(host("hv1")), None, None));
    assert!(world.wanted("hv2").await.is_empty());
    let without = world.generation("hv1").await;
    assert_eq!(without.value(), first.generation.value() + 1);
    assert_eq!(world.applied("hv1", without).await, [host("hv2")]);
    assert_eq!(world.wanted("hv2").await, [eip.address]);
    assert_eq!(world.told(&eip).await, ["allocated", "associated", "moved"]);
}

#[tokio::test]
async fn what_may_not_be_moved_is_refused_as_it_is_step_by_step() {
    let world = World::new(Kind::Postgres).await;
    world.report("hv1", &[1, 2, 3]).await;
    let (one, two) = (world.hold(1).await, world.hold(2).await);
    world.point(&one, 1).await;
    let wish = world.point(&two, 2).await;
    let unasked = world.repo.associate(&associate(ElasticIpRef::Id(one.id), 3)).await;
    let taken = Refusal::AlreadyAssociated { instance_name: "web-1".into() };
    assert_eq!(refusal(unasked), taken);
    // Neither of two that would change places can begin.
    let swap = [move_of(&one, 2), move_of(&two, 1)];
    let (won, lost) = split(all(&world, swap.into_iter()).await);
    assert_eq!((won.len(), lost.len()), (0, 2));
    let has = |eip: &ElasticIpRecord| Refusal::InstanceHasElasticIp { public_ip: eip.address };
    assert!(lost.contains(&has(&one)) && lost.contains(&has(&two)), "{lost:?}");
    // Of two that want one instance, one gets it.
    let both = [move_of(&one, 3), move_of(&two, 3)];
    let (won, lost) = split(all(&world, both.into_iter()).await);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_eq!(world.generation("hv1").await.value(), wish.generation.value() + 1);
}
