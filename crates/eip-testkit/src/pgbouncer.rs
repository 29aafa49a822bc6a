//! A pgbouncer in front of a cluster.

use std::sync::OnceLock;

use crate::keeper::Keeper;
use crate::postgres::TestCluster;

/// Makes a pgbouncer that gives every transaction another connection, and takes it down at the end
/// of its input.
///
/// Its clients share few connections, so that what one leaves behind is met by another.
const KEEPER: &str = r#"
PATH=$PATH:/usr/sbin
command -v pgbouncer >/dev/null || { echo "install pgbouncer"; exit 1; }
dir=$(mktemp -d /tmp/eip-pgbouncer.XXXXXX) || exit 1
chmod 755 "$dir"
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap '' PIPE
trap 'exit 1' HUP INT TERM
cat >"$dir/pgbouncer.ini" <<END
[databases]
* = host=$1 user=postgres
[pgbouncer]
listen_port = 6432
unix_socket_dir = $dir
unix_socket_mode = 0777
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 2000
server_idle_timeout = 2
server_login_retry = 1
END
pgbouncer "$dir/pgbouncer.ini" </dev/null >"$dir/log" 2>&1 &
pid=$!
until [ -S "$dir/.s.PGSQL.6432" ]; do
    kill -0 "$pid" || { cat "$dir/log"; exit 1; }
    sleep 0.02
done
echo "ready $dir"
cat >/dev/null
"#;

static SHARED: OnceLock<TestBouncer> = OnceLock::new();

/// A pgbouncer that belongs to this test process.
#[derive(Debug)]
pub struct TestBouncer(Keeper);

impl TestBouncer {
    /// Returns the one in front of [`TestCluster::shared`], made by whoever asks first.
    ///
    /// # Panics
    /// When there is no pgbouncer here or it does not start; the message says why.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::before(TestCluster::shared()))
    }

    /// Makes one that is gone when it is dropped.
    ///
    /// # Panics
    /// When there is no pgbouncer here or it does not start; the message says why.
    #[must_use]
    pub fn before(cluster: &TestCluster) -> Self {
        match Keeper::start(KEEPER, &[&cluster.folder().display().to_string()]) {
            Ok(keeper) => Self(keeper),
            Err(error) => panic!("no pgbouncer for tests: {error:#}"),
        }
    }

    /// Returns the URL of a database of the cluster by way of this pgbouncer, as any client takes it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&port=6432&user=postgres", self.0.folder().display())
    }
}
