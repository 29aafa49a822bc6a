//! Showing what came back: a table on a terminal, tab-separated columns in a pipe, or JSON.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table};
use eip_model::{
    AddressHistory, AllocationPeriod, ApiKeyList, CreatedKey, DataPlaneState, ElasticIp,
    ElasticIpPage, ElasticIpStatus, HostList, Instance, InstanceList, Pool, PoolList, Project,
    ProjectList, Traffic, Webhook, WebhookList, WebhookWithSecret,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::Output;
use crate::exit::Failure;

/// How to show things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) output: Output,
    pub(crate) quiet: bool,
}

const ELASTIC_IP: [&str; 6] = ["ADDRESS", "NAME", "STATE", "INSTANCE", "HOST", "AGE"];

impl Shown {
    /// Shows an elastic IP as one row.
    pub(crate) fn elastic_ip(self, one: &ElasticIp) -> Result<(), Failure> {
        self.show(one, &ELASTIC_IP, |terminal| vec![row(one, terminal)])
    }

    pub(crate) fn elastic_ips(self, page: &ElasticIpPage) -> Result<(), Failure> {
        self.show(page, &ELASTIC_IP, |terminal| {
            page.items.iter().map(|one| row(one, terminal)).collect()
        })
    }

    /// Shows all there is to say about an elastic IP.
    pub(crate) fn one(self, one: &ElasticIp, traffic: Option<Traffic>) -> Result<(), Failure> {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let tags = one.tags.as_map().iter().map(|(key, value)| format!("{key}={value}"));
        let plane = &one.data_plane;
        let fields = [
            ("address", one.public_ip.to_string()),
            ("id", one.id.to_string()),
            ("name", text(one.name.clone().map(String::from))),
            ("project", one.project.to_string()),
            ("pool", one.pool.to_string()),
            ("protected", if one.protected { "yes" } else { "no" }.to_owned()),
            ("tags", text(Some(tags.collect::<Vec<_>>().join(" ")).filter(|all| !all.is_empty()))),
            ("status", status(one.status).to_owned()),
            (
                "data plane",
                match &plane.reason {
                    Some(reason) => format!("{}: {reason}", plane.state),
                    None => plane.state.to_string(),
                },
            ),
            ("instance", text(one.instance_name.clone())),
            ("instance id", text(one.instance_id.map(|id| id.to_string()))),
            ("private ip", text(one.private_ip.map(|ip| ip.to_string()))),
            ("vpc", text(one.vpc_id.clone())),
            ("mode", text(one.mode.map(|mode| mode.to_string()))),
            ("host", text(one.host.clone().map(String::from))),
            ("allocated", one.allocated_at.to_string()),
            ("associated", text(one.associated_at.map(|at| at.to_string()))),
            ("received", text(traffic.map(|t| volume(t.volume.packets_in, t.volume.bytes_in)))),
            ("sent", text(traffic.map(|t| volume(t.volume.packets_out, t.volume.bytes_out)))),
        ];
        if self.quiet && self.output == Output::Table {
            print_line(&one.public_ip.to_string());
            return Ok(());
        }
        self.show(one, &["FIELD", "VALUE"], |_| {
            fields.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
        })
    }

    pub(crate) fn released(self, one: &ElasticIp) -> Result<(), Failure> {
        if self.output == Output::Json {
            return print_json(&serde_json::json!({ "released": one.public_ip, "id": one.id }));
        }
        let said = format!("{} released", one.public_ip);
        print_line(if self.quiet { one.public_ip.to_string() } else { said }.as_str());
        Ok(())
    }

