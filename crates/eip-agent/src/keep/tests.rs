use std::sync::Arc;

use super::*;
use eip_model::{Attachment, ClusterId, DesiredSet, ElasticIpId, InstanceId, LocalNetwork, Mode};
use uuid::Uuid;

/// So many elastic IPs, each moved this often.
fn desired(generation: u64, count: u8, moves: u128) -> Desired {
    let attachment = |last: u8| Attachment {
        public_ip: std::net::Ipv4Addr::new(100, 64, 0, last),
        elastic_ip_id: ElasticIpId::new(Uuid::from_u128(last.into())),
        instance_id: InstanceId::new(Uuid::from_u128(1000 * moves + u128::from(last))),
        mode: Mode::Nat,
        network: None,
    };
    Desired::new(DesiredSet {
        cluster_id: ClusterId::new(Uuid::from_u128(1)),
        host: "hv1".parse().unwrap(),
        generation: Generation::new(generation),
        replaces: None,
        ranges: vec!["100.64.0.0/10".parse().unwrap()],
        attachments: (0..count).map(attachment).collect(),
    })
    .unwrap()
}

fn listing(names: &[&str]) -> Listing {
    let report = |name: &&str| {
        let id = InstanceId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
        crate::instance::instance(id, Backend::Docker, (*name).to_owned())
    };
    let instances = names.iter().map(report).map(|one| (one.id, Arc::new(one))).collect();
    let networks = vec![LocalNetwork::new("docker0", "172.17.0.0/16".parse().unwrap())];
    Listing { instances, networks, ..Listing::default() }
}

fn to_keep(desired: Desired, names: &[&str]) -> ToKeep {
    ToKeep { desired, listings: BTreeMap::from([(Backend::Docker, listing(names))]) }
}

#[track_caller]
fn has(dir: &Path, wanted: &ToKeep, acknowledged: u64) {
    let keep = Keep::open(dir);
    assert_eq!(keep.desired().as_ref(), Some(&wanted.desired));
    assert_eq!(keep.listings(), wanted.listings);
    assert_eq!(keep.acknowledged(), Generation::new(acknowledged));
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let all = to_keep(desired(3, 2, 0), &["a"]);
    Keep::open(dir.path()).save(all.clone(), Generation::new(2));
    has(dir.path(), &all, 2);
}

#[test]
fn a_change_costs_a_line_and_a_history_of_them_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    keep.save(to_keep(desired(1, 200, 0), &["a", "b"]), Generation::new(1));
    let whole = fs::read(dir.path().join("agent.json")).unwrap();
    let steps: [(ToKeep, u64); 6] = [
        (to_keep(desired(2, 199, 0), &["a", "b"]), 1),
        (to_keep(desired(2, 199, 0), &["a", "b"]), 2),
        (to_keep(desired(3, 200, 0), &["b", "c"]), 2),
        (to_keep(desired(3, 200, 0), &[]), 3),
        (to_keep(desired(4, 3, 1), &["a"]), 3),
        (to_keep(desired(5, 0, 1), &["a"]), 5),
    ];
    for (at, (now, acknowledged)) in steps.into_iter().enumerate() {
        keep.save(now.clone(), Generation::new(acknowledged));
        has(dir.path(), &now, acknowledged);
        if at % 2 == 1 {
            // Whoever reads it goes on with it.
            keep = Keep::open(dir.path());
        }
    }
    assert_eq!(fs::read(dir.path().join("agent.json")).unwrap(), whole);
}

#[test]
fn a_log_that_has_grown_to_the_size_of_the_whole_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    let length = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
    let (mut before, mut begun) = (0, 0);
    for generation in 1..=40 {
        let now = to_keep(desired(generation, 200, generation.into()), &["a"]);
        keep.save(now.clone(), Generation::new(generation));
        begun += usize::from(length("agent.log") < before);
        before = length("agent.log");
        assert!(before < 2 * SMALL, "it does not grow for ever: {before}");
        has(dir.path(), &now, generation);
    }
    assert!((1..20).contains(&begun), "it begins again now and then, not each time: {begun}");
}

