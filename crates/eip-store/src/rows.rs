//! From rows to records: the one place that can meet what cannot be.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;

use eip_model::{
    AddressSource, AssociationView, Attachment, AttachmentProblem, BackendStatus, DataPlaneHealth,
    ElasticIpId, Event, Generation, HostName, Instance, InstanceId, InstanceInterface, Ipv4Range,
    KeyId, LettingGo, Mode, PoolConfig, Role, SigningSecret, Tags, WebhookId,
};
use jiff::Timestamp;
use uuid::Uuid;

use crate::eligible::{Standing, reason_against};
use crate::error::StoreError;
use crate::records::{ApiKeyRecord, AssociationRecord, ElasticIpRecord, HostRecord};
use crate::webhooks::WebhookRecord;

/// What is wrong with a row.
#[derive(Debug)]
pub(crate) struct Wrong(pub(crate) String);

impl Wrong {
    fn about(column: &str, problem: impl Display) -> Self {
        Self(format!("{column}: {problem}"))
    }

    pub(crate) fn within(self, table: &'static str) -> StoreError {
        StoreError::Corrupt { table, what: self.0 }
    }
}

/// A row whose columns are asked for by name. `None` is the database's NULL.
pub(crate) trait Cells {
    fn int(&self, column: &str) -> Result<Option<i64>, Wrong>;
    fn text(&self, column: &str) -> Result<Option<String>, Wrong>;
    fn uuid(&self, column: &str) -> Result<Option<Uuid>, Wrong>;
    fn time(&self, column: &str) -> Result<Option<Timestamp>, Wrong>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, Wrong>;

    fn maybe<V: FromStr<Err: Display>>(&self, column: &str) -> Result<Option<V>, Wrong> {
        let text = self.text(column)?;
        text.map(|text| text.parse().map_err(|e| Wrong::about(column, e))).transpose()
    }

    fn parsed<V: FromStr<Err: Display>>(&self, column: &str) -> Result<V, Wrong> {
        need(column, self.maybe(column)?)
    }

    fn maybe_address(&self, column: &str) -> Result<Option<Ipv4Addr>, Wrong> {
        let number = self.int(column)?;
        number
            .map(|n| u32::try_from(n).map(Ipv4Addr::from_bits).map_err(|e| Wrong::about(column, e)))
            .transpose()
    }

    fn address(&self, column: &str) -> Result<Ipv4Addr, Wrong> {
        need(column, self.maybe_address(column)?)
    }

    fn moment(&self, column: &str) -> Result<Timestamp, Wrong> {
        need(column, self.time(column)?)
    }

    fn id(&self, column: &str) -> Result<Uuid, Wrong> {
        need(column, self.uuid(column)?)
    }

    fn words(&self, column: &str) -> Result<String, Wrong> {
        need(column, self.text(column)?)
    }

    fn number<V: TryFrom<i64, Error: Display>>(&self, column: &str) -> Result<V, Wrong> {
        let number = need(column, self.int(column)?)?;
        V::try_from(number).map_err(|e| Wrong::about(column, e))
    }

    /// Reads what is kept as 0 or 1.
    fn flag(&self, column: &str) -> Result<bool, Wrong> {
        self.number::<u8>(column).map(|number| number != 0)
    }

    fn generation(&self, column: &str) -> Result<Generation, Wrong> {
        self.number(column).map(Generation::new)
    }
}

fn need<V>(column: &str, value: Option<V>) -> Result<V, Wrong> {
    value.ok_or_else(|| Wrong::about(column, "has no value"))
}

