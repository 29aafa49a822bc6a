//! What unit tests take for an instance.

use eip_model::{Backend, InstanceId, InstanceReport, InstanceState, Mode};

/// One that runs and has no network.
pub(crate) fn instance(id: InstanceId, backend: Backend, name: String) -> InstanceReport {
    InstanceReport {
        id,
        backend,
        name,
        project: None,
        state: InstanceState::Running,
        private_ip: None,
        address_source: None,
        vpc_id: None,
        unusable: None,
        modes: Mode::nat_alone(),
        interfaces: Vec::new(),
    }
}
