//! How the program is spoken to: by TLS, and no more often than a key may.

use rcgen::{CertificateParams, KeyPair};

use crate::scene::{SOON, Scene};

/// Writes a certificate for `eip.test` that signs itself, and its key, in place of what was there.
fn write_identity(scene: &Scene) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["eip.test".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let put = |name: &str, text: String| {
        let path = scene.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (put("server.crt", certificate.pem()), put("server.key", key.serialize_pem()))
}

#[test]
fn by_tls_the_world_comes_in_and_this_machine_speaks_to_itself_in_the_clear() {
    let scene = Scene::new();
    let (certificate, key) = write_identity(&scene);
    let options = ["--compute", "sandbox", "--listen", "0.0.0.0:8443"];
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let _serving = scene.serve(&[options.as_slice(), &tls].concat());
    let told = || Some(scene.log()).filter(|log| log.contains("next, in another terminal"));
    let log = eip_testkit::eventually("the first words", SOON, told);
    assert!(log.contains("https://0.0.0.0:8443") && log.contains("http://127.0.0.1:8080"), "{log}");
    scene.sandbox("web-1");
    let up = scene.eip_json("up web-1");
    assert_eq!(up["data_plane"]["state"], "active", "its own agent reaches it: {up}");

    let ask = |trusted: &str| {
        let at = "--resolve eip.test:8443:192.0.2.1 https://eip.test:8443/version";
        scene.world.try_sh(&format!("curl -sS -m 10 --cacert {trusted} {at}"))
    };
    let before = scene.folder.path().join("before.crt");
    std::fs::copy(&certificate, &before).unwrap();
    let before = before.to_str().unwrap();
    let answer = ask(before);
    let text = String::from_utf8_lossy(&answer.stdout);
    assert!(text.contains("\"version\""), "{answer:?}");
    let clear = scene.world.sh("curl -s -m 5 http://192.0.2.1:8443/version");
    assert!(clear.contains("this port speaks TLS"), "{clear}");
    let from_outside = scene.world.try_sh("curl -s -m 5 http://192.0.2.1:8080/version");
    assert!(!from_outside.status.success(), "the clear is for this machine alone");

    write_identity(&scene);
    eip_testkit::eventually("the new certificate to be served", SOON, || {
        ask(&certificate).status.success().then_some(())
    });
    assert!(!ask(before).status.success());
}

#[test]
fn half_a_pair_for_tls_is_refused() {
    let scene = Scene::new();
    let (certificate, key) = write_identity(&scene);
    for (options, code, word) in [
        (format!("--tls-cert {certificate}"), 2, "--tls-key"),
        (format!("--tls-cert {certificate} --tls-key {certificate}"), 1, "no private key"),
        (format!("--tls-cert /nowhere --tls-key {key}"), 1, "/nowhere"),
    ] {
        let (ended, out, err) = scene.try_eip(&format!("serve --no-agent {options}"));
        assert_eq!(ended, code, "{options}: {out}{err}");
        assert!(err.contains(word), "{options}: {err}");
    }
}

#[test]
fn a_key_of_a_project_is_limited_unless_it_was_asked_not_to_be() {
    let scene = Scene::new();
    let serving = scene.serve(&["--no-agent", "--rate-limit", "2"]);
    let made = scene.eip_json("key create --role member --project team-a");
    let key = made["key"].as_str().unwrap().to_owned();
    let member = format!("http://localhost:8080/elastic-ips -H 'X-API-Key: {key}'");
    eip_testkit::eventually("a request too many", SOON, || {
        (scene.curl(&member).0 == 429).then_some(())
    });
    for _ in 0..20 {
        scene.eip("list");
    }
    serving.stop();
    let _serving = scene.serve(&["--no-agent", "--rate-limit", "0"]);
    // In one process, so that they come at once.
    let many = format!("{member} -o /dev/null -w '%{{http_code}} %header{{ratelimit}}\\n'");
    let all = vec![many; 50].join(" --next -s ");
    let answers = scene.host.sh(&format!("curl -s {all}"));
    assert!(answers.lines().all(|line| line.trim() == "200"), "{answers}");
}
