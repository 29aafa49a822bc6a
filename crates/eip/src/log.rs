//! The log of the service and of the agent: on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::exit::Failure;

/// What is written unless told otherwise.
const DEFAULT: &str = "info,refinery_core=warn";

/// Starts it. `EIP_LOG` says what is written, as `info` or `eip_agent=debug,info`.
pub(crate) fn start(format: LogFormat) -> Result<(), Failure> {
    let wanted = std::env::var("EIP_LOG").unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        let detail = format!("EIP_LOG is \"{wanted}\": {error}");
        Failure::usage(detail, "write it as info or eip_agent=debug,info")
    })?;
    // Below that it writes what goes into the database, secrets of webhooks among it.
    let filter = match "tokio_postgres=warn".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