/// What [`elastic_ip`] reads, out of the table `e` and of [`AROUND_IT`].
pub(crate) const ELASTIC_IP: &str = "
           e.address, e.id, e.project, e.pool, e.name, CAST(e.tags AS text) AS tags,
           e.allocated_at, e.updated_at, e.released_at, e.revision, e.protected,
           a.instance_id, a.generation, a.associated_at, a.applied_at, a.mode, a.network,
           CASE WHEN a.network IS NOT NULL THEN CAST(i.interfaces AS text) END AS interfaces,
           i.name AS instance_name, i.private_ip, i.vpc_id,
           h.name AS host, h.observed_generation, h.health, h.health_reason, h.last_seen_at,
           g.name AS letting_go, g.last_seen_at AS letting_go_seen_at,
           p.kind AS problem_kind, p.reason AS problem_reason, p.since AS problem_since";

/// What is joined with an elastic IP `e`; a `WHERE` goes behind it.
///
/// Of the hosts that still let go of the address, the first that is not the one it is pointed at.
pub(crate) const AROUND_IT: &str = "
      LEFT JOIN association a ON a.address = e.address
      LEFT JOIN instance i ON i.id = a.instance_id
      LEFT JOIN host h ON h.name = a.host
      LEFT JOIN host g
        ON g.name = (SELECT min(l.host) FROM letting_go l
                      WHERE l.address = e.address AND (a.host IS NULL OR l.host <> a.host))
      LEFT JOIN attachment_problem p ON p.address = a.address";

/// Whether the elastic IP is held, not asleep.
pub(crate) fn is_held(row: &impl Cells) -> Result<bool, StoreError> {
    let released_at = row.time("released_at").map_err(|e| e.within("elastic_ip"))?;
    Ok(released_at.is_none())
}

pub(crate) fn elastic_ip(row: &impl Cells) -> Result<ElasticIpRecord, StoreError> {
    let address = row.address("address").map_err(|e| e.within("elastic_ip"))?;
    let read = || -> Result<_, Wrong> {
        Ok(ElasticIpRecord {
            id: ElasticIpId::new(row.id("id")?),
            address,
            project: row.parsed("project")?,
            pool: row.parsed("pool")?,
            name: row.maybe("name")?,
            tags: tags(row)?,
            protected: row.flag("protected")?,
            allocated_at: row.moment("allocated_at")?,
            updated_at: row.moment("updated_at")?,
            revision: row.number("revision")?,
            association: None,
            letting_go: None,
        })
    };
    let record = read().map_err(|e| Wrong(format!("{address}: {}", e.0)).within("elastic_ip"))?;
    let letting_go =
        letting_go(row).map_err(|e| Wrong(format!("{address}: {}", e.0)).within("letting_go"))?;
    let fenced_by = letting_go.as_ref().map(|fence| fence.host.clone());
    let association = association(row, address, fenced_by)
        .map_err(|e| Wrong(format!("{address}: {}", e.0)).within("association"))?;
    // Behind an association it is what that one waits for.
    let letting_go = letting_go.filter(|_| association.is_none());
    Ok(ElasticIpRecord { association, letting_go, ..record })
}

fn letting_go(row: &impl Cells) -> Result<Option<LettingGo>, Wrong> {
    let Some(host) = row.maybe("letting_go")? else {
        return Ok(None);
    };
    Ok(Some(LettingGo { host, last_seen_at: row.moment("letting_go_seen_at")? }))
}

pub(crate) fn tags(row: &impl Cells) -> Result<Tags, Wrong> {
    serde_json::from_str(&row.words("tags")?).map_err(|e| Wrong::about("tags", e))
}

fn association(
    row: &impl Cells,
    address: Ipv4Addr,
    fenced_by: Option<HostName>,
) -> Result<Option<AssociationRecord>, Wrong> {
    let Some(instance_id) = row.uuid("instance_id")? else {
        return Ok(None);
    };
    let network = row.text("network")?;
    let (private_ip, vpc_id) = match &network {
        None => (row.maybe_address("private_ip")?, row.text("vpc_id")?),
        Some(network) => {
            let all = interfaces(row)?;
            let one = all.iter().find(|one| one.network == *network);
            (one.and_then(|one| one.private_ip), Some(network.clone()))
        }
    };
    Ok(Some(AssociationRecord {
        instance_id: InstanceId::new(instance_id),
        instance_name: row.words("instance_name")?,
        private_ip,
        vpc_id,
        mode: row.parsed("mode")?,
        network,
        host: row.parsed("host")?,
        view: AssociationView {
            associated_at: row.moment("associated_at")?,
            generation: row.generation("generation")?,
            applied_at: row.time("applied_at")?,
            fenced_by,
            observed: row.generation("observed_generation")?,
            health: health(row)?,
            last_seen_at: row.moment("last_seen_at")?,
            problem: problem(row, address)?,
        },
    }))
}

