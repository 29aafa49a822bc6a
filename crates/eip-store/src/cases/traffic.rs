//! What elastic IPs carry, as their hosts count it.

use std::net::Ipv4Addr;

use eip_model::{Counted, ElasticIpId, HostName, Traffic, Volume};
use jiff::Timestamp;

use crate::given::Given;
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

/// No counter of a report is believed to be larger: the totals must not overflow.
const LARGEST: u64 = 1 << 56;

#[derive(Debug)]
pub(super) struct RecordTraffic {
    pub(super) host: HostName,
    /// Each address once.
    pub(super) counted: Vec<Counted>,
    pub(super) now: Timestamp,
}

/// What becomes of one total: a host that goes on counting adds what came since its last report. One
/// that begins anew, because its counters were lost, adds all of it. A new holder of the address begins
/// at zero with the first report: a host's counter may be of who held the address before.
fn total(column: &str) -> String {
    format!(
        "{column} = CASE
            WHEN traffic.elastic_ip_id <> excluded.elastic_ip_id THEN 0
            WHEN traffic.{column} > 4611686018427387904 THEN traffic.{column}
            WHEN traffic.host = excluded.host
                 AND traffic.last_packets_in <= excluded.last_packets_in
                 AND traffic.last_bytes_in <= excluded.last_bytes_in
                 AND traffic.last_packets_out <= excluded.last_packets_out
                 AND traffic.last_bytes_out <= excluded.last_bytes_out
            THEN traffic.{column} + excluded.{column} - traffic.last_{column}
            ELSE traffic.{column} + excluded.{column} END"
    )
}

impl UseCase for RecordTraffic {
    type Answer = ();
    const DOING: &'static str = "take in what elastic IPs have carried";

    /// What is not associated on this host is left out.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let number = |value: u64| i64::try_from(value.min(LARGEST)).unwrap_or(i64::MAX);
        let totals = ["packets_in", "bytes_in", "packets_out", "bytes_out"].map(total).join(", ");
        let given = Given::of(&self.counted)
            .with("address", |one| one.public_ip)
            .with("id", |one| one.elastic_ip_id)
            .with("host", |_| &self.host)
            .with("packets_in", move |one| number(one.volume.packets_in))
            .with("bytes_in", move |one| number(one.volume.bytes_in))
            .with("packets_out", move |one| number(one.volume.packets_out))
            .with("bytes_out", move |one| number(one.volume.bytes_out))
            .with("now", |_| self.now);
        let statement = format!(
            "INSERT INTO traffic (address, elastic_ip_id, host, packets_in, bytes_in, packets_out,
                                  bytes_out, last_packets_in, last_bytes_in, last_packets_out,
                                  last_bytes_out, since, at)
             SELECT given.address, given.id, given.host, given.packets_in, given.bytes_in,
                    given.packets_out, given.bytes_out, given.packets_in, given.bytes_in,
                    given.packets_out, given.bytes_out, given.now, given.now
               FROM {{given}}
               JOIN elastic_ip e ON e.address = given.address AND e.id = given.id
               JOIN association a ON a.address = given.address AND a.host = given.host
              WHERE true
              ORDER BY given.address
             ON CONFLICT (address) DO UPDATE SET {totals},
                last_packets_in = excluded.last_packets_in, last_bytes_in = excluded.last_bytes_in,
                last_packets_out = excluded.last_packets_out,
                last_bytes_out = excluded.last_bytes_out,
                since = CASE WHEN traffic.elastic_ip_id <> excluded.elastic_ip_id
                             THEN excluded.since ELSE traffic.since END,
                elastic_ip_id = excluded.elastic_ip_id, host = excluded.host, at = excluded.at"
        );
        tx.each(&statement, given).await.map(drop)
    }
}

#[derive(Debug)]
pub(super) struct ReadTraffic {
    pub(super) address: Ipv4Addr,
    pub(super) id: ElasticIpId,
}

impl UseCase for ReadTraffic {
    type Answer = Option<Traffic>;
    const DOING: &'static str = "read what an elastic IP has carried";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<Traffic>, Failure> {
        let row = tx
            .row(
                "SELECT packets_in, bytes_in, packets_out, bytes_out, since, at
                   FROM traffic WHERE address = $1 AND elastic_ip_id = $2",
                values![self.address, self.id],
            )
            .await?;
        let read = |row: &T::Row| -> Result<_, Wrong> {
            let volume = Volume {
                packets_in: row.number("packets_in")?,
                bytes_in: row.number("bytes_in")?,
                packets_out: row.number("packets_out")?,
                bytes_out: row.number("bytes_out")?,
            };
            Ok(Traffic { volume, since: row.time("since")?, at: row.time("at")? })
        };
        Ok(row.as_ref().map(read).transpose().map_err(|e| e.within("traffic"))?)
    }
}
