//! A private PostgreSQL cluster for tests.
//!
//! One per test binary, in a folder of its own, reachable over a unix socket only. It goes away
//! however the test process ends: a small shell holds one end of a pipe, and takes the cluster down
//! when the other end closes.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use tokio_postgres::NoTls;

/// Makes the cluster, says where it is, and takes it down at the end of its input.
///
/// Nothing waits for the disk (`fsync=off` and so on): the cluster is thrown away with its folder,
/// and what is tested here is not whether PostgreSQL survives a power cut.
const WATCHDOG: &str = r#"
bin=$1
dir=$(mktemp -d /tmp/eip-postgres.XXXXXX) || exit 1
chmod 755 "$dir"
finish() {
    "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1
    rm -rf "$dir"
}
trap finish EXIT
# The process that reads may be gone before it is told; a shell that a signal ends cleans up nothing.
trap '' PIPE
trap 'exit 1' HUP INT TERM
"$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
    >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
"$bin/pg_ctl" -w -D "$dir/data" -l "$dir/log" start -o "-c listen_addresses='' \
    -c unix_socket_directories='$dir' -c unix_socket_permissions=0777 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
    -c shared_buffers=32MB -c max_connections=300 -c autovacuum=off" \
    </dev/null >/dev/null 2>&1 || { cat "$dir/log"; exit 1; }
echo "ready $dir"
cat >/dev/null
"#;

static SHARED: OnceLock<TestCluster> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A PostgreSQL cluster that belongs to this test process.
#[derive(Debug)]
pub struct TestCluster {
    folder: PathBuf,
    _watchdog: Child,
    /// Never written to: the watchdog waits for it to close.
    _alive: ChildStdin,
}

impl TestCluster {
    /// Returns the cluster of this process, made by whoever asks first.
    ///
    /// # Panics
    /// When there is no PostgreSQL here or it does not start; the message says why.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| match Self::start() {
            Ok(cluster) => cluster,
            Err(error) => panic!("no PostgreSQL for tests: {error:#}"),
        })
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
        format!("postgres:///{database}?host={}&user=postgres", self.folder.display())
    }

    async fn create(&self, name: &str) -> Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.url("postgres"), NoTls).await?;
        let driving = tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        drop(client);
        driving.await??;
        Ok(())
    }

    fn start() -> Result<Self> {
        let bin = newest_binaries(Path::new("/usr/lib/postgresql"))?;
        let mut command = if nix::unistd::geteuid().is_root() {
            // initdb refuses to run as root.
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let mut watchdog = command
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&bin)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // An interrupt at the terminal is for the tests; this one has to clean up after them.
            .process_group(0)
            .spawn()
            .context("cannot start the shell that watches the cluster")?;
        let alive = watchdog.stdin.take().context("the shell has no input")?;
        let mut said = BufReader::new(watchdog.stdout.take().context("the shell has no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let Some(folder) = line.trim_end().strip_prefix("ready ") else {
            said.read_to_string(&mut line)?;
            bail!("the cluster does not start: {line}");
        };
        Ok(Self { folder: folder.into(), _watchdog: watchdog, _alive: alive })
    }
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