    /// Shows a new key as it is to be stored: nothing else is on its line.
    pub(crate) fn key(self, made: &CreatedKey) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(made),
            Output::Table => {
                print_line(&made.key);
                Ok(())
            }
        }
    }

    pub(crate) fn instances(self, list: &InstanceList) -> Result<(), Failure> {
        self.show(list, &INSTANCE, |_| list.items.iter().map(instance_row).collect())
    }

    pub(crate) fn instance(self, one: &Instance) -> Result<(), Failure> {
        self.show(one, &INSTANCE, |_| vec![instance_row(one)])
    }

    pub(crate) fn hosts(self, list: &HostList) -> Result<(), Failure> {
        let header = ["HOST", "ONLINE", "DATA PLANE", "APPLIED", "BACKENDS", "SEEN"];
        self.show(list, &header, |_| {
            let rows = list.items.iter().map(|host| {
                let backends = host.backends.iter().map(|one| match &one.reason {
                    Some(reason) => format!("{} ({reason})", one.backend),
                    None => one.backend.to_string(),
                });
                let plane = match &host.data_plane_reason {
                    Some(reason) => format!("{}: {reason}", host.data_plane),
                    None => host.data_plane.clone(),
                };
                vec![
                    host.name.to_string(),
                    if host.online { "yes" } else { "no" }.to_owned(),
                    plane,
                    format!("{}/{}", host.observed_generation, host.desired_generation),
                    backends.collect::<Vec<_>>().join(", "),
                    age(host.last_seen_at),
                ]
            });
            rows.collect()
        })
    }

    pub(crate) fn pools(self, list: &PoolList) -> Result<(), Failure> {
        self.show(list, &POOL, |_| list.items.iter().map(pool_row).collect())
    }

    pub(crate) fn pool(self, one: &Pool) -> Result<(), Failure> {
        self.show(one, &POOL, |_| vec![pool_row(one)])
    }

    pub(crate) fn projects(self, list: &ProjectList) -> Result<(), Failure> {
        self.show(list, &PROJECT, |_| list.items.iter().map(project_row).collect())
    }

    pub(crate) fn project(self, one: &Project) -> Result<(), Failure> {
        self.show(one, &PROJECT, |_| vec![project_row(one)])
    }

    pub(crate) fn keys(self, list: &ApiKeyList) -> Result<(), Failure> {
        let header = ["KEY", "NAME", "ROLE", "OF", "STATE", "USED", "AGE"];
        self.show(list, &header, |_| {
            let now = Timestamp::now();
            let rows = list.items.iter().map(|key| {
                let project = key.project.as_ref().map(ToString::to_string);
                let state = match (key.revoked_at, key.expires_at) {
                    (Some(_), _) => "revoked".to_owned(),
                    (None, Some(end)) if end <= now => "expired".to_owned(),
                    (None, Some(end)) => format!("until {end}"),
                    (None, None) => "good".to_owned(),
                };
                vec![
                    key.id.to_string(),
                    or_dash(key.name.clone().map(String::from)),
                    key.role.clone(),
                    or_dash(project.or_else(|| key.host.as_ref().map(ToString::to_string))),
                    state,
                    or_dash(key.last_used_at.map(age)),
                    age(key.created_at),
                ]
            });
            rows.collect()
        })
    }

    /// Shows a row for each association, and one for a hold without any.
    pub(crate) fn history(self, history: &AddressHistory) -> Result<(), Failure> {
        let header = ["FROM", "TO", "PROJECT", "NAME", "INSTANCE", "HOST", "BY"];
        self.show(history, &header, |_| {
            let row = |from: Timestamp, to: Option<Timestamp>, period: &AllocationPeriod| {
                let name = or_dash(period.name.clone().map(String::from));
                let to = or_dash(to.map(|to| to.to_string()));
                vec![from.to_string(), to, period.project.to_string(), name]
            };
            let mut rows = Vec::new();
            for period in &history.items {
                for one in &period.associations {
                    let mut cells = row(one.from, one.to, period);
                    cells.push(or_dash(one.instance_name.clone()));
                    cells.push(or_dash(one.host.as_ref().map(ToString::to_string)));
                    cells.push(one.actor.clone());
                    rows.push(cells);
                }
                let mut cells = row(period.from, period.to, period);
                cells.extend(["(held)".to_owned(), "-".to_owned()]);
                cells.push(or_dash(period.actor.clone()));
                rows.push(cells);
            }
            rows
        })
    }

    pub(crate) fn webhooks(self, list: &WebhookList) -> Result<(), Failure> {
        let header = ["WEBHOOK", "NAME", "OF", "URL", "KINDS", "STATE", "DELIVERED"];
        self.show(list, &header, |_| list.items.iter().map(webhook_row).collect())
    }

    pub(crate) fn webhook(self, one: Webhook) -> Result<(), Failure> {
        if self.output == Output::Json {
            return print_json(&one);
        }
        let why = one.last_error.clone();
        let next = one.next_attempt_at;
        self.webhooks(&WebhookList { items: vec![one], next_cursor: None })?;
        if let Some(why) = why.filter(|_| !self.quiet) {
            print_line(&format!("the last attempt that failed: {why}"));
        }
        if let Some(next) = next.filter(|_| !self.quiet) {
            print_line(&format!("the next attempt: {next}"));
        }
        Ok(())
    }

    /// Prints the secret alone, as other programs read it.
    pub(crate) fn webhook_secret(self, made: &WebhookWithSecret) -> Result<(), Failure> {
        if self.output == Output::Json {
            return print_json(made);
        }
        if !self.quiet {
            print_line(&made.webhook.id.to_string());
        }
        print_line(&made.secret);
        Ok(())
    }

    /// Says that something is no more.
    pub(crate) fn gone(self, how: &str, what: &str) -> Result<(), Failure> {
        if self.output == Output::Json {
            return print_json(&serde_json::json!({ how: what }));
        }
        print_line(&if self.quiet { what.to_owned() } else { format!("{what} {how}") });
        Ok(())
    }

    fn show(
        self,
        value: &impl Serialize,
        header: &[&str],
        rows: impl FnOnce(bool) -> Vec<Vec<String>>,
    ) -> Result<(), Failure> {
        match self.output {
            Output::Json => print_json(value),
            Output::Table if self.quiet => {
                for row in rows(false) {
                    print_line(row.first().map_or("", String::as_str));
                }
                Ok(())
            }
            Output::Table => {
                print_table(header, rows(std::io::stdout().is_terminal()));
                Ok(())
            }
        }
    }
}

