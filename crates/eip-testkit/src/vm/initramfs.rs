//! What a guest boots into: busybox, the modules of its network card, and a script.
//!
//! The archive is in the form that the kernel reads (`newc`, in its buffer-format document).

use std::path::Path;

use crate::vm::guest::HAS_ADDRESS;
use crate::vm::kernel;

/// In the order in which each finds what it needs.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
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

/// Writes the archive.
///
/// # Panics
/// When busybox or a module cannot be read, or the archive not be written.
pub(crate) fn write(to: &Path) {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "run", "modules", "www", "www/cgi-bin"] {
        archive.add(folder, FOLDER, &[]);
    }
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    archive.add("bin/busybox", PROGRAM, &busybox);
    archive.add("bin/sh", LINK, b"busybox");
    archive.add("init", PROGRAM, INIT.as_bytes());
    let take_address = TAKE_ADDRESS.replace("@HAS_ADDRESS@", HAS_ADDRESS);
    archive.add("bin/take-address", PROGRAM, take_address.as_bytes());
    archive.add("www/cgi-bin/sh", PROGRAM, SHELL.as_bytes());
    for (number, path) in MODULES.iter().enumerate() {
        archive.add(&format!("modules/{number}.ko"), PROGRAM, &kernel::module(path));
    }
    std::fs::write(to, archive.end()).expect("a file of a test");
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
