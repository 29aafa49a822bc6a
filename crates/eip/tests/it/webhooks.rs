//! `eip webhook`, with a receiver on another machine.

use std::os::unix::fs::PermissionsExt;

use eip_testkit::eventually;
use serde_json::Value;

use crate::scene::{SOON, Scene, WORLD};

const HOOK: &str = "http://192.0.2.9:8081/cgi-bin/hook";

/// Gives the world a page that keeps what is posted to it, a line each. Returns those lines.
fn receiver(scene: &Scene) -> impl Fn() -> Vec<Value> {
    let pages = scene.folder.path().join("pages/cgi-bin");
    let kept = scene.folder.path().join("hooked");
    let script = format!(
        "#!/bin/sh\n{{ head -c \"$CONTENT_LENGTH\"; echo; }} >> {}\nprintf '\\r\\n'\n",
        kept.display()
    );
    std::fs::write(pages.join("hook"), script).unwrap();
    std::fs::set_permissions(pages.join("hook"), PermissionsExt::from_mode(0o755)).unwrap();
    move || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn a_webhook_is_made_used_shown_changed_and_deleted() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--no-agent"]);
    let hooked = receiver(&scene);
    let kinds = || {
        let kind = |one: Value| one["type"].as_str().unwrap().to_owned();
        hooked().into_iter().map(kind).collect::<Vec<_>>()
    };
    let told = |expected: &[&str]| {
        eventually("the events to arrive", SOON, || {
            (kinds().len() >= expected.len()).then_some(())
        });
        assert_eq!(kinds(), expected);
    };
    let made = scene.eip(&format!("webhook create {HOOK} --name audit --kind allocated,moved"));
    let [id, secret] = &made.lines().collect::<Vec<_>>()[..] else { panic!("{made}") };
    assert!(secret.starts_with("whsec_"), "{made}");
    let ip = scene.eip("-q allocate --name web");
    scene.eip(&format!("protect {}", ip.trim()));
    told(&["webhook_created", "allocated"]);

    let list = scene.eip("webhook list");
    assert!(list.contains(id) && list.contains("audit") && list.contains(HOOK), "{list}");
    assert!(!list.contains(secret), "{list}");
    let shown = scene.eip_json(&format!("webhook show {id}"));
    assert_eq!((&shown["state"], &shown["kinds"][1]), (&"active".into(), &"moved".into()));

    let changed = scene.eip_json(&format!("webhook set {id} --all-kinds"));
    assert_eq!(changed["kinds"], Value::Null);
    scene.eip(&format!("unprotect {}", ip.trim()));
    told(&["webhook_created", "allocated", "webhook_updated", "updated"]);

    scene.eip(&format!("webhook disable {id}"));
    scene.eip("-q allocate --name second");
    let off = scene.eip_json(&format!("webhook show {id}"));
    assert_eq!(off["state"], "disabled");
    scene.eip(&format!("webhook enable {id}"));
    let rotated = scene.eip(&format!("-q webhook rotate {id}"));
    assert!(rotated.starts_with("whsec_") && rotated.trim() != *secret, "{rotated}");
    told(&[
        "webhook_created",
        "allocated",
        "webhook_updated",
        "updated",
        "webhook_updated",
        "allocated",
        "webhook_updated",
        "webhook_updated",
    ]);

    // Nobody answers there: it says so, and when it tries again.
    let nowhere = format!("http://{WORLD}:9/");
    scene.eip(&format!("webhook set {id} --to {nowhere}"));
    let failing = eventually("an attempt to fail", SOON, || {
        let shown = scene.eip(&format!("webhook show {id}"));
        shown.contains("the next attempt: ").then_some(shown)
    });
    assert!(failing.contains("refused") && failing.contains("failing"), "{failing}");

    assert_eq!(scene.eip(&format!("webhook delete {id}")), format!("{id} deleted\n"));
    let (exit, out, err) = scene.try_eip(&format!("webhook show {id}"));
    assert_eq!(exit, 3, "{out}{err}");
    assert!(err.contains("webhook_not_found"), "{err}");
}

#[test]
fn a_webhook_that_cannot_be_is_refused_with_what_to_do() {
    let scene = Scene::new();
    let _serving = scene.serve(&["--no-agent"]);
    for (args, says) in [
        ("create ftp://x/", "begins with https://"),
        ("create http://127.0.0.1:8080/", "--webhook-allow"),
        // The address of its cable.
        ("create http://192.0.2.1:8080/", "of this machine"),
        ("create http://hooks.example.com/ --kind molested", "molested"),
        ("set 7", "required"),
    ] {
        let (exit, out, err) = scene.try_eip(&format!("webhook {args}"));
        assert_eq!(exit, 2, "eip webhook {args}: {out}{err}");
        assert!(err.contains(says), "eip webhook {args}: {err}");
    }
}
