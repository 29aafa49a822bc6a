//! What leads from one generation of a desired set to the next.

use std::collections::BTreeMap;

use eip_model::{Desired, DesiredSet, Generation, Mode};
use eip_store::ElasticIpRecord;
use rstest::rstest;

use crate::world::{Kind, World, host};

const HOSTS: [&str; 3] = ["hv1", "hv2", "hv3"];
/// They run on the hosts in turn.
const INSTANCES: [u128; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

const OFFSETS: [u32; 5] = [1, 2, 3, 4, 5];

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Every set that a host was ever told, and the newest generation that it has reported.
#[derive(Default)]
struct Told {
    sets: BTreeMap<Generation, DesiredSet>,
    reported: Generation,
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_lead_from_any_set_that_was_not_reported_over_to_the_newest(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
    #[values(1, 2, 3)] seed: u64,
) {
    let world = World::with_quarantine(kind, 0).await;
    let mut dice = Dice(seed);
    let mut gone = [false; HOSTS.len()];
    for at in 0..HOSTS.len() {
        run_on(&world, at, false).await;
    }
    let mut eips = Vec::new();
    for offset in OFFSETS {
        eips.push(world.hold(offset).await);
    }
    let mut told: BTreeMap<&str, Told> = HOSTS.map(|name| (name, Told::default())).into();
    for step in 0..120 {
        let at = dice.below(5);
        match dice.below(8) {
            0..3 => {
                let mode = [None, Some(Mode::Nat), Some(Mode::Alias)][dice.below(3)];
                move_if_it_may(&world, &eips[at], dice.below(9), mode).await;
            }
            3 => drop(world.part(&eips[at]).await),
            4 => {
                drop(world.part(&eips[at]).await);
                world.release(&eips[at]).await.unwrap();
                eips[at] = world.hold(OFFSETS[at]).await;
            }
            5 => {
                let at = dice.below(3);
                gone[at] = !gone[at];
                run_on(&world, at, gone[at]).await;
            }
            _ => {
                let name = HOSTS[dice.below(3)];
                let told = told.get_mut(name).unwrap();
                // Any of those that it was told: a report may have been on its way for long.
                let known: Vec<Generation> = told.sets.keys().copied().collect();
                if !known.is_empty() {
                    let generation = known[dice.below(known.len())];
                    world.applied(name, generation).await;
                    told.reported = told.reported.max(generation);
                }
            }
        }
        for (name, told) in &mut told {
            let newest = world.desired(name).await;
            for (since, set) in &told.sets {
                let changes = world.repo.desired_changes(&host(name), *since).await.unwrap();
                match changes {
                    Some(changes) => {
                        assert!(*since >= told.reported, "step {step}: {since} was reported over");
                        let known = Desired::new(set.clone()).unwrap();
                        let whole = Desired::new(newest.clone());
                        assert_eq!(known.with(&changes), whole, "step {step}, {name}");
                    }
                    None => assert!(*since < told.reported, "step {step}: {since} is not known"),
                }
            }
            let last = told.sets.insert(newest.generation, newest.clone());
            assert!(
                last.is_none_or(|last| last == newest),
                "step {step}: one generation, two sets"
            );
        }
    }
    let future = Generation::new(told["hv1"].sets.keys().last().unwrap().value() + 1);
    assert_eq!(world.repo.desired_changes(&host("hv1"), future).await.unwrap(), None);
    let whole: usize = told.values().map(|told| told.sets.len()).sum();
    assert!(whole > 30, "only {whole} sets: the test shows nothing");
}

/// Has a host report its instances, or all but one.
async fn run_on(world: &World, at: usize, but_one: bool) {
    let here = INSTANCES.into_iter().skip(at).step_by(HOSTS.len());
    let here: Vec<u128> = here.skip(usize::from(but_one)).collect();
    world.report(HOSTS[at], &here).await;
}

/// Moves it to an instance, which may be gone or have another one, or changes its mode there.
async fn move_if_it_may(world: &World, eip: &ElasticIpRecord, instance: usize, mode: Option<Mode>) {
    let command = eip_store::AssociateCommand {
        mode,
        allow_reassociation: true,
        ..crate::world::associate(eip_model::ElasticIpRef::Id(eip.id), INSTANCES[instance])
    };
    match world.repo.associate(&command).await {
        Ok(_) | Err(eip_store::StoreError::Refused(_)) => {}
        Err(error) => panic!("{error:?}"),
    }
}
