//! Agents and commands of other machines: they speak TLS, and believe nobody who is not vouched for.

use std::path::{Path, PathBuf};

use eip_testkit::eventually;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::scene::{SOON, Scene};

const SECURED: &str = "https://192.0.2.1:8443";

/// An authority, and the file that its own certificate is in.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }
}

fn for_names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

/// The two files of the server, whose certificate is replaced now and then.
struct Identity<'s> {
    scene: &'s Scene,
}

impl Identity<'_> {
    fn path(&self, name: &str) -> String {
        self.scene.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn options(&self) -> Vec<String> {
        let (certificate, key) = (self.path("server.crt"), self.path("server.key"));
        ["--no-agent", "--listen", "0.0.0.0:8443", "--tls-cert", &certificate, "--tls-key", &key]
            .map(str::to_owned)
            .to_vec()
    }

    fn put(&self, params: &CertificateParams, by: &Authority) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &by.issuer).unwrap().pem();
        self.write(&certificate, &key);
    }

    fn write(&self, certificate: &str, key: &KeyPair) {
        for (name, text) in [("server.crt", certificate), ("server.key", &key.serialize_pem())] {
            std::fs::write(self.path("draft"), text).unwrap();
            std::fs::rename(self.path("draft"), self.path(name)).unwrap();
        }
    }
}

#[test]
fn an_agent_and_commands_follow_a_server_by_tls_while_its_certificate_is_replaced() {
    let scene = Scene::new();
    let authority = Authority::new(scene.folder.path(), "ours");
    let identity = Identity { scene: &scene };
    identity.put(&for_names(&["192.0.2.1"]), &authority);
    let options = identity.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let serving = scene.serve(&options);
    let made = scene.eip_json("key create --role agent --host h1");
    let key_file = identity.path("host.key");
    std::fs::write(&key_file, made["key"].as_str().unwrap()).unwrap();
    let whom = ["--server", SECURED, "--ca-file", authority.file(), "--key-file", &key_file];
    let _agent = scene.agent(&[&whom[..], &["--compute", "sandbox"]].concat());
    scene.sandbox("web-1");
    scene.sandbox("web-2");
    let by_tls = format!("--url {SECURED} --ca-file {}", authority.file());
    let up = scene.eip_json(&format!("{by_tls} up web-1 --name web"));
    assert_eq!(up["data_plane"]["state"], "active", "{up}");
    let address = up["public_ip"].as_str().unwrap();

    identity.put(&for_names(&["192.0.2.1", "eip.test"]), &authority);
    let new = format!(
        "curl -sf -m 5 --cacert {} --resolve eip.test:8443:192.0.2.1 https://eip.test:8443/version",
        authority.file()
    );
    eventually("the new certificate to be served", SOON, || {
        scene.world.try_sh(&new).status.success().then_some(())
    });
    let moved = scene.eip_json(&format!("{by_tls} move web web-2"));
    assert_eq!(moved["data_plane"]["state"], "active", "{moved}");
    // Every connection is a new one from here on.
    serving.stop();
    let _serving = scene.serve(&options);
    let moved = scene.eip_json(&format!("{by_tls} move web web-1 --wait 20"));
    assert_eq!(moved["data_plane"]["state"], "active", "{moved}");
    let page = eventually("its page", SOON, || scene.page(address));
    assert!(page.starts_with("web-1\n"), "{page}");
    // Whom the machine trusts: where its certificates are is the environment's to say.
    let (code, out, err) = scene.try_eip(&format!("--url {SECURED} list"));
    assert_eq!(code, 8, "{out}{err}");
    let trusting = format!("SSL_CERT_FILE={} EIP_URL={SECURED}", authority.file());
    let eip = env!("CARGO_BIN_EXE_eip");
    let data_dir = scene.data_dir();
    let list = format!("{trusting} EIP_DATA_DIR={} {eip} list -q", data_dir.display());
    assert_eq!(scene.host.sh(&list).trim(), address);
}

#[test]
fn whoever_is_not_vouched_for_is_not_spoken_to_and_the_reason_is_told() {
    let scene = Scene::new();
    let folder = scene.folder.path();
    let (ours, theirs) = (Authority::new(folder, "ours"), Authority::new(folder, "theirs"));
    let identity = Identity { scene: &scene };
    identity.put(&for_names(&["192.0.2.1"]), &ours);
    let options = identity.options();
    let _serving = scene.serve(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let told = |url: &str, ca: &str, code: i32, words: &[&str]| {
        let (ended, out, err) = scene.try_eip(&format!("--url {url} --ca-file {ca} list"));
        let fits = ended == code && words.iter().all(|word| err.contains(word));
        fits.then_some(()).ok_or(format!("{url} {ca}: {ended}: {out}{err}"))
    };
    assert_eq!(told(SECURED, ours.file(), 0, &[]), Ok(()));
    let others = "https://127.0.0.1:8443";
    let empty = identity.path("server.key");
    for (url, ca, code, words) in [
        (SECURED, theirs.file(), 8, ["signed by nobody trusted", "--ca-file"]),
        (others, ours.file(), 8, ["not for 127.0.0.1", "192.0.2.1"]),
        ("http://192.0.2.1:8443", ours.file(), 2, ["this port speaks TLS", "https://"]),
        ("https://127.0.0.1:8080", ours.file(), 8, ["does not speak TLS", "http://"]),
        ("https://127.0.0.1:1", ours.file(), 8, ["refused", "--url"]),
        ("ftp://192.0.2.1", ours.file(), 2, ["neither an http nor an https", "https://"]),
        (SECURED, "/nowhere", 2, ["/nowhere", "EIP_CA_FILE"]),
        ("http://127.0.0.1:8080", "/nowhere", 0, ["", ""]),
        (SECURED, &empty, 2, ["no certificate", "EIP_CA_FILE"]),
    ] {
        assert_eq!(told(url, ca, code, &words), Ok(()));
    }
    std::fs::write(scene.data_dir().join("agent.key"), "whatever it is").unwrap();
    let whom = ["--server", SECURED, "--ca-file", theirs.file(), "--compute", "sandbox"];
    let _agent = scene.agent(&whom);
    eventually("the agent to say why", SOON, || {
        let log = std::fs::read_to_string(folder.join("agent.log")).unwrap();
        (log.contains("signed by nobody trusted here") && log.contains("--ca-file")).then_some(())
    });

    let mut past = for_names(&["192.0.2.1"]);
    past.not_after = date_time_ymd(2001, 2, 3);
    let mut future = for_names(&["192.0.2.1"]);
    future.not_before = date_time_ymd(4000, 1, 1);
    for (params, words) in [(past, ["has expired", "renew"]), (future, ["not valid yet", "clock"])]
    {
        identity.put(&params, &ours);
        eventually(words[0], SOON, || told(SECURED, ours.file(), 8, &words).ok());
    }
    // One that is an authority itself, and trusted as such.
    let mut own = for_names(&["192.0.2.1"]);
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let own = own.self_signed(&key).unwrap().pem();
    identity.write(&own, &key);
    let itself = identity.path("server.crt");
    eventually("a server that is an authority", SOON, || {
        told(SECURED, &itself, 8, &["of an authority", "none itself"]).ok()
    });
}
