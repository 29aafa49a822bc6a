//! Containers: their network namespace is entered, and changed over rtnetlink.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use eip_model::InstanceId;
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::sync::oneshot;
use tracing::debug;

use super::{DefaultRoute, GuestError, GuestTask, Held, Seen, Step, steps};

/// Bits of `CapEff` (capabilities(7)).
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;

/// What was tried in a namespace, and why it did not succeed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("could not enter its network namespace")]
    Enter(#[source] io::Error),
    #[error("could not {doing} in its network namespace")]
    Netlink {
        doing: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
}

/// The default routes that prefer an elastic IP, as they are without.
///
/// When the address goes in another way than ours (its interface is removed, as by `docker network
/// disconnect`), the kernel removes the routes that prefer it, also those by other interfaces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<BTreeMap<InstanceId, Vec<RouteMessage>>>>);

impl Memory {
    fn of(&self, instance: InstanceId) -> Vec<RouteMessage> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&instance).cloned().unwrap_or_default()
    }

    fn keep(&self, task: &GuestTask, defaults: Vec<DefaultRoute<RouteMessage>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match task.alias {
            None => drop(all.remove(&task.instance_id)),
            Some(_) => {
                let routes = defaults.into_iter().map(|one| one.route).collect();
                all.insert(task.instance_id, routes);
            }
        }
    }
}

/// Whether this process may enter the network namespaces of containers: of other users' processes,
/// which a container's are, it must be allowed to look into as well.
pub(crate) fn may_enter() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    [CAP_SYS_PTRACE, CAP_SYS_ADMIN].iter().all(|bit| held & (1 << bit) != 0)
}

/// Makes a network namespace have on its interfaces what it should.
///
/// On a thread of its own, which ends there: a thread that has entered a namespace is of no more use
/// to anyone else.
pub(crate) async fn settle_namespace(
    namespace: File,
    task: GuestTask,
    memory: &Memory,
) -> Result<(), GuestError> {
    let (tell, told) = oneshot::channel();
    let memory = memory.clone();
    let job = move || {
        let outcome = enter(&namespace, &task, &memory);
        // Nobody waits any more for one that took too long.
        tell.send(outcome).ok();
    };
    let started = std::thread::Builder::new().name("eip-guest".to_owned()).spawn(job);
    started.map_err(|error| GuestError::Failed(format!("cannot start a thread: {error}")))?;
    told.await.unwrap_or_else(|_| Err(GuestError::Failed("it was given up".to_owned())))
}

fn enter(namespace: &File, task: &GuestTask, memory: &Memory) -> Result<(), GuestError> {
    let failed = |error: io::Error| GuestError::failed(&Failure::Enter(error));
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        tokio::spawn(connection);
        let mut seen = look(&handle).await.map_err(|error| GuestError::failed(&error))?;
        if seen.defaults.is_empty() && !has_alias(&seen, task) {
            seen.defaults = restore(&handle, memory.of(task.instance_id)).await;
        }
        for step in steps(&seen, task)? {
            take(&handle, step).await.map_err(|error| GuestError::failed(&error))?;
        }
        memory.keep(task, seen.defaults);
        Ok(())
    })
}

fn has_alias(seen: &Seen<u32, RouteMessage>, task: &GuestTask) -> bool {
    let is_ours = |held: &Held<u32>| {
        held.prefix == 32 && task.ranges.iter().any(|range| range.contains(held.address))
    };
    seen.addresses.iter().any(is_ours)
}

/// Puts back default routes that went with an address, and returns those that there is a way for.
async fn restore(handle: &Handle, routes: Vec<RouteMessage>) -> Vec<DefaultRoute<RouteMessage>> {
    let mut restored = Vec::new();
    for route in routes {
        match handle.route().add(route.clone()).replace().execute().await {
            Ok(()) => restored.push(DefaultRoute { route, source: None }),
            Err(error) => debug!(%error, "There is no way for a default route any more"),
        }
    }
    restored
}

fn doing(doing: &'static str) -> impl FnOnce(rtnetlink::Error) -> Failure {
    move |source| Failure::Netlink { doing, source }
}

async fn look(handle: &Handle) -> Result<Seen<u32, RouteMessage>, Failure> {
    let addresses = handle.address().get().execute().try_collect::<Vec<_>>().await;
    let addresses = addresses.map_err(doing("list addresses"))?;
    let routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
    let routes = routes.execute().try_collect::<Vec<_>>().await.map_err(doing("list routes"))?;
    Ok(Seen {
        addresses: addresses.iter().filter_map(held).collect(),
        defaults: routes.into_iter().filter(is_default).map(default_route).collect(),
    })
}

fn held(message: &AddressMessage) -> Option<Held<u32>> {
    let local = message.attributes.iter().find_map(local);
    let header = &message.header;
    Some(Held { device: header.index, address: local?, prefix: header.prefix_len })
}

fn local(attribute: &AddressAttribute) -> Option<Ipv4Addr> {
    if let AddressAttribute::Local(IpAddr::V4(address)) = attribute { Some(*address) } else { None }
}

fn is_default(route: &RouteMessage) -> bool {
    let RouteHeader { address_family, destination_prefix_length, table, kind, .. } = route.header;
    address_family == AddressFamily::Inet
        && destination_prefix_length == 0
        && table == RouteHeader::RT_TABLE_MAIN
        && kind == RouteType::Unicast
}

fn default_route(mut route: RouteMessage) -> DefaultRoute<RouteMessage> {
    // What else the kernel tells of the way, it takes from nobody.
    route.header.flags &= RouteFlags::Onlink;
    let mut source = None;
    route.attributes.retain(|attribute| {
        if let RouteAttribute::PrefSource(RouteAddress::Inet(address)) = attribute {
            source = Some(*address);
        }
        !matches!(attribute, RouteAttribute::PrefSource(_) | RouteAttribute::CacheInfo(_))
    });
    DefaultRoute { route, source }
}

async fn take(handle: &Handle, step: Step<u32, RouteMessage>) -> Result<(), Failure> {
    match step {
        Step::PutOn { device, address } => {
            let put = handle.address().add(device, IpAddr::V4(address), 32).replace();
            put.execute().await.map_err(doing("put the elastic IP on the interface"))
        }
        Step::Prefer { mut route, source } => {
            let source = source.map(|one| RouteAttribute::PrefSource(RouteAddress::Inet(one)));
            route.attributes.extend(source);
            let changed = handle.route().add(route).replace().execute().await;
            changed.map_err(doing("change the default route"))
        }
        Step::TakeOff { device, address } => {
            let mut message = AddressMessage::default();
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            message.header.index = device;
            message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
            let removed = handle.address().del(message).execute().await;
            removed.map_err(doing("take an elastic IP off the interface"))
        }
    }
}
