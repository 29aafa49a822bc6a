//! What tests stand on. Takes the rights of root.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use eip_testkit::eventually;
use eip_testkit::machine::Machine;
use eip_testkit::vm::{Guest, Libvirt};

#[test]
fn guests_boot_and_are_gone_with_their_machine() {
    let machine = Machine::start();
    let mut libvirt = Libvirt::start(&machine);
    libvirt.default_network();
    libvirt.boot(&[Guest::new("passer-1"), Guest::new("passer-2").with_agent()]);
    assert_eq!(libvirt.sh("passer-1", "hostname"), "passer-1\n");
    let two = libvirt.address("passer-2").expect("an address");
    assert_eq!(libvirt.sh("passer-1", &format!("wget -q -O - http://{two}/")), "passer-2\n");
    eventually("the guest agent to say the address", Duration::from_secs(20), || {
        let said = libvirt.try_virsh("domifaddr passer-2 --source agent").stdout;
        String::from_utf8_lossy(&said).contains(&two.to_string()).then_some(())
    });
    libvirt.kill();
    assert_eq!(
        libvirt.sh("passer-1", "echo '+ &%20'"),
        "+ &%20\n",
        "it runs on without its libvirt"
    );
    libvirt.resume();
    let network = std::fs::read_link(machine.file("/proc/1/ns/net")).expect("a namespace");
    drop(libvirt);
    drop(machine);
    eventually("every process to be gone", Duration::from_secs(5), || {
        (!in_use(&network)).then_some(())
    });
    let left = Command::new("sh").args(["-c", TRACES]).output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

/// What a guest could leave behind: control groups, bridges, mounts, files.
const TRACES: &str = "find /sys/fs/cgroup -type d -name '*passer*'; ip -br link | grep -e vnet -e virbr;
    grep libvirt /proc/self/mounts; find /run/libvirt /var/lib/libvirt /etc/libvirt -name '*passer*'";

/// Whether a process is in that network.
fn in_use(network: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("proc(5)").filter_map(Result::ok);
    processes
        .map(|one| std::fs::read_link(one.path().join("ns/net")))
        .any(|found| found.is_ok_and(|found| found == network))
}
