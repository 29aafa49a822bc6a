//! TLS to PostgreSQL, by a server with a certificate for `localhost`.

use eip_store::{OpenError, open};
use eip_testkit::postgres::TestCluster;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rstest::rstest;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

use crate::world::World;

/// A cluster that speaks TLS, with files for its clients in its folder.
struct Server(TestCluster);

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// Who signs certificates.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

/// A certificate and its key.
fn signed(by: &Issuer<'_, KeyPair>, hosts: &[&str], name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

async fn server() -> &'static Server {
    SERVER.get_or_init(Server::start).await
}

impl Server {
    async fn start() -> Self {
        let cluster = TestCluster::listening();
        let (root, authority) = authority();
        let (certificate, key) = signed(&authority, &["localhost"], "db");
        cluster.write("data/server.crt", &certificate);
        cluster.write("data/server.key", &key);
        cluster.write("data/root.crt", &root);
        let who = "local all all trust\nhost all certified all cert\n\
                   host all scrambled all scram-sha-256\nhost all all all trust\n";
        cluster.write("data/pg_hba.conf", &who.replace("host all c", "hostssl all c"));
        let url = cluster.url("postgres");
        let (operator, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        for order in [
            "ALTER SYSTEM SET ssl = on",
            "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
            "CREATE ROLE certified SUPERUSER LOGIN",
            "CREATE ROLE scrambled SUPERUSER LOGIN PASSWORD 'of a secret'",
            "SELECT pg_reload_conf()",
        ] {
            operator.batch_execute(order).await.unwrap();
        }
        let (client, client_key) = signed(&authority, &[], "certified");
        std::fs::write(cluster.folder().join("root.crt"), root).unwrap();
        std::fs::write(cluster.folder().join("other.crt"), self::authority().0).unwrap();
        std::fs::write(cluster.folder().join("client.crt"), client).unwrap();
        for (name, mode) in [("client.key", 0o600), ("open.key", 0o644)] {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::write(cluster.folder().join(name), &client_key).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(cluster.folder().join(name), mode).unwrap();
        }
        let server = Self(cluster);
        // Until it has read all that.
        let url = server.url("postgres", "localhost", "postgres");
        eip_testkit::eventually_async(
            "it speaks TLS",
            std::time::Duration::from_secs(5),
            async || {
                let url = format!("{url}&sslmode=require");
                let opened = open(&url).await;
                (!matches!(opened, Err(OpenError::ServerWithoutTls { .. }))).then_some(())
            },
        )
        .await;
        server
    }

    fn url(&self, database: &str, host: &str, user: &str) -> String {
        format!("postgres://{user}@{host}:{}/{database}?", self.0.port())
    }

    async fn fresh(&self, host: &str, user: &str) -> String {
        let direct = self.0.fresh_database().await;
        let name = direct.trim_start_matches("postgres:///").split('?').next().unwrap();
        self.url(name, host, user)
    }

    /// Puts the paths of files into parameters.
    fn with_files(&self, parameters: &str) -> String {
        parameters.replace("DIR", &format!("{}/", self.0.folder().display()))
    }
}

#[rstest]
#[case::left_open("127.0.0.1", "", true)]
#[case::disable("127.0.0.1", "sslmode=disable", false)]
#[case::prefer("127.0.0.1", "sslmode=prefer", true)]
#[case::require("127.0.0.1", "sslmode=require", true)]
#[case::require_with_roots("127.0.0.1", "sslmode=require&sslrootcert=DIRroot.crt", true)]
#[case::verify_ca("127.0.0.1", "sslmode=verify-ca&sslrootcert=DIRroot.crt", true)]
#[case::verify_full("localhost", "sslmode=verify-full&sslrootcert=DIRroot.crt", true)]
#[tokio::test]
async fn every_connection_is_as_well_protected_as_was_asked(
    #[case] host: &str,
    #[case] parameters: &str,
    #[case] encrypted: bool,
) {
    let server = server().await;
    let url = server.fresh(host, "postgres").await;
    let world = World::on(format!("{url}{}", server.with_files(parameters))).await;
    let mut news = world.repo.news();
    world.hold(1).await;
    // The listener's is among them.
    news.recv().await.unwrap();
    let name = url.rsplit('/').next().unwrap().trim_end_matches('?');
    let (operator, connection) = tokio_postgres::connect(&server.0.url(name), NoTls).await.unwrap();
    tokio::spawn(connection);
    let how = "SELECT count(*), count(*) FILTER (WHERE ssl)
                 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                WHERE datname = current_database() AND application_name = 'eip'";
    let row = operator.query_one(how, &[]).await.unwrap();
    let (all, by_tls): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2, "{all}");
    assert_eq!(by_tls, if encrypted { all } else { 0 });
}

