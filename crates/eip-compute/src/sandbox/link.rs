//! The bridge of the sandboxes and the veth pair of each, over rtnetlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use eip_model::MacAddress;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::{SUBNET, SandboxError};

fn step(doing: &'static str) -> impl FnOnce(Error) -> SandboxError {
    move |source| SandboxError::Netlink { doing, source }
}

/// Opens a connection that stays in the network namespace of the calling thread.
pub(super) fn connect() -> Result<Handle, SandboxError> {
    let opened = rtnetlink::new_connection();
    let (connection, handle, _) = opened.map_err(SandboxError::io("open a netlink socket"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Runs a future on the calling thread and no other.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, SandboxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(SandboxError::io("start a runtime"))?.block_on(future))
}

async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(link) => Ok(link.map(|link: LinkMessage| link.header.index)),
        Err(Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the bridge with the host's address on it, unless it is there.
pub(super) async fn ensure_bridge(handle: &Handle, name: &str) -> Result<u32, SandboxError> {
    let look = || step("look for the bridge of the sandboxes");
    if let Some(index) = index_of(handle, name).await.map_err(look())? {
        return Ok(index);
    }
    let made = handle.link().add(LinkBridge::new(name).up().build()).execute().await;
    made.map_err(step("make the bridge of the sandboxes"))?;
    let index = index_of(handle, name).await.map_err(look())?;
    let index = index.ok_or(SandboxError::Said("the bridge vanished".into()))?;
    let gateway = IpAddr::V4(gateway());
    let added = handle.address().add(index, gateway, SUBNET.prefix_len()).execute().await;
    added.map_err(step("give the bridge its address"))?;
    Ok(index)
}

pub(super) async fn remove_bridge(name: &str) -> Result<(), SandboxError> {
    let handle = connect()?;
    if let Some(index) = index_of(&handle, name).await.map_err(step("look for the bridge"))? {
        handle.link().del(index).execute().await.map_err(step("remove the bridge"))?;
    }
    Ok(())
}

/// Plugs the namespace of the calling thread into the bridge: `eth0` here, `host_name` there.
pub(super) async fn plug_in(
    outside: &Handle,
    outside_namespace: &OwnedFd,
    bridge: u32,
    host_name: &str,
    address: Ipv4Addr,
    mac: Option<MacAddress>,
) -> Result<(), SandboxError> {
    let inside = connect()?;
    let make = || step("make the veth pair of the sandbox");
    inside.link().add(LinkVeth::new("eth0", host_name).build()).execute().await.map_err(make())?;
    let host_end =
        LinkUnspec::new_with_name(host_name).setns_by_fd(outside_namespace.as_raw_fd()).build();
    inside.link().set(host_end).execute().await.map_err(make())?;
    let port = LinkUnspec::new_with_name(host_name).controller(bridge).up().build();
    let plug = || step("plug the sandbox into its bridge");
    outside.link().set(port).execute().await.map_err(plug())?;
    // What a sandbox sends to its own elastic IP comes back by the port that it went in by.
    if let Some(port) = index_of(outside, host_name).await.map_err(plug())? {
        let hairpin = LinkBridgePort::new(port).hairpin(true).build();
        outside.link().set_port(hairpin).execute().await.map_err(plug())?;
    }

    if let (Some(own), Some(mac)) = (index_of(&inside, "eth0").await.map_err(make())?, mac) {
        let named = LinkUnspec::new_with_index(own).address(mac.octets().to_vec()).build();
        inside.link().set(named).execute().await.map_err(make())?;
    }
    let raise = || step("raise the interfaces of the sandbox");
    for name in ["lo", "eth0"] {
        let up = LinkUnspec::new_with_name(name).up().build();
        inside.link().set(up).execute().await.map_err(raise())?;
    }
    let own = index_of(&inside, "eth0").await.map_err(raise())?;
    let own = own.ok_or(SandboxError::Said("the veth pair vanished".into()))?;
    let give = || step("give the sandbox its address");
    let added = inside.address().add(own, IpAddr::V4(address), SUBNET.prefix_len()).execute();
    added.await.map_err(give())?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway()).build();
    inside.route().add(default).execute().await.map_err(step("give the sandbox its route"))
}

fn gateway() -> Ipv4Addr {
    Ipv4Addr::from_bits(SUBNET.network().to_bits() + 1)
}
