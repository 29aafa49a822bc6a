//! libvirt as it really is: a libvirtd of the test's own, on a machine of the test's own.
#![expect(unreachable_pub, reason = "the modules of a test are seen by nobody else")]

mod fake;
mod follow;
mod hostile;
mod libvirtd;
mod loss;
mod networks;
mod test_driver;
mod tls;