#[rstest]
#[case::by_somebody_else("localhost", "sslmode=verify-full&sslrootcert=DIRother.crt", "untrusted")]
#[case::by_somebody_else_for_any_host(
    "localhost",
    "sslmode=verify-ca&sslrootcert=DIRother.crt",
    "untrusted"
)]
#[case::by_somebody_else_as_libpq_has_it(
    "localhost",
    "sslmode=require&sslrootcert=DIRother.crt",
    "untrusted"
)]
#[case::unknown_to_the_world("localhost", "sslrootcert=system", "untrusted")]
#[case::for_another_host("127.0.0.1", "sslmode=verify-full&sslrootcert=DIRroot.crt", "host")]
#[case::no_certificate("localhost", "sslmode=verify-full&sslrootcert=DIRclient.key", "file")]
#[tokio::test]
async fn a_server_that_is_not_to_be_trusted_is_not_used(
    #[case] host: &str,
    #[case] parameters: &str,
    #[case] why: &str,
) {
    let server = server().await;
    let url = server.url("postgres", host, "postgres");
    let error = open(&format!("{url}{}", server.with_files(parameters))).await.unwrap_err();
    let expected = match why {
        "untrusted" => matches!(error, OpenError::Untrusted { .. }),
        "host" => matches!(error, OpenError::WrongHost { .. }),
        _ => matches!(error, OpenError::TlsFile { parameter: "sslrootcert", .. }),
    };
    assert!(expected, "{error:?}");
    assert!(std::error::Error::source(&error).is_some(), "{error:?}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_keeps_its_key_to_itself() {
    let server = server().await;
    let url = server.fresh("localhost", "certified").await;
    let with = |key: &str| {
        let files = format!("sslcert=DIRclient.crt&sslkey=DIR{key}");
        let all = format!("sslmode=verify-full&sslrootcert=DIRroot.crt&{files}");
        format!("{url}{}", server.with_files(&all))
    };
    World::on(with("client.key")).await.hold(1).await;
    let without = open(&format!("{url}sslmode=require")).await.unwrap_err();
    assert!(matches!(without, OpenError::Database { .. }), "{without:?}");
    let open_key = open(&with("open.key")).await.unwrap_err();
    let refused = matches!(open_key, OpenError::TlsFile { parameter: "sslkey", .. });
    assert!(refused, "{open_key:?}");
}

/// Whoever sits in between and speaks TLS with both sides cannot pass the password on.
#[tokio::test]
async fn a_password_is_bound_to_the_tls_connection() {
    let server = server().await;
    let url = server.fresh("localhost", "scrambled:of%20a%20secret").await;
    World::on(format!("{url}sslmode=require&channel_binding=require")).await.hold(1).await;
    let plain = format!("{url}sslmode=disable&channel_binding=require");
    let error = open(&plain).await.unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_used_only_if_that_is_good_enough() {
    let cluster = TestCluster::listening();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port());
    World::on(url.clone()).await.hold(1).await;
    let error = open(&format!("{url}?sslmode=require")).await.unwrap_err();
    let told = matches!(error, OpenError::ServerWithoutTls { mode: "require" });
    assert!(told, "{error:?}");
}
