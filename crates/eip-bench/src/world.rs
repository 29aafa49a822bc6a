//! The folder of a run and the PostgreSQL cluster in it.
//!
//! Both go away however this process ends: a shell holds one end of a pipe, and cleans up when the
//! other end closes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Makes the folder and the cluster, says where they are, and takes both away at the end of its
/// input. Durability is on: an answered commit is on the disk.
const KEEPER: &str = r#"
bin=$2 as=$3
dir=$(mktemp -d "$1/eip-bench.XXXXXX") || exit 1
finish() {
    $as "$bin/pg_ctl" -D "$dir/postgres/data" -m immediate stop >/dev/null 2>&1
    rm -rf "$dir"
}
trap finish EXIT
# The process that reads may be gone before it is told; a shell that a signal ends cleans up nothing.
trap '' PIPE
trap 'exit 1' HUP INT TERM
chmod 755 "$dir"
mkdir "$dir/postgres"
[ -z "$as" ] || chown postgres: "$dir/postgres"
log=$dir/postgres/log
cd "$dir/postgres" || exit 1
$as "$bin/initdb" -D "$dir/postgres/data" -U postgres -A trust -E UTF8 --locale=C \
    >"$dir/initdb" 2>&1 || { cat "$dir/initdb"; exit 1; }
$as "$bin/pg_ctl" -w -D "$dir/postgres/data" -l "$log" start -o "-c listen_addresses='' \
    -c unix_socket_directories='$dir/postgres' -c unix_socket_permissions=0777 \
    -c fsync=on -c synchronous_commit=on -c full_page_writes=on \
    -c shared_buffers=1GB -c max_wal_size=8GB -c max_connections=300" \
    </dev/null >/dev/null 2>&1 || { cat "$log"; exit 1; }
echo "ready $dir"
cat >/dev/null
"#;

/// The longest path that a unix socket can have, less the name of PostgreSQL's.
const LONGEST_FOLDER: usize = 80;

/// Where everything of this run lies.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    /// The programs of PostgreSQL.
    binaries: PathBuf,
    keeper: Child,
    /// Never written to: the keeper waits for it to close.
    alive: Option<ChildStdin>,
}

/// What keeps the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
}

impl Store {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }
}

/// A record that a server can be started on.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The name of the database; of the folder, too.
    pub(crate) name: String,
    pub(crate) url: String,
    /// The server's data folder.
    pub(crate) folder: PathBuf,
}

impl World {
    /// Makes the folder in `place` and starts the cluster.
    pub(crate) fn make(place: Option<&Path>) -> Result<Self> {
        let place = match place {
            Some(place) => place.canonicalize().context("cannot use --dir")?,
            None => real_disk()?,
        };
        let long = place.as_os_str().len() > LONGEST_FOLDER;
        ensure!(!long, "{} is too long a path for a unix socket: use --dir", place.display());
        let binaries = newest_binaries(Path::new("/usr/lib/postgresql"))?;
        // initdb refuses to run as root.
        let root = fs::metadata("/proc/self")?.uid() == 0;
        let become_postgres = if root { "runuser -u postgres --" } else { "" };
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&place, &binaries])
            .arg(become_postgres)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // An interrupt at the terminal is for the benchmark; this one has to clean up after it.
            .process_group(0)
            .spawn()
            .context("cannot start the shell that keeps the cluster")?;
        let alive = keeper.stdin.take();
        let mut said = BufReader::new(keeper.stdout.take().context("the shell has no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let Some(folder) = line.trim_end().strip_prefix("ready ") else {
            said.read_to_string(&mut line)?;
            bail!("the cluster does not start: {line}");
        };
        Ok(Self { folder: folder.into(), binaries, keeper, alive })
    }

    /// Returns a new and empty record.
    pub(crate) fn record(&self, store: Store, name: &str) -> Result<Record> {
        let folder = self.folder.join(name);
        let url = match store {
            Store::Postgres => {
                self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
                let socket = self.socket();
                format!("postgres:///{name}?host={}&user=postgres", socket.display())
            }
            Store::Sqlite => format!("sqlite:{}/eip.db", folder.display()),
        };
        Ok(Record { name: name.to_owned(), url, folder })
    }

    /// Removes a record whose server has stopped, and what PostgreSQL would still do for it in the
    /// background while the next is measured.
    pub(crate) fn forget(&self, store: Store, record: &Record) -> Result<()> {
        fs::remove_dir_all(&record.folder)?;
        if store == Store::Postgres {
            self.sql("postgres", &format!("DROP DATABASE {}", record.name))?;
        }
        Ok(())
    }

    /// Runs statements in a database, and returns what they print.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let mut command = self.client("psql", database);
        command.args(["-qtAX", "-v", "ON_ERROR_STOP=1", "-c", statements]);
        run(command)
    }

    /// A program of PostgreSQL that is told which database is meant.
    pub(crate) fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.current_dir(&self.folder).arg("-h").arg(self.socket());
        command.args(["-U", "postgres", "-d", database]);
        command
    }

    /// The version of PostgreSQL, as it says it.
    pub(crate) fn version(&self) -> Result<String> {
        let mut command = Command::new(self.binaries.join("postgres"));
        command.arg("--version");
        Ok(run(command)?.trim().to_owned())
    }

    /// The process that all others of the cluster are children of.
    pub(crate) fn postmaster(&self) -> Result<u32> {
        let text = self.sql("postgres", "SELECT pg_read_file('postmaster.pid')")?;
        let line = text.lines().next().unwrap_or_default();
        line.trim().parse().context("postmaster.pid begins with no number")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("postgres")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.alive.take());
        // Nothing can be done about a shell that cannot be waited for.
        self.keeper.wait().ok();
    }
}

/// Runs a program to its end, and returns what it printed.
pub(crate) fn run(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The file system of a folder and where it is mounted from, as `ext4 /dev/sda1`.
pub(crate) fn file_system(folder: &Path) -> Result<String> {
    let mut command = Command::new("df");
    command.args(["--output=fstype,source"]).arg(folder);
    let lines = run(command)?;
    let words = lines.lines().nth(1).unwrap_or_default().split_whitespace();
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Whether nothing there outlives the machine, so that waiting for the disk costs nothing.
pub(crate) fn is_memory(file_system: &str) -> bool {
    file_system.starts_with("tmpfs") || file_system.starts_with("ramfs")
}

fn real_disk() -> Result<PathBuf> {
    for place in ["/tmp", "/var/tmp"] {
        if !is_memory(&file_system(Path::new(place))?) {
            return Ok(place.into());
        }
    }
    bail!("/tmp and /var/tmp are in memory: name a folder on a disk with --dir")
}

/// Returns the folder of programs of the newest version that is installed.
fn newest_binaries(versions: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(versions)
        .with_context(|| format!("install postgresql: there is no {}", versions.display()))?;
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/initdb").exists() && path.join("bin/pgbench").exists())
        .max_by_key(version)
        .map(|path| path.join("bin"))
        .with_context(|| format!("install postgresql: no version in {}", versions.display()))
}
