//! What a guest is, in libvirt's words.

use crate::vm::kernel;

/// What a guest writes on its console before each address that it gets.
pub(crate) const HAS_ADDRESS: &str = "this guest has the address ";

/// A virtual machine: it takes an address by DHCP and serves a page with its name on port 80.
#[derive(Debug, Clone)]
pub struct Guest {
    name: String,
    interfaces: String,
    metadata: String,
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
        Self { name: name.to_owned(), interfaces: String::new(), metadata: String::new() }
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

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the XML, where `folder` is that of the machine for guests.
    pub(crate) fn xml(&self, folder: &str, initramfs: &str) -> String {
        let Self { name, interfaces, metadata } = self;
        let kernel = kernel::image();
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