#[test]
fn another_record_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    keep.save(to_keep(desired(7, 3, 0), &["a"]), Generation::new(7));
    let mut other = desired(1, 2, 0);
    other.cluster_id = ClusterId::new(Uuid::from_u128(2));
    other.replaces = Some(ClusterId::new(Uuid::from_u128(1)));
    let other = to_keep(other, &["a"]);
    keep.save(other.clone(), Generation::default());
    has(dir.path(), &other, 0);
}

#[test]
fn a_damaged_file_is_set_aside_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    keep.save(to_keep(desired(3, 2, 0), &["a"]), Generation::new(2));
    keep.save(to_keep(desired(4, 3, 0), &["a"]), Generation::new(2));
    fs::write(dir.path().join("agent.json"), "{\"boot_id").unwrap();
    let mut keep = Keep::open(dir.path());
    assert_eq!(keep.desired(), None);
    assert!(dir.path().join("agent.damaged").exists());
    let now = to_keep(desired(9, 1, 0), &[]);
    keep.save(now.clone(), Generation::new(9));
    has(dir.path(), &now, 9);
}

#[test]
fn a_change_whose_line_was_cut_short_is_as_if_it_had_not_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    let before = to_keep(desired(3, 2, 0), &["a"]);
    keep.save(before.clone(), Generation::new(3));
    keep.save(to_keep(desired(4, 2, 1), &["a"]), Generation::new(3));
    let log = dir.path().join("agent.log");
    let text = fs::read(&log).unwrap();
    fs::write(&log, &text[..text.len() - 5]).unwrap();
    has(dir.path(), &before, 3);
}

#[test]
fn a_log_of_an_earlier_file_is_not_taken_for_the_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    keep.save(to_keep(desired(3, 2, 0), &["a"]), Generation::new(3));
    keep.save(to_keep(desired(4, 2, 1), &["a"]), Generation::new(3));
    let log = fs::read(dir.path().join("agent.log")).unwrap();
    // Killed between the two, when it writes all of it again.
    keep.log = None;
    let now = to_keep(desired(9, 2, 2), &["a"]);
    keep.save(now.clone(), Generation::new(9));
    fs::write(dir.path().join("agent.log"), log).unwrap();
    has(dir.path(), &now, 9);
}

#[test]
fn another_boot_forgets_where_instances_were_but_not_what_is_wished() {
    let dir = tempfile::tempdir().unwrap();
    let mut keep = Keep::open(dir.path());
    keep.kept.boot_id = "an earlier one".into();
    keep.save(to_keep(desired(3, 2, 0), &["a"]), Generation::new(2));
    keep.save(to_keep(desired(4, 3, 0), &["a", "b"]), Generation::new(2));
    let mut keep = Keep::open(dir.path());
    assert_eq!(keep.desired(), Some(desired(4, 3, 0)));
    assert!(keep.listings().is_empty());
    let now = to_keep(desired(5, 1, 0), &["c"]);
    keep.save(now.clone(), Generation::new(2));
    has(dir.path(), &now, 2);
}

#[test]
fn an_agent_that_knows_of_no_log_takes_nothing_from_the_file_and_its_own_file_is_taken() {
    /// What such an agent cannot do without.
    #[derive(Debug, serde::Deserialize)]
    struct Older {
        #[serde(rename = "boot_id")]
        _boot_id: String,
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.json");
    let mut keep = Keep::open(dir.path());
    keep.save(to_keep(desired(3, 2, 0), &["a"]), Generation::new(3));
    let text = fs::read_to_string(&path).unwrap();
    let older = serde_json::from_str::<Older>(&text).unwrap_err();
    assert!(older.to_string().contains("missing field `boot_id`"), "{older}");
    // Its file has no number, and what is left of the log is not taken for its own.
    keep.save(to_keep(desired(4, 2, 1), &["a"]), Generation::new(3));
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("serial").unwrap();
    let boot = fields.remove("boot").unwrap();
    fields.insert("boot_id".into(), boot);
    fs::write(&path, value.to_string()).unwrap();
    has(dir.path(), &to_keep(desired(3, 2, 0), &["a"]), 3);
}
