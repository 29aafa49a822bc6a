//! The rules of the Elastic IP service, and the words in which its parts talk to each other.
//!
//! Nothing in here does I/O, reads a clock or draws a random number: time, ids and randomness come
//! in as arguments, so that every rule can be tested in microseconds.

mod address;
mod agent;
mod chain;
mod desired;
mod elastic_ip;
mod event;
mod free_map;
mod given;
mod history;
mod host;
mod ids;
mod instance;
mod key;
mod mend;
mod mode;
mod names;
mod network;
mod packed;
mod plan;
mod pool;
mod problem;
mod project;
mod requests;
mod resolver;
mod traffic;
mod webhook;

pub use address::{CraftError, Ipv4Range, OFFSET_SPACE, RangeError, craft_id, derive_offset};
pub use agent::{
    AppliedReport, Attachment, AttachmentProblem, BackendInventory, BackendListing,
    DataPlaneHealth, DesiredChanges, DesiredNews, DesiredSet, InventoryPart, InventoryReport,
    InventoryScope, PartOrder, ProblemKind, REPORT_INTERVAL_SECONDS, REPORT_SILENCE_SECONDS,
};
pub use chain::chain;
pub use desired::Desired;
pub use elastic_ip::{
    AssociationView, DataPlane, DataPlaneState, ElasticIp, ElasticIpPage, ElasticIpStatus,
    LettingGo, data_plane, idle_data_plane,
};
pub use event::{Event, EventKind};
pub use free_map::FreeMap;
pub use history::{AddressHistory, AllocationPeriod, AssociationPeriod};
pub use host::{BackendStatus, Host, HostList};
pub use ids::{
    ClusterId, ElasticIpId, ElasticIpRef, Generation, InstanceId, InstanceRef, WebhookId,
};
pub use imbl::OrdMap;
pub use imbl::ordmap::DiffItem;
pub use instance::{
    AddressSource, Backend, Instance, InstanceList, InstanceReport, InstanceState, Unusable,
};
pub use key::{ApiKeyInfo, ApiKeyList, KeyId, Role};
pub use mend::{LONGEST_MEND, MENDS_KEPT, Mend, MendReport};
pub use mode::{InstanceInterface, InvalidMac, MacAddress, Mode};
pub use names::{HostName, InvalidName, Label, PoolName, ProjectName, Tags, TagsError};
pub use network::LocalNetwork;
pub use packed::PACKED;
pub use plan::{
    AliasTarget, Change, Instances, Resolution, Speaker, Surroundings, changes, resolve,
};
pub use pool::{
    CreatePoolRequest, Pool, PoolCell, PoolConfig, PoolList, PoolMap, Reserved, UpdatePoolRequest,
};
pub use problem::{ErrorCode, Problem};
pub use project::{CreateProjectRequest, Project, ProjectList, UpdateProjectRequest};
pub use requests::{
    AllocateRequest, AssociateManyRequest, AssociateOne, AssociateRequest, AssociatedMany,
    AssociatedOne, CreateKeyRequest, CreatedKey, DisassociateRequest, MOST_AT_ONCE, UpdateRequest,
};
pub use resolver::Resolver;
pub use traffic::{Counted, Traffic, TrafficReport, Volume};
pub use webhook::{
    CreateWebhookRequest, InvalidWebhookUrl, SigningSecret, UpdateWebhookRequest, Webhook,
    WebhookList, WebhookMessage, WebhookState, WebhookUrl, WebhookWithSecret,
};
