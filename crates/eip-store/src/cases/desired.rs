//! What should be in force on a host, and how far it has come.

use eip_model::{Attachment, ClusterId, DesiredChanges, DesiredSet, Generation, HostName};

use super::trust::ReadProgress;
use crate::records::HostRecord;
use crate::rows::{self, Cells};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

#[derive(Debug)]
pub(super) struct ListHosts;

impl UseCase for ListHosts {
    type Answer = Vec<HostRecord>;
    const DOING: &'static str = "list the hosts";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<HostRecord>, Failure> {
        let found = tx.rows(&format!("{} ORDER BY name", rows::HOST), values![]).await?;
        Ok(found.iter().map(rows::host).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
pub(super) struct Generations {
    pub(super) host: HostName,
}

impl UseCase for Generations {
    /// Desired and observed.
    type Answer = (Generation, Generation);
    const DOING: &'static str = "read the generation of a host";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Self::Answer, Failure> {
        let row = tx
            .row(
                "SELECT generation, observed_generation FROM host WHERE name = $1",
                values![&self.host],
            )
            .await?;
        let Some(row) = row else {
            return Ok(Self::Answer::default());
        };
        let read = |column| row.generation(column).map_err(|e| e.within("host"));
        Ok((read("generation")?, read("observed_generation")?))
    }
}

const RANGES: &str = "SELECT first, size FROM pool_range ORDER BY pool, position";

/// An association that waits for another host to let go is not in the set.
const ATTACHMENTS: &str = "
    SELECT a.address, e.id, a.instance_id, a.mode, a.network
      FROM association a JOIN elastic_ip e ON e.address = a.address
     WHERE a.host = $1
       AND NOT EXISTS (SELECT 1 FROM letting_go l
                        WHERE l.address = a.address AND l.host <> a.host)";

/// So many are read at a time: the database keeps its patience, and their rows little memory.
const PAGE: i64 = 50_000;

#[derive(Debug)]
pub(super) struct ReadDesiredSet {
    pub(super) cluster_id: ClusterId,
    pub(super) host: HostName,
}

impl UseCase for ReadDesiredSet {
    type Answer = DesiredSet;
    const DOING: &'static str = "read the desired set of a host";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<DesiredSet, Failure> {
        let progress = ReadProgress { host: self.host.clone() }.run(tx).await?;
        let ranges = tx.rows(RANGES, values![]).await?;
        let page = format!("{ATTACHMENTS} AND a.address > $2 ORDER BY a.address LIMIT $3");
        let mut attachments: Vec<Attachment> = Vec::new();
        loop {
            // -1 stands before the first address.
            let last = attachments.last().map_or(-1, |one| i64::from(one.public_ip.to_bits()));
            let found = tx.rows(&page, values![&self.host, last, PAGE]).await?;
            let whole = i64::try_from(found.len()).is_ok_and(|found| found < PAGE);
            for row in &found {
                attachments.push(rows::attachment(row)?);
            }
            if whole {
                break;
            }
        }
        Ok(DesiredSet {
            cluster_id: self.cluster_id,
            host: self.host.clone(),
            generation: progress.desired,
            replaces: progress.accepted,
            ranges: ranges.iter().map(rows::range).collect::<Result<_, _>>()?,
            attachments,
        })
    }
}

#[derive(Debug)]
pub(super) struct ReadDesiredChanges {
    pub(super) cluster_id: ClusterId,
    pub(super) host: HostName,
    pub(super) since: Generation,
}

impl UseCase for ReadDesiredChanges {
    /// `None` when the record does not know any more what has changed since.
    type Answer = Option<DesiredChanges>;
    const DOING: &'static str = "read the changes of a host's desired set";

    /// What was removed is remembered until the host has reported a generation without it, and
    /// what it has not reported is not marked as applied: an index has both, and neither grows with
    /// the set. Of a generation older than one that was ever reported this would not be all.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Self::Answer, Failure> {
        let progress = ReadProgress { host: self.host.clone() }.run(tx).await?;
        if self.since < progress.reported || self.since > progress.desired {
            return Ok(None);
        }
        let ranges = tx.rows(RANGES, values![]).await?;
        let removed = tx
            .rows(
                "SELECT address FROM letting_go WHERE host = $1 AND generation > $2
                  ORDER BY address",
                values![&self.host, self.since],
            )
            .await?;
        let removed = removed.iter().map(|row| rows::address(row, "letting_go"));
        let changed = format!(
            "{ATTACHMENTS} AND a.applied_at IS NULL AND a.generation > $2 ORDER BY a.address"
        );
        let attachments = tx.rows(&changed, values![&self.host, self.since]).await?;
        Ok(Some(DesiredChanges {
            cluster_id: self.cluster_id,
            host: self.host.clone(),
            since: self.since,
            generation: progress.desired,
            ranges: ranges.iter().map(rows::range).collect::<Result<_, _>>()?,
            removed: removed.collect::<Result<_, _>>()?,
            attachments: attachments.iter().map(rows::attachment).collect::<Result<_, _>>()?,
        }))
    }
}
