//! From what Docker says of its containers and networks to instances.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bollard::models::Network;
use eip_model::{
    Backend, InstanceId, InstanceInterface, InstanceReport, InstanceState, LocalNetwork, Mode,
    ProjectName, Unusable,
};
use serde::Deserialize;
use uuid::Uuid;

/// What is read of a container in Docker's list of them (`ContainerSummary` in its API); anything in it
/// may be missing or null. All else there is skipped, and text without escapes is not copied.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Summary<'t> {
    #[serde(borrow)]
    id: Option<Text<'t>>,
    names: Option<Vec<Text<'t>>>,
    /// In seconds since 1970.
    created: Option<i64>,
    state: Option<Text<'t>>,
    labels: Option<Labels<'t>>,
    host_config: Option<HostConfig<'t>>,
    network_settings: Option<NetworkSettings<'t>>,
}

/// A text that is borrowed also where it is a part of something else.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

#[derive(Debug, Default, Deserialize)]
struct Labels<'t> {
    /// Gives a container its UUID; without it the UUID follows from the container's id.
    #[serde(rename = "eip.instance-id", borrow)]
    id: Option<Text<'t>>,
    /// Says which project owns it.
    #[serde(rename = "eip.project")]
    project: Option<Text<'t>>,
    /// Says which of several networks an elastic IP leads to.
    #[serde(rename = "eip.network")]
    network: Option<Text<'t>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig<'t> {
    #[serde(borrow)]
    network_mode: Option<Text<'t>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings<'t> {
    /// By the name of the network, sorted: the engine's order is none.
    #[serde(borrow)]
    networks: Option<BTreeMap<Text<'t>, Endpoint<'t>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint<'t> {
    #[serde(rename = "IPAddress", borrow)]
    ip_address: Option<Text<'t>>,
    mac_address: Option<Text<'t>>,
}

/// A container, and what decides between two that claim one UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    /// As it is told.
    pub(super) report: Arc<InstanceReport>,
    created: i64,
}

impl Container {
    /// Returns it as it is told. `may_enter` says whether its network namespace can be changed from here.
    pub(super) fn told(mut self, may_enter: bool) -> Self {
        if may_enter && self.report.unusable.is_none() {
            Arc::make_mut(&mut self.report).modes = Mode::ALL.to_vec();
        }
        self
    }
}

/// Reads one container; one without an id is none.
pub(super) fn container(summary: Summary<'_>) -> Option<(Arc<str>, Container)> {
    let id: Arc<str> = summary.id?.0.into();
    let labels = summary.labels.unwrap_or_default();
    let names = summary.names.unwrap_or_default();
    // A name with a second slash is a link of the old kind: `/web/db`.
    let name =
        names.iter().map(|name| name.0.trim_start_matches('/')).find(|name| !name.contains('/'));
    let state = summary.state.map_or(InstanceState::Stopped, |state| state_of(&state.0));
    let mode = summary.host_config.and_then(|config| config.network_mode).unwrap_or_default();
    let networks = summary.network_settings.and_then(|one| one.networks).unwrap_or_default();
    let interface = |(network, endpoint): (Text<'_>, Endpoint<'_>)| InstanceInterface {
        network: network.0.into_owned(),
        private_ip: endpoint.ip_address.and_then(|text| text.0.parse().ok()),
        mac: endpoint.mac_address.and_then(|text| text.0.parse().ok()),
    };
    let interfaces: Vec<InstanceInterface> = networks.into_iter().map(interface).collect();
    let mut addresses =
        interfaces.iter().filter_map(|one| Some((one.network.as_str(), one.private_ip?)));
    // The first by name is the one that Docker routes by, when none is preferred.
    let chosen = match &labels.network {
        Some(wanted) => addresses.find(|(network, _)| *network == wanted.0),
        None => addresses.next(),
    };
    let (project, bad_project) = match labels.project.map(|text| text.0.parse()) {
        Some(Ok(project)) => (Some(project), false),
        Some(Err(_)) => (None, true),
        None => (None::<ProjectName>, false),
    };
    let unusable = match mode.0.as_ref() {
        _ if bad_project => Some(Unusable::BadProject),
        "host" => Some(Unusable::HostNetwork),
        "none" => Some(Unusable::NoAddress),
        mode if mode.starts_with("container:") => Some(Unusable::SharedNetwork),
        _ if state == InstanceState::Running && chosen.is_none() => Some(Unusable::NoAddress),
        _ => None,
    };
    let report = InstanceReport {
        id: labelled_id(labels.id.as_ref()).unwrap_or_else(|| id_of(&id)),
        backend: Backend::Docker,
        name: name.unwrap_or(short(&id)).to_owned(),
        project,
        state,
        private_ip: chosen.map(|(_, address)| address),
        vpc_id: chosen.map(|(network, _)| network.to_owned()),
        address_source: None,
        modes: if unusable.is_none() { Mode::nat_alone() } else { Vec::new() },
        unusable,
        interfaces,
    };
    let report = Arc::new(report);
    Some((id, Container { report, created: summary.created.unwrap_or(0) }))
}

