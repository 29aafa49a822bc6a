//! What is, not what was counted: written anew at each look, so that what is gone is not told of.

use std::fmt::{self, Write as _};

use crate::service::Measured;

/// Writes gauges in the text format of Prometheus behind what is there. Without a measurement, the
/// record did not answer.
pub(crate) fn write(text: &mut String, measured: Option<&Measured>, at_work: usize) {
    // Writing to a String cannot fail.
    lines(text, measured, at_work).ok();
}

fn lines(text: &mut String, measured: Option<&Measured>, at_work: usize) -> fmt::Result {
    gauge(text, "eip_http_requests_at_work", "Requests that are being worked on.")?;
    writeln!(text, "eip_http_requests_at_work {at_work}")?;
    gauge(text, "eip_store_up", "Whether the record answers.")?;
    writeln!(text, "eip_store_up {}", u8::from(measured.is_some()))?;
    let Some(Measured { pools, hosts }) = measured else { return Ok(()) };
    gauge(text, "eip_pool_size", "Addresses of a pool that can be handed out.")?;
    for pool in pools {
        writeln!(text, "eip_pool_size{{pool=\"{}\"}} {}", pool.name, pool.size)?;
    }
    gauge(text, "eip_pool_addresses", "Addresses of a pool; those associated are allocated, too.")?;
    for pool in pools {
        let states = [
            ("allocated", pool.allocated),
            ("associated", pool.associated),
            ("quarantined", pool.quarantined),
            ("free", pool.free),
        ];
        for (state, count) in states {
            let name = &pool.name;
            writeln!(text, "eip_pool_addresses{{pool=\"{name}\",state=\"{state}\"}} {count}")?;
        }
    }
    gauge(text, "eip_host_up", "Whether the agent of a host reported within 15 seconds.")?;
    for host in hosts {
        writeln!(text, "eip_host_up{{host=\"{}\"}} {}", host.name, u8::from(host.online))?;
    }
    gauge(text, "eip_host_data_plane", "The state of a host's data plane, as it last said.")?;
    for host in hosts {
        let (name, state) = (&host.name, &host.data_plane);
        writeln!(text, "eip_host_data_plane{{host=\"{name}\",state=\"{state}\"}} 1")?;
    }
    gauge(text, "eip_host_generations_behind", "Changes that a host has not reported in force.")?;
    for host in hosts {
        let (desired, observed) = (host.desired_generation, host.observed_generation);
        let behind = desired.value().saturating_sub(observed.value());
        writeln!(text, "eip_host_generations_behind{{host=\"{}\"}} {behind}", host.name)?;
    }
    gauge(text, "eip_host_backend_up", "Whether a compute backend of a host answers.")?;
    for host in hosts {
        for one in &host.backends {
            let (name, backend, up) = (&host.name, one.backend, u8::from(one.reachable));
            writeln!(text, "eip_host_backend_up{{host=\"{name}\",backend=\"{backend}\"}} {up}")?;
        }
    }
    Ok(())
}

/// No name of a pool, a host or a state holds anything that a label would have to escape.
fn gauge(text: &mut String, name: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge")
}
