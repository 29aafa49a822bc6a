//! A libvirtd that dies, hangs, or is not there yet.

use std::time::Duration;

use eip_compute::Sight;
use eip_model::InstanceState;

use crate::follow::{A_MOMENT, AT_ONCE, Followed, SOON, named};
use crate::libvirtd::Libvirtd;

const QEMU: &str = "qemu:///system";

/// A machine that finds nothing to start from, and stays on.
fn machine(name: &str, number: u32) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name>
           <uuid>00000000-0000-4000-8000-{number:012}</uuid><memory unit='MiB'>32</memory>
           <os><type arch='x86_64' machine='pc'>hvm</type></os>
           <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
             <interface type='user'><mac address='52:54:00:00:00:{number:02}'/></interface>
           </devices></domain>"
    )
}

#[test]
fn a_libvirtd_that_was_killed_leaves_what_was_known_and_is_compared_with_it_on_return() {
    let mut libvirtd = Libvirtd::start();
    for (name, number) in [("stays", 1), ("stops", 2), ("goes", 3)] {
        let file = libvirtd.file(&format!("{name}.xml"), &machine(name, number));
        libvirtd.virsh(QEMU, &format!("define {file}"));
        libvirtd.virsh(QEMU, &format!("start {name}"));
    }
    let followed = Followed::start(&libvirtd.uri(QEMU));
    for name in ["stays", "stops", "goes"] {
        followed.until_one(name, SOON, |one| one.state == InstanceState::Running);
    }
    libvirtd.kill();
    let reason = followed.until_unreachable(AT_ONCE);
    assert!(reason.contains("closed the connection"), "{reason}");
    // Once more, while it is not there.
    let refused = "it to be tried again";
    eip_testkit::eventually(refused, SOON, || match followed.now() {
        Sight::Unreachable { reason, .. } => {
            reason.contains("Is the daemon running?").then_some(())
        }
        Sight::Unseen | Sight::Listed(_) => None,
    });
    // What happens meanwhile is seen on return.
    libvirtd.machine.sh("kill $(cat /run/libvirt/qemu/stops.pid)");
    libvirtd.machine.sh("kill $(cat /run/libvirt/qemu/goes.pid); rm /etc/libvirt/qemu/goes.xml");
    libvirtd.start_again();
    let listing = followed.until("the list on return", SOON, |all| Some(all.clone()));
    let state = |name: &str| named(&listing, name).map(|one| one.state);
    assert_eq!(state("stays"), Some(InstanceState::Running));
    assert_eq!(state("stops"), Some(InstanceState::Stopped));
    assert_eq!(state("goes"), None);
    libvirtd.virsh(QEMU, "destroy stays");
    followed.until_state("stays", InstanceState::Stopped);
}

#[test]
fn a_crash_a_pause_and_a_reset_of_a_real_machine_are_followed() {
    let libvirtd = Libvirtd::start();
    let file = libvirtd.file("web.xml", &machine("web", 1));
    let followed = Followed::start(&libvirtd.uri(QEMU));
    followed.until("nothing", SOON, |all| all.instances.is_empty().then_some(()));
    libvirtd.virsh(QEMU, &format!("define {file}"));
    libvirtd.virsh(QEMU, "start web");
    followed.until_state("web", InstanceState::Running);
    libvirtd.virsh(QEMU, "suspend web");
    followed.until_state("web", InstanceState::Paused);
    libvirtd.virsh(QEMU, "resume web");
    followed.until_state("web", InstanceState::Running);
    libvirtd.virsh(QEMU, "reset web");
    libvirtd.machine.sh("kill -9 $(cat /run/libvirt/qemu/web.pid)");
    followed.until_state("web", InstanceState::Stopped);
    // Undefined while it runs, it runs on, and is gone when it ends.
    libvirtd.virsh(QEMU, "start web");
    followed.until_state("web", InstanceState::Running);
    followed.is_unmoved_by(A_MOMENT, || {
        libvirtd.virsh(QEMU, "undefine web");
    });
    libvirtd.virsh(QEMU, "destroy web");
    followed.until("it to be gone", AT_ONCE, |all| named(all, "web").is_none().then_some(()));
}

#[test]
fn a_libvirtd_that_hangs_is_told_as_such_and_taken_up_when_it_goes_on() {
    let libvirtd = Libvirtd::start();
    let followed = Followed::start(&libvirtd.uri("test:///default"));
    followed.until_one("test", SOON, |_| true);
    libvirtd.daemon().signal("STOP");
    let reason = followed.until_unreachable(Duration::from_secs(8));
    assert!(reason.contains("no question") || reason.contains("said nothing"), "{reason}");
    libvirtd.daemon().signal("CONT");
    followed.until_one("test", SOON, |_| true);
}

#[test]
fn a_libvirtd_that_comes_later_is_found() {
    let mut libvirtd = Libvirtd::start();
    libvirtd.kill();
    let followed = Followed::start(&libvirtd.uri("test:///default"));
    let reason = followed.until_unreachable(AT_ONCE);
    assert!(reason.contains("Is the daemon running?"), "{reason}");
    libvirtd.start_again();
    followed.until_one("test", SOON, |_| true);
}

#[test]
fn a_daemon_that_asks_for_a_password_is_told_clearly() {
    let libvirtd = Libvirtd::start_with("auth_unix_rw = \"sasl\"", &[]);
    let followed = Followed::start(&libvirtd.uri("test:///default"));
    let reason = followed.until_unreachable(SOON);
    assert!(reason.contains("SASL"), "{reason}");
}