fn problem(
    row: &impl Cells,
    public_ip: Ipv4Addr,
) -> Result<Option<(AttachmentProblem, Timestamp)>, Wrong> {
    let Some(kind) = row.maybe("problem_kind")? else {
        return Ok(None);
    };
    let reason = row.words("problem_reason")?;
    Ok(Some((AttachmentProblem { public_ip, kind, reason }, row.moment("problem_since")?)))
}

pub(crate) fn health(row: &impl Cells) -> Result<DataPlaneHealth, Wrong> {
    let reason = row.text("health_reason")?;
    match (row.words("health")?.as_str(), reason) {
        ("ready", None) => Ok(DataPlaneHealth::Ready),
        ("absent", Some(reason)) => Ok(DataPlaneHealth::Absent { reason }),
        ("failing", Some(reason)) => Ok(DataPlaneHealth::Failing { reason }),
        (word, _) => Err(Wrong::about("health", format!("\"{word}\" with its reason is none"))),
    }
}

/// What [`host`] reads.
pub(crate) const HOST: &str = "
    SELECT name AS host, generation, observed_generation, health, health_reason,
           CAST(backends AS text) AS backends, last_seen_at
      FROM host";

pub(crate) fn host(row: &impl Cells) -> Result<HostRecord, StoreError> {
    let read = || -> Result<_, Wrong> {
        let backends = serde_json::from_str::<Vec<BackendStatus>>(&row.words("backends")?);
        Ok(HostRecord {
            name: row.parsed("host")?,
            desired: row.generation("generation")?,
            observed: row.generation("observed_generation")?,
            health: health(row)?,
            backends: backends.map_err(|e| Wrong::about("backends", e))?,
            last_seen_at: row.moment("last_seen_at")?,
        })
    };
    read().map_err(|e| e.within("host"))
}

/// What [`instance`] reads; a `WHERE` goes behind it.
pub(crate) const INSTANCE: &str = "
    SELECT i.id, i.host, i.backend, i.name, i.project, i.state, i.private_ip, i.vpc_id,
           i.unusable, i.updated_at, i.address_source, i.modes,
           CAST(i.interfaces AS text) AS interfaces, a.address AS public_ip
      FROM instance i
      LEFT JOIN association a ON a.instance_id = i.id";

pub(crate) fn instance(row: &impl Cells) -> Result<Instance, StoreError> {
    let read = || -> Result<_, Wrong> {
        let standing = standing(row)?;
        let public_ip = row.maybe_address("public_ip")?;
        let reason = reason_against(&standing, public_ip);
        let address_source: Option<AddressSource> = row.maybe("address_source")?;
        Ok(Instance {
            id: InstanceId::new(row.id("id")?),
            name: row.words("name")?,
            backend: row.parsed("backend")?,
            project: row.parsed("project")?,
            state: standing.state,
            host: row.parsed("host")?,
            private_ip: standing.private_ip,
            address_source,
            address_is_guess: address_source.is_some_and(AddressSource::is_a_guess),
            vpc_id: row.text("vpc_id")?,
            modes: modes(row)?,
            interfaces: interfaces(row)?,
            eligible: reason.is_none(),
            reason,
            public_ip,
            updated_at: row.moment("updated_at")?,
        })
    };
    read().map_err(|e| e.within("instance"))
}

