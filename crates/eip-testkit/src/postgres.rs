//! Private PostgreSQL clusters for tests.
//!
//! One per test binary that all its tests share, and more for tests that stop theirs; each in a
//! folder of its own, reachable over a unix socket only unless told otherwise. A cluster goes away
//! however the test process ends: a small shell reads from a pipe, and takes the cluster down when
//! the other end closes.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tokio_postgres::NoTls;

use crate::keeper::Keeper;

/// Makes the cluster, says where it is, stops and starts it as it is told, and takes it down at the
/// end of its input.
///
/// Nothing waits for the disk (`fsync=off` and so on): the cluster is thrown away with its folder,
/// and what is tested here is not whether PostgreSQL survives a power cut.
const KEEPER: &str = r#"
bin=$1
dir=$(mktemp -d /tmp/eip-postgres.XXXXXX) || exit 1
chmod 755 "$dir"
# Those whose parent has stopped cannot become more, and one that has just ended is well, too.
signal() {
    read -r first <"$dir/data/postmaster.pid" && kill -s "$1" "$first" || return 1
    for one in $(cat "/proc/$first/task/$first/children"); do kill -s "$1" "$one"; done
    true
}
finish() {
    signal CONT 2>/dev/null
    "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1
    rm -rf "$dir"
}
trap finish EXIT
# The process that reads may be gone before it is told; a shell that a signal ends cleans up nothing.
trap '' PIPE
trap 'exit 1' HUP INT TERM
start() { "$bin/pg_ctl" -w -D "$dir/data" -l "$dir/log" start </dev/null >/dev/null 2>&1; }
"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
    >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0777
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 300
autovacuum = off
$2
END
start || { cat "$dir/log"; exit 1; }
echo "ready $dir"
while read -r word mode; do
    case $word in
    start) start ;;
    freeze) signal STOP ;;
    thaw) signal CONT ;;
    stop) "$bin/pg_ctl" -w -D "$dir/data" -m "$mode" stop >/dev/null 2>&1 ;;
    esac && echo done || { echo failed; cat "$dir/log"; exit 1; }
done
"#;

/// How a cluster is stopped.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// Connections are ended, and everything is written down.
    Fast,
    /// As if the machine had lost its power: nobody is told anything.
    Immediate,
}

static SHARED: OnceLock<TestCluster> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A PostgreSQL cluster that belongs to this test process.
#[derive(Debug)]
pub struct TestCluster {
    keeper: Keeper,
    /// Also a part of the name of its socket.
    port: u16,
}

impl TestCluster {
    /// Returns the cluster of this process, made by whoever asks first. Nobody stops it.
    ///
    /// # Panics
    /// When there is no PostgreSQL here or it does not start; the message says why.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::private(""))
    }

    /// Makes a cluster that is gone when it is dropped. `settings` are lines of `postgresql.conf`.
    ///
    /// # Panics
    /// When there is no PostgreSQL here or it does not start; the message says why.
    #[must_use]
    pub fn private(settings: &str) -> Self {
        Self::made(settings, 5432)
    }

    /// Makes one that listens on loopback, too; its databases are at [`TestCluster::port`] there.
    ///
    /// # Panics
    /// When there is no PostgreSQL here or it does not start; the message says why.
    #[must_use]
    pub fn listening() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        match free {
            Ok(free) => {
                let port = free.port();
                let settings = format!("listen_addresses = '127.0.0.1'\nport = {port}");
                Self::made(&settings, port)
            }
            Err(error) => panic!("no port for PostgreSQL: {error}"),
        }
    }

    /// The port of a cluster that listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn made(settings: &str, port: u16) -> Self {
        match Self::make(settings, port) {
            Ok(cluster) => cluster,
            Err(error) => panic!("no PostgreSQL for tests: {error:#}"),
        }
    }

    /// Stops the cluster, and returns when it has stopped.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.order(&format!("stop {mode}"));
    }

    /// Starts the cluster after it was stopped, and returns when it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self) {
        self.order("start");
    }

    /// Has all processes of the cluster stand still: connections stay, and nothing is said on them.
    ///
    /// # Panics
    /// When they cannot be stopped.
    pub fn freeze(&self) {
        self.order("freeze");
    }

    /// Lets them go on as if nothing had happened.
    ///
    /// # Panics
    /// When they cannot.
    pub fn thaw(&self) {
        self.order("thaw");
    }

    /// Returns the folder with the socket, the log, and `data`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// Writes a file for the server, which only it may read.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder().join(name);
        let write = || {
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let owner = std::fs::metadata(self.folder())?;
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
        };
        if let Err(error) = write() {
            panic!("cannot write {}: {error}", path.display());
        }
    }

    fn order(&self, what: &str) {
        if let Err(error) = self.keeper.order(what) {
            panic!("PostgreSQL for tests: {error:#}");
        }
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Panics
    /// When the cluster does not answer.
    pub async fn fresh_database(&self) -> String {
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        match self.create(&name).await {
            Ok(()) => self.url(&name),
            Err(error) => panic!("cannot make the database {name}: {error:#}"),
        }
    }

    /// Returns the URL of a database of this cluster.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (folder, port) = (self.folder().display(), self.port);
        format!("postgres:///{database}?host={folder}&port={port}&user=postgres")
    }

    async fn create(&self, name: &str) -> Result<()> {
        run(&self.url("postgres"), &format!("CREATE DATABASE {name}")).await
    }

    fn make(settings: &str, port: u16) -> Result<Self> {
        let bin = newest_binaries(Path::new("/usr/lib/postgresql"))?;
        let keeper = Keeper::start(KEEPER, &[&bin.display().to_string(), settings])?;
        Ok(Self { keeper, port })
    }
}

/// Runs statements in the database at this URL, behind the back of whoever uses it.
///
/// # Panics
/// When the database does not answer, or refuses them.
pub async fn execute(url: &str, statements: &str) {
    if let Err(error) = run(url, statements).await {
        panic!("cannot run {statements}: {error:#}");
    }
}

async fn run(url: &str, statements: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driving = tokio::spawn(connection);
    client.batch_execute(statements).await?;
    drop(client);
    driving.await??;
    Ok(())
}

/// Returns the folder of programs of the newest version that is installed.
fn newest_binaries(versions: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(versions)
        .with_context(|| format!("install postgresql: there is no {}", versions.display()))?;
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(version)
        .map(|path| path.join("bin"))
        .with_context(|| format!("install postgresql: no version in {}", versions.display()))
}
