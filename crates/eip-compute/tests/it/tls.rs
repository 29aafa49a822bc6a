//! libvirtd over TLS, with certificates of the test's own.

use std::fs;
use std::path::Path;

use eip_model::InstanceState;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::follow::{AT_ONCE, Followed, SOON};
use crate::libvirtd::Libvirtd;

/// An authority that signs whom a test asks it to.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Writes what the named role needs into a folder.
    fn equip(&self, folder: &Path, role: &str, names: &[&str], purpose: ExtendedKeyUsagePurpose) {
        fs::create_dir_all(folder).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, role);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(folder.join("cacert.pem"), &self.certificate).unwrap();
        fs::write(folder.join(format!("{role}cert.pem")), certificate).unwrap();
        fs::write(folder.join(format!("{role}key.pem")), key.serialize_pem()).unwrap();
    }
}

fn settings(pki: &Path) -> String {
    format!(
        "listen_tls = 1\nlisten_tcp = 0\ntls_port = \"16514\"\nauth_tls = \"none\"\n\
         ca_file = \"{0}/cacert.pem\"\ncert_file = \"{0}/servercert.pem\"\n\
         key_file = \"{0}/serverkey.pem\"\n",
        pki.display()
    )
}

#[test]
fn a_daemon_is_followed_over_tls_by_whom_it_trusts_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let at = |name: &str| folder.path().join(name);
    ours.equip(&at("server"), "server", &["localhost"], ExtendedKeyUsagePurpose::ServerAuth);
    ours.equip(&at("client"), "client", &["us"], ExtendedKeyUsagePurpose::ClientAuth);
    theirs.equip(&at("stranger"), "client", &["us"], ExtendedKeyUsagePurpose::ClientAuth);
    // Trusts the server, and is not trusted by it.
    theirs.equip(&at("guest"), "client", &["us"], ExtendedKeyUsagePurpose::ClientAuth);
    fs::copy(at("client/cacert.pem"), at("guest/cacert.pem")).unwrap();

    let libvirtd = Libvirtd::start_with(&settings(&at("server")), &["--listen"]);
    let namespace = libvirtd.namespace();
    let follow = |host: &str, pki: &str| {
        let pki = at(pki).display().to_string();
        let uri = format!("test+tls://{host}/default?pkipath={pki}");
        Followed::start_in(&uri, Some(&namespace))
    };
    let followed = follow("localhost", "client");
    followed.until_one("test", SOON, |one| one.state == InstanceState::Running);
    libvirtd.virsh("test:///default", "suspend test");
    followed.until_one("test", AT_ONCE, |one| one.state == InstanceState::Paused);

    let why = |host: &str, pki: &str| follow(host, pki).until_unreachable(SOON);
    let stranger = why("localhost", "stranger");
    assert!(stranger.contains("certificate"), "{stranger}");
    let guest = why("localhost", "guest");
    assert!(guest.contains("certificate"), "{guest}");
    let other_name = why("127.0.0.1", "client");
    assert!(other_name.contains("certificate"), "{other_name}");
    let nothing = why("localhost", "nothing");
    assert!(nothing.contains("cacert.pem"), "{nothing}");
}