/// Reads the interfaces of an instance.
pub(crate) fn interfaces(row: &impl Cells) -> Result<Vec<InstanceInterface>, Wrong> {
    serde_json::from_str(&row.words("interfaces")?).map_err(|e| Wrong::about("interfaces", e))
}

/// Reads the modes in which an instance can be reached.
pub(crate) fn modes(row: &impl Cells) -> Result<Vec<Mode>, Wrong> {
    let words = row.words("modes")?;
    let modes = words.split_ascii_whitespace().map(str::parse);
    modes.collect::<Result<_, _>>().map_err(|e| Wrong::about("modes", e))
}

pub(crate) fn standing(row: &impl Cells) -> Result<Standing, Wrong> {
    Ok(Standing {
        state: row.parsed("state")?,
        private_ip: row.maybe_address("private_ip")?,
        unusable: row.maybe("unusable")?,
    })
}

/// Reads one range of a pool.
pub(crate) fn range(row: &impl Cells) -> Result<Ipv4Range, StoreError> {
    let read = || -> Result<_, Wrong> {
        Ipv4Range::new(row.address("first")?, row.number("size")?)
            .map_err(|e| Wrong::about("size", e))
    };
    read().map_err(|e| e.within("pool_range"))
}

/// Gathers pools from rows of one range each; a pool's rows follow one another.
pub(crate) fn pools(rows: &[impl Cells]) -> Result<Vec<PoolConfig>, StoreError> {
    let mut pools: Vec<PoolConfig> = Vec::new();
    for row in rows {
        let named = row.parsed("name").map_err(|e| e.within("pool"))?;
        let seconds = row.number("quarantine_seconds").map_err(|e| e.within("pool"))?;
        if pools.last().is_none_or(|last| last.name != named) {
            let mode = row.parsed("mode").map_err(|e| e.within("pool"))?;
            pools.push(PoolConfig {
                name: named,
                ranges: Vec::new(),
                quarantine_seconds: seconds,
                mode,
                reserved: list(row, "reserved").map_err(|e| e.within("pool"))?.unwrap_or_default(),
                projects: list(row, "projects").map_err(|e| e.within("pool"))?,
                draining: row.flag("draining").map_err(|e| e.within("pool"))?,
            });
        }
        let has_range = row.int("first").map_err(|e| e.within("pool_range"))?.is_some();
        if let (true, Some(last)) = (has_range, pools.last_mut()) {
            last.ranges.push(range(row)?);
        }
    }
    Ok(pools)
}

/// Reads a JSON list, if there is one.
fn list<V: serde::de::DeserializeOwned>(
    row: &impl Cells,
    column: &str,
) -> Result<Option<Vec<V>>, Wrong> {
    let text = row.text(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|e| Wrong::about(column, e))).transpose()
}

/// What [`api_key`] reads.
pub(crate) const API_KEY: &str = "
    SELECT id, digest, role, project, host, name, created_at, expires_at, revoked_at, last_used_at
      FROM api_key";

pub(crate) fn api_key(row: &impl Cells) -> Result<ApiKeyRecord, StoreError> {
    let read = || -> Result<_, Wrong> {
        let digest = need("digest", row.bytes("digest")?)?;
        let role = Role::from_parts(&row.words("role")?, row.maybe("project")?, row.maybe("host")?);
        Ok(ApiKeyRecord {
            id: KeyId::new(row.words("id")?),
            digest: digest.try_into().map_err(|_| Wrong::about("digest", "is not 32 bytes"))?,
            role: role.map_err(|e| Wrong::about("role", e))?,
            name: row.maybe("name")?,
            created_at: row.moment("created_at")?,
            expires_at: row.time("expires_at")?,
            revoked_at: row.time("revoked_at")?,
            last_used_at: row.time("last_used_at")?,
        })
    };
    read().map_err(|e| e.within("api_key"))
}

