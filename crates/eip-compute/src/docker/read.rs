//! From what Docker says of its containers and networks to instances.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum, EndpointSettings, Network};
use eip_model::{
    Backend, InstanceId, InstanceInterface, InstanceReport, InstanceState, LocalNetwork, Mode,
    ProjectName, Unusable,
};
use uuid::Uuid;

/// The label that gives a container its UUID; without it the UUID follows from the container's id.
const ID_LABEL: &str = "eip.instance-id";
/// The label that says which project owns a container.
const PROJECT_LABEL: &str = "eip.project";
/// The label that says which of several networks an elastic IP leads to.
const NETWORK_LABEL: &str = "eip.network";

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
pub(super) fn container(summary: ContainerSummary) -> Option<(String, Container)> {
    let id = summary.id?;
    let labels = summary.labels.unwrap_or_default();
    let names = summary.names.unwrap_or_default();
    // A name with a second slash is a link of the old kind: `/web/db`.
    let name =
        names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'));
    let state = state(summary.state);
    let mode = summary.host_config.and_then(|config| config.network_mode).unwrap_or_default();
    let networks = summary.network_settings.and_then(|one| one.networks).unwrap_or_default();
    // Sorted by name, as hash maps are not.
    let networks: BTreeMap<_, _> = networks.into_iter().collect();
    let interface = |(network, endpoint): (String, EndpointSettings)| InstanceInterface {
        network,
        private_ip: endpoint.ip_address.and_then(|text| text.parse().ok()),
        mac: endpoint.mac_address.and_then(|text| text.parse().ok()),
    };
    let interfaces: Vec<InstanceInterface> = networks.into_iter().map(interface).collect();
    let addresses: BTreeMap<&String, Ipv4Addr> =
        interfaces.iter().filter_map(|one| Some((&one.network, one.private_ip?))).collect();
    // The first by name is the one that Docker routes by, when none is preferred.
    let chosen = match labels.get(NETWORK_LABEL) {
        Some(wanted) => addresses.get_key_value(wanted),
        None => addresses.first_key_value(),
    };
    let chosen = chosen.map(|(network, address)| ((*network).clone(), *address));
    let (project, bad_project) = match labels.get(PROJECT_LABEL).map(|text| text.parse()) {
        Some(Ok(project)) => (Some(project), false),
        Some(Err(_)) => (None, true),
        None => (None::<ProjectName>, false),
    };
    let unusable = match mode.as_str() {
        _ if bad_project => Some(Unusable::BadProject),
        "host" => Some(Unusable::HostNetwork),
        "none" => Some(Unusable::NoAddress),
        mode if mode.starts_with("container:") => Some(Unusable::SharedNetwork),
        _ if state == InstanceState::Running && chosen.is_none() => Some(Unusable::NoAddress),
        _ => None,
    };
    let report = InstanceReport {
        id: labelled_id(labels.get(ID_LABEL)).unwrap_or_else(|| id_of(&id)),
        backend: Backend::Docker,
        name: name.unwrap_or(&id[..id.len().min(12)]).to_owned(),
        project,
        state,
        private_ip: chosen.as_ref().map(|(_, address)| *address),
        vpc_id: chosen.map(|(network, _)| network),
        address_source: None,
        modes: if unusable.is_none() { Mode::nat_alone() } else { Vec::new() },
        unusable,
        interfaces,
    };
    let report = Arc::new(report);
    Some((id, Container { report, created: summary.created.unwrap_or(0) }))
}

fn labelled_id(label: Option<&String>) -> Option<InstanceId> {
    label.and_then(|text| Uuid::try_parse(text).ok()).map(InstanceId::new)
}

/// The UUID of a container that names none: version 5 (RFC 9562, section 5.5) of its full id in the
/// OID namespace, as `uuidgen --sha1 --namespace @oid --name ID` makes it.
pub(super) fn id_of(container_id: &str) -> InstanceId {
    InstanceId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, container_id.as_bytes()))
}

const fn state(state: Option<ContainerSummaryStateEnum>) -> InstanceState {
    match state {
        Some(ContainerSummaryStateEnum::RUNNING) => InstanceState::Running,
        Some(ContainerSummaryStateEnum::PAUSED) => InstanceState::Paused,
        Some(
            ContainerSummaryStateEnum::EMPTY
            | ContainerSummaryStateEnum::CREATED
            | ContainerSummaryStateEnum::RESTARTING
            | ContainerSummaryStateEnum::EXITED
            | ContainerSummaryStateEnum::REMOVING
            | ContainerSummaryStateEnum::DEAD
            | ContainerSummaryStateEnum::STOPPING,
        )
        | None => InstanceState::Stopped,
    }
}

/// Returns all instances, sorted by id. Of several containers that claim one UUID by label the
/// oldest has it; the others get the one that follows from their own id. With each comes the id of its
/// container.
pub(super) fn instances(
    known: &BTreeMap<String, Container>,
) -> Vec<(Arc<InstanceReport>, &String)> {
    let mut by_age: Vec<(&String, &Container)> = known.iter().collect();
    by_age.sort_by_key(|(id, container)| (container.created, *id));
    let mut instances: BTreeMap<InstanceId, (Arc<InstanceReport>, &String)> = BTreeMap::new();
    for (container_id, container) in by_age {
        let mut report = Arc::clone(&container.report);
        if instances.contains_key(&report.id) {
            Arc::make_mut(&mut report).id = id_of(container_id);
        }
        instances.insert(report.id, (report, container_id));
    }
    instances.into_values().collect()
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
            None => format!("br-{}", &id[..id.len().min(12)]),
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
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Container {
        container(serde_json::from_value(value).unwrap()).unwrap().1
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
        let one = read(web()).report;
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
        let one = read(value).report;
        assert_eq!(one.id.to_string(), "f47ac10b-58cc-4372-a567-0e02c7d2e3f4");
        assert_eq!(one.project.as_ref().unwrap().as_str(), "team-a");
        assert_eq!(one.private_ip, Some(Ipv4Addr::new(172, 18, 0, 9)));
    }

    #[test]
    fn what_cannot_take_an_address_says_why() {
        let with = |path: &str, new: serde_json::Value| {
            let mut value = web();
            *value.pointer_mut(path).unwrap() = new;
            read(value).report
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
        let known =
            BTreeMap::from([("ffff".to_owned(), read(new)), ("4c01".to_owned(), read(old))]);
        let listed = instances(&known);
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().any(|(one, _)| one.id == id_of("ffff")));
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
