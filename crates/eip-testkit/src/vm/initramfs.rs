//! What a guest boots into: busybox, the modules of its devices, and a script.
//!
//! The archive is in the form that the kernel reads (`newc`, in its buffer-format document).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::vm::fetched;
use crate::vm::guest::HAS_ADDRESS;

/// In the order in which each finds what it needs.
const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/char/virtio_console.ko",
];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// The first process. A guest without an interface has nothing to do but to be there.
const INIT: &str = "#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
name=$(sed 's/.*guest=\\([^ ]*\\).*/\\1/' /proc/cmdline)
hostname $name
echo $name > /www/index.html
ip link set lo up
httpd -h /www
if [ -e /bin/qemu-ga ]; then
    qemu-ga -d -t /run -f /run/qemu-ga.pid -p /dev/vport*p1
fi
while ip link set eth0 up; do
    udhcpc -f -i eth0 -s /bin/take-address -p /run/udhcpc -x hostname:$name -t 1000 -T 1
done
exec sleep 1000000
";

/// What udhcpc calls.
const TAKE_ADDRESS: &str = "#!/bin/sh
case $1 in
deconfig)
    ip addr flush dev eth0
    ;;
bound | renew)
    ip addr show dev eth0 | grep -q \" $ip/\" || ip addr flush dev eth0
    ip addr replace $ip/$mask dev eth0
    [ -z \"$router\" ] || ip route replace default via $router
    echo \"@HAS_ADDRESS@$ip\" >/dev/console
    ;;
esac
";

/// Runs what it is asked, for whoever reaches it.
const SHELL: &str = "#!/bin/sh
printf '\\r\\n'
exec sh -c \"$(httpd -d \"$QUERY_STRING\")\" 2>&1
";

/// Writes the archive, with the QEMU guest agent or without.
///
/// # Panics
/// When something that belongs in it cannot be read, or the archive not be written.
pub(crate) fn write(to: &Path, with_agent: bool) {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "run", "modules", "www", "www/cgi-bin"] {
        archive.add(folder, FOLDER, &[]);
    }
    archive.add("bin/busybox", PROGRAM, &read("/bin/busybox".as_ref()));
    archive.add("bin/sh", LINK, b"busybox");
    archive.add("init", PROGRAM, INIT.as_bytes());
    let take_address = TAKE_ADDRESS.replace("@HAS_ADDRESS@", HAS_ADDRESS);
    archive.add("bin/take-address", PROGRAM, take_address.as_bytes());
    archive.add("www/cgi-bin/sh", PROGRAM, SHELL.as_bytes());
    for (number, path) in MODULES.iter().enumerate() {
        archive.add(&format!("modules/{number}.ko"), PROGRAM, &read(&fetched::module(path)));
    }
    if with_agent {
        add_agent(&mut archive);
    }
    std::fs::write(to, archive.end()).expect("a file of a test");
}

/// Adds the agent, and the libraries that it needs, which are those of this machine.
fn add_agent(archive: &mut Archive) {
    let agent = fetched::agent();
    archive.add("bin/qemu-ga", PROGRAM, &read(&agent));
    let listed = Command::new("ldd").arg(&agent).output().expect("ldd is a part of libc");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut folders = BTreeSet::new();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let mut above: Vec<_> = Path::new(library).ancestors().skip(1).collect();
        above.reverse();
        for folder in above.into_iter().skip(1) {
            if folders.insert(folder.to_owned()) {
                archive.add(name_of(folder), FOLDER, &[]);
            }
        }
        archive.add(name_of(library.as_ref()), PROGRAM, &read(library.as_ref()));
    }
}

/// Names in an archive begin below the root.
fn name_of(path: &Path) -> &str {
    path.to_str().expect("a path of letters").trim_start_matches('/')
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        // Nothing else is told apart by its number here, and no two entries are one file.
        let number = self.0.len();
        let (links, owner, time, device) = (1, 0, 0, 0);
        let size = content.len();
        let header = [
            number,
            mode as usize,
            owner,
            owner,
            links,
            time,
            size,
            device,
            device,
            device,
            device,
        ];
        self.0.extend_from_slice(b"070701");
        for field in header.into_iter().chain([name.len() + 1, 0]) {
            self.0.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.0
    }
}
