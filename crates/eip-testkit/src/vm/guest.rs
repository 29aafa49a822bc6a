//! What a guest is, in libvirt's words.

use crate::vm::fetched;

/// What a guest writes on its console before each address that it gets.
pub(crate) const HAS_ADDRESS: &str = "this guest has the address ";

/// How libvirt talks to an agent.
const CHANNEL: &str =
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// A virtual machine: it takes an address by DHCP and serves a page with its name on port 80.
#[derive(Debug, Clone)]
pub struct Guest {
    name: String,
    interfaces: String,
    metadata: String,
    agent: bool,
}

impl Guest {
    /// A guest on the network `default`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::bare(name).on("default")
    }

    /// A guest without an interface.
    #[must_use]
    pub fn bare(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            interfaces: String::new(),
            metadata: String::new(),
            agent: false,
        }
    }

    /// Adds an interface on a network.
    #[must_use]
    pub fn on(mut self, network: &str) -> Self {
        let xml = format!(
            "<interface type='network'><source network='{network}'/><model type='virtio'/></interface>"
        );
        self.interfaces.push_str(&xml);
        self
    }

    /// Sets what is in its `<metadata>`, in XML.
    #[must_use]
    pub fn metadata(mut self, xml: &str) -> Self {
        xml.clone_into(&mut self.metadata);
        self
    }

    /// Has the QEMU guest agent run in it.
    #[must_use]
    pub fn with_agent(mut self) -> Self {
        self.agent = true;
        self
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it boots into: the name of a file.
    pub(crate) fn initramfs(&self) -> &'static str {
        if self.agent { "initramfs-agent" } else { "initramfs" }
    }

    pub(crate) fn has_agent(&self) -> bool {
        self.agent
    }

    /// Returns the XML, where `folder` is that of the machine for guests.
    pub(crate) fn xml(&self, folder: &str) -> String {
        let Self { name, interfaces, metadata, agent } = self;
        let channel = if *agent { CHANNEL } else { "" };
        let initramfs = self.initramfs();
        let kernel = fetched::kernel();
        format!(
            "<domain type='qemu'>
  <name>{name}</name>
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>112</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{folder}/{initramfs}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 guest={name}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {interfaces}
    {channel}
    <serial type='file'><source path='{folder}/{console}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>",
            kernel = kernel.display(),
            console = console(name),
        )
    }
}

/// The file that has the console of a guest.
pub(crate) fn console(name: &str) -> String {
    format!("{name}.console")
}