fn labelled_id(label: Option<&Text<'_>>) -> Option<InstanceId> {
    label.and_then(|text| Uuid::try_parse(&text.0).ok()).map(InstanceId::new)
}

/// The UUID of a container that names none: version 5 (RFC 9562, section 5.5) of its full id in the
/// OID namespace, as `uuidgen --sha1 --namespace @oid --name ID` makes it.
pub(super) fn id_of(container_id: &str) -> InstanceId {
    InstanceId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, container_id.as_bytes()))
}

/// An id as Docker shortens it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Only what is known to run does: `created`, `restarting`, `exited`, and whatever comes yet, does not.
fn state_of(word: &str) -> InstanceState {
    match word {
        "running" => InstanceState::Running,
        "paused" => InstanceState::Paused,
        _ => InstanceState::Stopped,
    }
}

/// A container as it is told.
#[derive(Debug, Clone)]
pub(super) struct Told<'k> {
    pub(super) report: Arc<InstanceReport>,
    pub(super) container: &'k Arc<str>,
}

/// Returns all instances, sorted by id, and whether several containers claim one UUID by label. Of these the
/// oldest has it; the others get the one that follows from their own id.
pub(super) fn instances(known: &BTreeMap<Arc<str>, Container>) -> (Vec<Told<'_>>, bool) {
    let told =
        |(container, one): (_, &Container)| Told { report: Arc::clone(&one.report), container };
    let mut all: Vec<Told<'_>> = known.iter().map(told).collect();
    all.sort_unstable_by_key(|one| one.report.id);
    let contested = all.windows(2).any(|pair| pair[0].report.id == pair[1].report.id);
    (if contested { settled(known) } else { all }, contested)
}

fn settled(known: &BTreeMap<Arc<str>, Container>) -> Vec<Told<'_>> {
    let mut by_age: Vec<(&Arc<str>, &Container)> = known.iter().collect();
    by_age.sort_by_key(|(id, container)| (container.created, *id));
    let mut told: BTreeMap<InstanceId, Told<'_>> = BTreeMap::new();
    for (container, one) in by_age {
        let mut report = Arc::clone(&one.report);
        if told.contains_key(&report.id) {
            Arc::make_mut(&mut report).id = id_of(container);
        }
        told.insert(report.id, Told { report, container });
    }
    told.into_values().collect()
}

