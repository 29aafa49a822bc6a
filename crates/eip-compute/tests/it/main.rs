//! libvirt as it really is: a libvirtd of the test's own, on a machine of the test's own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod fake;
mod follow;
mod hostile;
mod libvirtd;
mod loss;
mod networks;
mod test_driver;
mod tls;