const POOL: [&str; 8] =
    ["POOL", "RANGES", "SIZE", "ALLOCATED", "ASSOCIATED", "QUARANTINED", "FREE", "STATE"];

fn pool_row(pool: &Pool) -> Vec<String> {
    let ranges = pool.ranges.iter().map(ToString::to_string);
    let numbers = [pool.size, pool.allocated, pool.associated, pool.quarantined, pool.free];
    let mut row = vec![pool.name.to_string(), ranges.collect::<Vec<_>>().join(",")];
    row.extend(numbers.iter().map(ToString::to_string));
    row.push(if pool.draining { "draining" } else { "open" }.to_owned());
    row
}

const PROJECT: [&str; 4] = ["PROJECT", "ALLOCATED", "QUOTA", "AGE"];

fn project_row(one: &Project) -> Vec<String> {
    let quota = one.quota.map(|quota| quota.to_string());
    vec![one.name.to_string(), one.allocated.to_string(), or_dash(quota), age(one.created_at)]
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

const INSTANCE: [&str; 9] =
    ["INSTANCE", "STATE", "HOST", "PRIVATE IP", "KNOWN BY", "VPC", "ADDRESS", "ELIGIBLE", "MODES"];

fn instance_row(one: &Instance) -> Vec<String> {
    let modes: Vec<_> = one.modes.iter().map(|mode| mode.as_str()).collect();
    vec![
        format!("{}:{}", one.backend, one.name),
        one.state.to_string(),
        one.host.to_string(),
        or_dash(one.private_ip.map(|ip| ip.to_string())),
        or_dash(one.address_source.map(|source| match one.address_is_guess {
            true => format!("{source} (a guess)"),
            false => source.to_string(),
        })),
        or_dash(one.vpc_id.clone()),
        or_dash(one.public_ip.map(|ip| ip.to_string())),
        match &one.reason {
            Some(reason) => format!("no: {reason}"),
            None => "yes".to_owned(),
        },
        or_dash(Some(modes.join(",")).filter(|all| !all.is_empty())),
    ]
}

fn row(one: &ElasticIp, terminal: bool) -> Vec<String> {
    let (symbol, state) = match (one.status, one.data_plane.state) {
        (ElasticIpStatus::Allocated, DataPlaneState::Pending) => ("◌", "letting go"),
        (ElasticIpStatus::Allocated, _) => ("○", "allocated"),
        (ElasticIpStatus::Associated, DataPlaneState::Active | DataPlaneState::None) => {
            ("●", "associated")
        }
        (ElasticIpStatus::Associated, DataPlaneState::Pending) => ("◌", "pending"),
        (ElasticIpStatus::Associated, DataPlaneState::Failing) => ("▲", "failing"),
        (ElasticIpStatus::Associated, DataPlaneState::Unknown) => ("▲", "unknown"),
    };
    vec![
        one.public_ip.to_string(),
        or_dash(one.name.clone().map(String::from)),
        if terminal { format!("{symbol} {state}") } else { state.to_owned() },
        or_dash(one.instance_name.clone()),
        or_dash(one.host.clone().map(String::from)),
        age(one.allocated_at),
    ]
}

fn volume(packets: u64, bytes: u64) -> String {
    format!("{packets} packets, {bytes} bytes")
}

const fn status(status: ElasticIpStatus) -> &'static str {
    match status {
        ElasticIpStatus::Allocated => "allocated",
        ElasticIpStatus::Associated => "associated",
    }
}

fn age(since: Timestamp) -> String {
    let seconds = (Timestamp::now().as_second() - since.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Prints rows under a header: aligned on a terminal, tab-separated without a header in a pipe.
pub(crate) fn print_table(header: &[&str], rows: Vec<Vec<String>>) {
    if !std::io::stdout().is_terminal() {
        for row in rows {
            print_line(&row.join("\t"));
        }
        return;
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec()).add_rows(rows);
    for line in table.lines() {
        print_line(line.trim_end());
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    print_line(&text.map_err(|error| Failure::other("cannot write JSON", &error))?);
    Ok(())
}

/// Prints a line; a reader that has gone away is no failure.
pub(crate) fn print_line(line: &str) {
    writeln!(anstream::stdout().lock(), "{line}").ok();
}

fn webhook_row(one: &Webhook) -> Vec<String> {
    let kinds = one.kinds.as_ref().map(|kinds| {
        let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        words.join(",")
    });
    vec![
        one.id.to_string(),
        or_dash(one.name.clone().map(String::from)),
        one.project.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string),
        one.url.to_string(),
        kinds.unwrap_or_else(|| "all".to_owned()),
        one.state.to_string(),
        or_dash(one.delivered_at.map(age)),
    ]
}