/// Returns the bridges of the engine with their IPv4 subnets, sorted.
pub(super) fn networks(networks: Vec<Network>) -> Vec<LocalNetwork> {
    let mut found = Vec::new();
    for network in networks {
        let (Some(id), Some("bridge")) = (&network.id, network.driver.as_deref()) else { continue };
        let named =
            network.options.as_ref().and_then(|map| map.get("com.docker.network.bridge.name"));
        let interface = match named {
            Some(name) => name.clone(),
            None => format!("br-{}", short(id)),
        };
        let pools = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let subnets = pools.into_iter().filter_map(|pool| pool.subnet?.parse().ok());
        let name = network.name.unwrap_or_default();
        found.extend(
            subnets.map(|subnet| {
                LocalNetwork::new(&interface, subnet).known_as(Backend::Docker, &name)
            }),
        );
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use serde_json::json;

    fn read(value: &serde_json::Value) -> Container {
        container(serde_json::from_str(&value.to_string()).unwrap()).unwrap().1
    }

    fn web() -> serde_json::Value {
        json!({
            "Id": "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01",
            "Names": ["/web"], "Created": 100, "State": "running", "Labels": {},
            "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        })
    }

    #[test]
    fn a_running_container_is_an_instance_at_its_address() {
        let one = read(&web()).report;
        assert_eq!(one.name, "web");
        assert_eq!(one.target(), Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(one.vpc_id.as_deref(), Some("bridge"));
        assert_eq!(one.id.uuid().get_version_num(), 5);
    }

    #[test]
    fn labels_give_the_id_the_project_and_the_network() {
        let mut value = web();
        value["Labels"] = json!({
            "eip.instance-id": "f47ac10b-58cc-4372-a567-0e02c7d2e3f4",
            "eip.project": "team-a", "eip.network": "front",
        });
        value["NetworkSettings"]["Networks"]["front"] = json!({"IPAddress": "172.18.0.9"});
        let one = read(&value).report;
        assert_eq!(one.id.to_string(), "f47ac10b-58cc-4372-a567-0e02c7d2e3f4");
        assert_eq!(one.project.as_ref().unwrap().as_str(), "team-a");
        assert_eq!(one.private_ip, Some(Ipv4Addr::new(172, 18, 0, 9)));
    }

    #[test]
    fn what_cannot_take_an_address_says_why() {
        let with = |path: &str, new: serde_json::Value| {
            let mut value = web();
            *value.pointer_mut(path).unwrap() = new;
            read(&value).report
        };
        let mode = "/HostConfig/NetworkMode";
        assert_eq!(with(mode, json!("host")).unusable, Some(Unusable::HostNetwork));
        assert_eq!(with(mode, json!("container:abc")).unusable, Some(Unusable::SharedNetwork));
        assert_eq!(with(mode, json!("none")).unusable, Some(Unusable::NoAddress));
        let networks = "/NetworkSettings/Networks";
        assert_eq!(with(networks, json!({})).unusable, Some(Unusable::NoAddress));
        let labels = json!({"eip.project": "Not A Project"});
        assert_eq!(with("/Labels", labels).unusable, Some(Unusable::BadProject));
        let stopped = with("/State", json!("exited"));
        assert_eq!((stopped.state, stopped.target()), (InstanceState::Stopped, None));
    }

    #[test]
    fn two_containers_that_claim_one_id_get_two() {
        let claim = json!({"eip.instance-id": "f47ac10b-58cc-4372-a567-0e02c7d2e3f4"});
        let (mut old, mut new) = (web(), web());
        old["Labels"] = claim.clone();
        new["Labels"] = claim;
        new["Created"] = json!(200);
        new["Id"] = json!("ffff");
        let known = BTreeMap::from([("ffff".into(), read(&new)), ("4c01".into(), read(&old))]);
        let (listed, contested) = instances(&known);
        assert!(contested);
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().any(|one| one.report.id == id_of("ffff")));
    }

    #[test]
    fn a_bridge_is_known_by_its_interface_and_subnet() {
        let listed = serde_json::from_value(json!([
            {"Id": "aaaabbbbccccdddd", "Driver": "bridge", "Name": "front",
             "IPAM": {"Config": [{"Subnet": "172.18.0.0/16"}, {"Subnet": "fd00::/64"}]}},
            {"Id": "eeee", "Driver": "bridge", "Name": "bridge",
             "Options": {"com.docker.network.bridge.name": "docker0"},
             "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}},
            {"Id": "ffff", "Driver": "host", "Name": "host"},
        ]));
        let found = networks(listed.unwrap());
        let shown: Vec<_> = found.iter().map(|n| format!("{} {}", n.interface, n.subnet)).collect();
        assert_eq!(shown, ["br-aaaabbbbcccc 172.18.0.0/16", "docker0 172.17.0.0/16"]);
    }
}
