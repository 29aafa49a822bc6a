//! Changing what people call an elastic IP.

use eip_model::{ElasticIpRef, EventKind};

use super::held::{Held, Party, gone, lock};
use crate::given::pairs;
use crate::records::{ElasticIpRecord, UpdateCommand};
use crate::rows;
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::values;

impl UseCase for UpdateCommand {
    type Answer = ElasticIpRecord;
    const DOING: &'static str = "update an elastic IP";

    /// Writing what is there already is no change: no event, and the revision stays.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<ElasticIpRecord, Failure> {
        let held = lock(tx, self.target, &self.scope).await?;
        let name = self.name.as_ref().unwrap_or(&held.name);
        let tags = self.tags.as_ref().unwrap_or(&held.tags);
        let protected = self.protected.unwrap_or(held.protected);
        if *name != held.name || *tags != held.tags || protected != held.protected {
            tx.run(
                "UPDATE elastic_ip
                    SET revision = revision + 1, updated_at = $2, name = $3, tags = $4,
                        protected = $5
                  WHERE address = $1",
                values![held.address, self.now, name.as_ref(), pairs(tags), i64::from(protected),],
            )
            .await?;
            let (kind, party) = (EventKind::Updated, Party::default());
            tx.tell(held.event(kind, &self.actor, self.now, party));
        }
        read(tx, &held).await
    }
}

async fn read<T: Tx>(tx: &mut T, held: &Held) -> Result<ElasticIpRecord, Failure> {
    let all = ["SELECT ", rows::ELASTIC_IP, " FROM elastic_ip e", rows::AROUND_IT];
    let sql = format!("{} WHERE e.address = $1", all.concat());
    let row = tx.row(&sql, values![held.address]).await?;
    let target = ElasticIpRef::Address(held.address);
    Ok(rows::elastic_ip(&row.ok_or_else(|| gone("elastic_ip", target))?)?)
}
