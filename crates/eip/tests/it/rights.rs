//! What the service may do, and what it says that it may not.

use std::os::unix::fs::PermissionsExt;

use eip_testkit::eventually;

use crate::scene::{SOON, Scene, WHO};

/// The words of setpriv that leave a process, whoever starts it, with these rights alone.
fn nobody_with(rights: &str) -> Vec<String> {
    let all = format!("-all,{rights}").trim_end_matches(',').to_owned();
    let words = "setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs";
    let words = format!("{words} --inh-caps {all} --ambient-caps {all} --bounding-set {all}");
    words.split(' ').map(str::to_owned).collect()
}

/// A scene with a sandbox whose folder is nobody's.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.eip("sandbox add web-1");
    std::fs::set_permissions(scene.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    scene.host.sh(&format!("chown -R nobody:nogroup {}", scene.data_dir().display()));
    scene
}

#[test]
fn two_capabilities_are_all_that_the_service_needs() {
    let scene = scene();
    scene.host.sh("echo 0 > /proc/sys/net/ipv4/ip_forward; \
         echo 1 > /proc/sys/net/ipv4/conf/all/send_redirects; \
         iptables -N DOCKER-USER; iptables -P FORWARD DROP; iptables -A FORWARD -j DOCKER-USER; \
         ip neigh flush dev eth0");
    let rights = nobody_with("+net_admin,+net_raw");
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    let _serving = scene.serve_by(&rights, &["--compute", "sandbox"]);
    scene.known("sandbox:web-1");
    let address = scene.eip_json("up web-1")["public_ip"].as_str().unwrap().to_owned();
    let page = eventually("its page", SOON, || scene.page(&address));
    assert!(page.starts_with("web-1\n"), "{page}");
    let seen_as = scene.eip(&format!("sandbox exec web-1 -- curl -sf -m 2 {WHO}"));
    assert_eq!(seen_as.trim(), address);
    assert_eq!(scene.host.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    let rules = scene.host.sh("iptables -S DOCKER-USER");
    assert!(rules.contains("--comment eip"), "{rules}");
    let owner = scene.host.sh("ps -o user= -C eip | sort -u");
    assert!(owner.contains("nobody"), "{owner}");
    let log = scene.log();
    assert!(log.contains("data plane ready\n") && !log.contains("WARN"), "{log}");
}

#[test]
fn the_capabilities_of_the_drop_in_for_aliases_are_all_that_they_need() {
    let drop_in = include_str!("../../../../packaging/eip-agent-alias.conf");
    let line = drop_in.lines().find_map(|line| line.strip_prefix("AmbientCapabilities="));
    let words = line.unwrap().split(' ').map(|word| word.trim_start_matches("CAP_").to_lowercase());
    let rights = words.map(|word| format!("+{word}")).collect::<Vec<_>>().join(",");
    let scene = scene();
    let rights = nobody_with(&rights);
    let rights: Vec<&str> = rights.iter().map(String::as_str).collect();
    let _serving = scene.serve_by(&rights, &["--compute", "sandbox", "--pool-mode", "alias"]);
    scene.known("sandbox:web-1");
    let up = scene.eip_json("up web-1");
    assert_eq!((&up["mode"], &up["data_plane"]["state"]), (&"alias".into(), &"active".into()));
    let address = up["public_ip"].as_str().unwrap();
    let inside = scene.eip("sandbox exec web-1 -- ip -4 addr show dev eth0");
    assert!(inside.contains(&format!("inet {address}/32")), "{inside}");
    assert!(scene.page(address).is_some());
}

#[test]
fn a_right_that_is_missing_is_named_at_the_start() {
    for (rights, said) in [
        (
            "",
            "data plane none: no right to change the network of this host; eip needs the \
              capability CAP_NET_ADMIN",
        ),
        (
            "+net_admin",
            "data plane ready, but cannot announce elastic IPs to neighbours \
                        (permission denied); eip needs the capability CAP_NET_RAW",
        ),
    ] {
        let scene = scene();
        let words = nobody_with(rights);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let _serving = scene.serve_by(&words, &["--compute", "sandbox"]);
        let told = format!("{said:?} with the rights {rights:?}");
        eventually(&told, SOON, || scene.log().contains(said).then_some(()));
    }
}