/// What [`webhook`] reads.
pub(crate) const WEBHOOK_CELLS: &str = "
           id, project, name, url, CAST(kinds AS text) AS kinds, secret, old_secret,
           old_secret_until, enabled, created_at, updated_at, seen, failures, failing_since, next_at,
           last_error, delivered_at, held_until";

/// What reads webhooks; a `WHERE` goes behind it.
pub(crate) fn webhooks() -> String {
    format!("SELECT {WEBHOOK_CELLS} FROM webhook")
}

pub(crate) fn webhook(row: &impl Cells) -> Result<WebhookRecord, StoreError> {
    let secret = |column: &str, bytes: Vec<u8>| {
        let bytes = bytes.try_into().map_err(|_| Wrong::about(column, "is not 32 bytes"));
        bytes.map(SigningSecret::new)
    };
    let read = || -> Result<_, Wrong> {
        let kinds = row.text("kinds")?.map(|text| serde_json::from_str(&text)).transpose();
        let old = row.bytes("old_secret")?.map(|bytes| secret("old_secret", bytes)).transpose()?;
        Ok(WebhookRecord {
            id: WebhookId::new(row.id("id")?),
            project: row.maybe("project")?,
            name: row.maybe("name")?,
            url: row.parsed("url")?,
            kinds: kinds.map_err(|e| Wrong::about("kinds", e))?,
            secret: secret("secret", need("secret", row.bytes("secret")?)?)?,
            old_secret: old.zip(row.time("old_secret_until")?),
            enabled: row.number::<i64>("enabled")? == 1,
            created_at: row.moment("created_at")?,
            updated_at: row.moment("updated_at")?,
            seen: row.number("seen")?,
            failures: row.number("failures")?,
            failing_since: row.time("failing_since")?,
            next_at: row.time("next_at")?,
            last_error: row.text("last_error")?,
            delivered_at: row.time("delivered_at")?,
            held_until: row.time("held_until")?,
        })
    };
    read().map_err(|e| e.within("webhook"))
}

/// What [`event`] reads; a `WHERE` goes behind it.
pub(crate) const EVENT: &str = "
    SELECT seq, at, kind, project, elastic_ip_id, address, instance_id, instance_name, host, actor,
           subject, detail
      FROM event";

/// Reads one event. Its id is its place in the order in which the changes were committed.
pub(crate) fn event(row: &impl Cells) -> Result<Event, StoreError> {
    let read = || -> Result<_, Wrong> {
        let seq: u64 = row.number("seq")?;
        Ok(Event {
            id: format!("{seq:019}"),
            at: row.moment("at")?,
            kind: row.parsed("kind")?,
            project: row.maybe("project")?,
            elastic_ip_id: row.uuid("elastic_ip_id")?.map(ElasticIpId::new),
            public_ip: row.maybe_address("address")?,
            instance_id: row.uuid("instance_id")?.map(InstanceId::new),
            instance_name: row.text("instance_name")?,
            host: row.maybe("host")?,
            actor: row.words("actor")?,
            subject: row.text("subject")?,
            detail: row.text("detail")?,
        })
    };
    read().map_err(|e| e.within("event"))
}

pub(crate) fn attachment(row: &impl Cells) -> Result<Attachment, StoreError> {
    let read = || -> Result<_, Wrong> {
        Ok(Attachment {
            public_ip: row.address("address")?,
            elastic_ip_id: ElasticIpId::new(row.id("id")?),
            instance_id: InstanceId::new(row.id("instance_id")?),
            mode: row.parsed("mode")?,
            network: row.text("network")?,
        })
    };
    read().map_err(|e| e.within("association"))
}

/// Reads the name of a host out of a row that is about something else.
pub(crate) fn host_name(row: &impl Cells, table: &'static str) -> Result<HostName, StoreError> {
    row.parsed("host").map_err(|e| e.within(table))
}

/// Reads the one address of a row.
pub(crate) fn address(row: &impl Cells, table: &'static str) -> Result<Ipv4Addr, StoreError> {
    row.address("address").map_err(|e| e.within(table))
}
