//! What elastic IPs have carried.

use eip_model::{Counted, ElasticIpId, Volume};
use rstest::rstest;

use crate::world::{Kind, World, address, at, host, new_allocation, take};

fn counted(offset: u32, id: ElasticIpId, packets: u64) -> Counted {
    let volume =
        Volume { packets_in: packets, bytes_in: 100 * packets, packets_out: 1, bytes_out: 50 };
    Counted { public_ip: address(offset), elastic_ip_id: id, volume }
}

#[rstest]
#[tokio::test]
async fn totals_only_grow_whatever_becomes_of_the_counters(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::new(kind).await;
    world.report("hv1", &[1, 2]).await;
    world.report("hv2", &[11]).await;
    let one = take(&world.repo, &new_allocation(1, "default")).await.unwrap();
    let two = take(&world.repo, &new_allocation(2, "default")).await.unwrap();
    world.point(&one, 1).await;
    world.point(&two, 2).await;
    let repo = &world.repo;
    let told = async |offset, id| repo.traffic(address(offset), id).await.unwrap();
    assert_eq!(told(1, one.id).await, None);
    let (hv1, hv2) = (host("hv1"), host("hv2"));
    let report = [counted(1, one.id, 10), counted(2, two.id, 7), counted(9, one.id, 3)];
    for second in [20, 30] {
        repo.record_traffic(&hv1, &report, at(second)).await.unwrap();
    }
    let first = told(1, one.id).await.unwrap();
    assert_eq!(
        (first.volume, first.since, first.at),
        (report[0].volume, Some(at(20)), Some(at(30)))
    );
    assert_eq!(told(2, two.id).await.unwrap().volume.packets_in, 7);
    assert_eq!(told(9, one.id).await, None, "nobody holds it");
    // It goes on, and then begins anew.
    for (said, total) in [(25, 25), (4, 29), (6, 31)] {
        repo.record_traffic(&hv1, &[counted(1, one.id, said)], at(40)).await.unwrap();
        let now = told(1, one.id).await.unwrap().volume;
        assert_eq!((now.packets_in, now.bytes_in), (total, 100 * total));
    }
    // Not of a host on which it is not, nor of who held the address before, nor beyond all bounds.
    repo.record_traffic(&hv2, &[counted(1, one.id, 99)], at(50)).await.unwrap();
    repo.record_traffic(&hv1, &[counted(1, two.id, 99)], at(50)).await.unwrap();
    assert_eq!(told(1, one.id).await.unwrap().volume.packets_in, 31);
    for _ in 0..3 {
        for packets in [u64::MAX / 100, 0] {
            repo.record_traffic(&hv1, &[counted(1, one.id, packets)], at(60)).await.unwrap();
        }
    }
    assert!(told(1, one.id).await.unwrap().volume.packets_in > 1 << 56);
}

#[rstest]
#[tokio::test]
async fn a_new_holder_of_an_address_begins_at_zero_wherever_the_counter_of_the_host_is(
    #[values(Kind::Sqlite, Kind::Postgres, Kind::Bouncer)] kind: Kind,
) {
    let world = World::with_quarantine(kind, 0).await;
    world.report("hv1", &[1]).await;
    let hv1 = host("hv1");
    let first = world.hold(1).await;
    world.point(&first, 1).await;
    world.repo.record_traffic(&hv1, &[counted(1, first.id, 10)], at(20)).await.unwrap();
    world.part(&first).await.unwrap();
    world.release(&first).await.unwrap();
    let second = world.hold(1).await;
    world.point(&second, 1).await;
    for (said, total) in [(15, 0), (18, 3)] {
        world.repo.record_traffic(&hv1, &[counted(1, second.id, said)], at(40)).await.unwrap();
        let now = world.repo.traffic(address(1), second.id).await.unwrap().unwrap().volume;
        assert_eq!(now.packets_in, total);
    }
}
