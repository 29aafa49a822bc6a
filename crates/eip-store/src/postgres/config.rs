//! How to reach the database, and what every connection to it is set to.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::Tls;
use super::url::Ours;
use crate::open::OpenError;

/// How long to wait for a connection, for one that is free, and for a commit.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a statement may take until its connection is given up. The server gives up sooner, by
/// `statement_timeout`, if it is still there.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// How long a connection may take to say that it is there, and as it was before.
pub(super) const CHECK: Duration = Duration::from_secs(1);

/// How soon a connection on which nothing is said is tried, so that one that a firewall forgot, or
/// whose server has no power any more, is not found out by a caller.
const QUIET: Duration = Duration::from_secs(10);

/// What the driver does if it is told nothing, which is nothing for two hours.
const DRIVERS_QUIET: Duration = Duration::from_secs(2 * 60 * 60);

/// A transaction of ours takes milliseconds; what takes longer waits for something that is wrong,
/// and must not hold locks meanwhile. Whether a commit waits for a standby is left as the server
/// has it.
///
/// Every statement of ours looks rows up by an index. A planner that has not counted the tables yet,
/// or that made its plan when they were empty, would rather read all of them. One that does not know
/// how many rows are asked for starts processes to read a page of a long list: that takes 7 ms.
///
/// Warnings are listened for: one says that a commit does not wait for its standby any more.
const SETTINGS: [(&str, &str); 11] = [
    ("lock_timeout", "3s"),
    ("statement_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("random_page_cost", "0.1"),
    ("plan_cache_mode", "force_generic_plan"),
    ("max_parallel_workers_per_gather", "0"),
    ("jit", "off"),
    ("client_min_messages", "warning"),
];

/// The settings as a part of the startup of a connection.
fn startup() -> String {
    // Other isolation levels are asked for where a transaction begins.
    let level = "-c default_transaction_isolation=read\\ committed".to_owned();
    let settings = SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}"));
    std::iter::once(level).chain(settings).collect::<Vec<_>>().join(" ")
}

/// The settings as statements, for a transaction whose connection may be another one each time.
pub(super) fn in_transaction() -> String {
    SETTINGS.iter().map(|(name, value)| format!("; SET LOCAL {name} = '{value}'")).collect()
}

/// What the URL asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) config: Config,
    /// Whether there is a pgbouncer in between which gives each transaction another connection.
    pub(super) bouncer: bool,
    pub(super) tls: Tls,
}

/// Reads the URL, and adds what it leaves open.
pub(super) fn read(url: &str) -> Result<Asked, OpenError> {
    let Ours { url, bouncer, tls } = Ours::taken_out(url)?;
    let mut config: Config = url.parse().map_err(OpenError::InvalidUrl)?;
    if config.get_hosts().is_empty() {
        // What a certificate is for, where nothing else is named.
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
    let tls = Tls::new(&tls)?;
    config.ssl_mode(tls.mode.of_driver());
    // Nobody is on the way there.
    if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        config.ssl_mode(SslMode::Disable);
    }
    // pgbouncer refuses them.
    if !bouncer {
        let settings = match config.get_options() {
            Some(given) => format!("{} {given}", startup()),
            None => startup(),
        };
        config.options(settings);
    }
    // A standby would refuse the writes and answer reads with what was true a while ago.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    if config.get_application_name().is_none() {
        config.application_name("eip");
    }
    if config.get_connect_timeout().is_none() {
        // All of them are tried within the patience for one connection.
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
        config.connect_timeout(PATIENCE / u32::try_from(hosts).unwrap_or(u32::MAX));
    }
    if config.get_keepalives_idle() == DRIVERS_QUIET {
        config.keepalives_idle(QUIET);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(QUIET / 3);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(PATIENCE * 2);
    }
    Ok(Asked { config, bouncer, tls })
}

/// Says where the database is, without who we are there.
pub(super) fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    format!("{}, database {}", hosts.join(","), config.get_dbname().unwrap_or("default"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_asked_for_as_libpq_would() {
        let mode = |rest: &str| read(&format!("postgres://{rest}")).unwrap().config.get_ssl_mode();
        assert_eq!(mode("eip@db/eip"), SslMode::Prefer);
        assert_eq!(mode("eip@db/eip?sslmode=require"), SslMode::Require);
        assert_eq!(mode("eip@db/eip?sslrootcert=system"), SslMode::Require);
        // A unix socket has none, whatever is asked for.
        assert_eq!(mode("/eip?host=/run/postgresql&sslmode=require"), SslMode::Disable);
        for contradiction in [
            "sslmode=verify-full",
            "sslmode=verify-ca",
            "sslrootcert=/etc/roots.pem",
            "sslmode=require&sslrootcert=system",
            "sslmode=verify-ca&sslrootcert=system",
            "sslcert=/etc/eip.crt",
        ] {
            let error = read(&format!("postgres://db/eip?{contradiction}")).unwrap_err();
            assert!(matches!(error, OpenError::Contradiction { .. }), "{contradiction}: {error}");
        }
        let unreadable = "postgres://db/eip?sslmode=verify-full&sslrootcert=/nowhere/roots.pem";
        let error = read(unreadable).unwrap_err().to_string();
        assert!(error.contains("sslrootcert=/nowhere/roots.pem"), "{error}");
    }

    #[test]
    fn the_place_of_a_database_holds_no_secret() {
        let config = read("postgres://eip:hunter2@db1,db2/elastic").unwrap().config;
        assert_eq!(place(&config), "db1,db2, database elastic");
    }
}
