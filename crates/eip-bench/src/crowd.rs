//! Many instances on one host, for what no machine can run so many containers of.
//!
//! They are told by a socket that answers as a Docker engine does (`engine`). Their private
//! addresses are real: one namespace on the engine's bridge has them all, as `local` routes, and
//! answers there. So every attachment is one in the kernel, and a packet to it arrives.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use eip_testkit::netns::{Namespace, link};
use uuid::Uuid;

use crate::engine::Engine;
use crate::lab::{Lab, Responder};
use crate::server::HOST;
use crate::world::{Record, World};

const BRIDGE: &str = "crowd0";
const SUBNET: &str = "10.128.0.0/11";
const FIRST_PRIVATE: u32 = 0x0a80_0100;
const FIRST_PUBLIC: u32 = 0x6440_0000;
/// The size of the pool that [`crate::bench::LARGE`] names.
const POOL_SIZE: u32 = 1 << 22;
/// What the responder marks its answers with.
pub(crate) const MARK: u8 = 200;

/// The instances, and the engine that tells them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    engine: Engine,
    pub(crate) answering: Responder,
}

impl Crowd {
    /// Makes so many instances on the host of a lab. Those that are named answer datagrams.
    pub(crate) fn gather(lab: &Lab, folder: &Path, number: u32, answering: &[u32]) -> Result<Self> {
        let inside = Namespace::new("crowd");
        lab.host.bridge(BRIDGE, "10.127.0.1/24");
        link(&lab.host, &inside, "v-crowd", "eth0");
        // By way of one neighbour: the kernel keeps few of them.
        lab.host.ip(&[
            &format!("link set v-crowd master {BRIDGE}"),
            &format!("route add {SUBNET} via 10.127.0.2"),
        ]);
        inside.ip(&[
            "addr add 10.127.0.2/24 dev eth0",
            "route add default via 10.127.0.1",
            &format!("route add local {SUBNET} dev lo"),
        ]);
        let addresses: Vec<Ipv4Addr> = answering.iter().map(|at| private(*at)).collect();
        let answering = Responder::start(inside, &addresses, MARK);
        let engine = Engine::start(&folder.join("docker.sock"), containers(number), networks())?;
        Ok(Self { engine, answering })
    }

    /// The backend, as `--compute` names it.
    pub(crate) fn compute(&self) -> String {
        format!("docker={}", self.engine.socket.display())
    }
}

pub(crate) const fn private(at: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_PRIVATE + at)
}

pub(crate) const fn public(at: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_PUBLIC + at)
}

/// The instance of that number.
pub(crate) fn instance(at: u32) -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_4000_9000_0000_0000_0000 | u128::from(at))
}

/// The elastic IP of that number: bytes 12 to 14 stand for its address.
pub(crate) fn elastic_ip(at: u32) -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0000 | u128::from(at) << 8)
}

/// Writes the first of the instances into a record on PostgreSQL, each with an elastic IP, and
/// those behind them without: what would take the API minutes. No server may run on it.
pub(crate) fn enrol(world: &World, record: &Record, held: u32, free: u32) -> Result<()> {
    let (last, all) = (held - 1, held + free - 1);
    let first_private = FIRST_PRIVATE;
    world.sql(
        &record.name,
        &format!(
            "BEGIN;
             INSERT INTO host (name, generation, observed_generation, health, health_reason,
                               backends, first_seen_at, last_seen_at)
             VALUES ('{HOST}', 1, 0, 'absent', 'not seen yet', '[]', now(), now());
             INSERT INTO instance (id, host, backend, name, project, state, private_ip, vpc_id,
                                   updated_at)
             SELECT ('00000000-0000-4000-9000-' || lpad(to_hex(i), 12, '0'))::uuid, '{HOST}',
                    'docker', 'c' || i, 'default', 'running', {first_private} + i, 'crowd', now()
               FROM generate_series(0, {all}) i;
             INSERT INTO elastic_ip (address, id, range_first, range_size, pool, project, tags,
                                     allocated_at, updated_at, revision)
             SELECT {FIRST_PUBLIC} + i,
                    ('00000000-0000-4000-8000-' || lpad(to_hex(i), 10, '0') || '00')::uuid,
                    {FIRST_PUBLIC}, {POOL_SIZE}, 'public', 'default', '{{}}', now(), now(), 1
               FROM generate_series(0, {last}) i;
             INSERT INTO association (address, instance_id, host, generation, associated_at)
             SELECT {FIRST_PUBLIC} + i,
                    ('00000000-0000-4000-9000-' || lpad(to_hex(i), 12, '0'))::uuid, '{HOST}', 1,
                    now()
               FROM generate_series(0, {last}) i;
             UPDATE project SET held = held + {held} WHERE name = 'default';
             UPDATE pool SET held = held + {held} WHERE name = 'public';
             COMMIT;"
        ),
    )?;
    world.sql(&record.name, "VACUUM ANALYZE").map(drop)
}

/// What the engine answers when it is asked for its containers.
fn containers(number: u32) -> String {
    let mut text = String::with_capacity(300 * number as usize);
    for at in 0..number {
        let (instance, address) = (instance(at), private(at));
        let comma = if at == 0 { '[' } else { ',' };
        // Writing to a string cannot fail.
        write!(
            text,
            r#"{comma}{{"Id":"{at:064x}","Names":["/c{at}"],"Created":1,"State":"running","Labels":{{"eip.instance-id":"{instance}"}},"HostConfig":{{"NetworkMode":"crowd"}},"NetworkSettings":{{"Networks":{{"crowd":{{"IPAddress":"{address}"}}}}}}}}"#
        )
        .ok();
    }
    text.push(']');
    text
}

fn networks() -> String {
    format!(
        r#"[{{"Id":"{:064x}","Name":"crowd","Driver":"bridge","Options":{{"com.docker.network.bridge.name":"{BRIDGE}"}},"IPAM":{{"Config":[{{"Subnet":"{SUBNET}"}}]}}}}]"#,
        1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_tells_is_json() {
        let told: serde_json::Value = serde_json::from_str(&containers(2)).unwrap();
        assert_eq!(told.as_array().unwrap().len(), 2);
        assert_eq!(told[1]["Labels"]["eip.instance-id"], instance(1).to_string());
        assert_eq!(told[1]["NetworkSettings"]["Networks"]["crowd"]["IPAddress"], "10.128.1.1");
        assert!(serde_json::from_str::<serde_json::Value>(&networks()).unwrap()[0].is_object());
    }

    #[test]
    fn the_id_of_an_elastic_ip_stands_for_its_address() {
        let id = elastic_ip(0x1234);
        assert_eq!(id.as_bytes()[12..15], [0, 0x12, 0x34]);
        assert_eq!(id.to_string(), "00000000-0000-4000-8000-000000123400");
        assert_eq!(public(0x1234), Ipv4Addr::new(100, 64, 0x12, 0x34));
    }
}
