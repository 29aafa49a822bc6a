//! What should be in force on a host, and how far it has come.

use eip_model::{ClusterId, DesiredSet, Generation, HostName};

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

#[derive(Debug)]
pub(super) struct ReadDesiredSet {
    pub(super) cluster_id: ClusterId,
    pub(super) host: HostName,
}

impl UseCase for ReadDesiredSet {
    type Answer = DesiredSet;
    const DOING: &'static str = "read the desired set of a host";

    /// An association that waits for another host to let go is not in the set.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<DesiredSet, Failure> {
        let progress = ReadProgress { host: self.host.clone() }.run(tx).await?;
        let ranges = tx
            .rows("SELECT first, size FROM pool_range ORDER BY pool, position", values![])
            .await?;
        let attachments = tx
            .rows(
                "SELECT a.address, e.id, a.instance_id
                   FROM association a
                   JOIN elastic_ip e ON e.address = a.address
                  WHERE a.host = $1
                    AND NOT EXISTS (SELECT 1 FROM letting_go l
                                     WHERE l.address = a.address AND l.host <> a.host)
                  ORDER BY a.address",
                values![&self.host],
            )
            .await?;
        Ok(DesiredSet {
            cluster_id: self.cluster_id,
            host: self.host.clone(),
            generation: progress.desired,
            replaces: progress.accepted,
            ranges: ranges.iter().map(rows::range).collect::<Result<_, _>>()?,
            attachments: attachments.iter().map(rows::attachment).collect::<Result<_, _>>()?,
        })
    }
}
