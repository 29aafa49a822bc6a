//! The Elastic IP service and the HTTP API in front of it.
//!
//! Two rooms: `service` holds one function per use case and knows nothing of HTTP; `api` parses,
//! calls one of them and renders what it said. Neither touches a kernel or a compute backend.

mod api;
mod http;
mod limits;
mod metrics;
mod patience;
mod service;
mod tls;

pub use api::{ApiState, openapi, router};
pub use eip_webhook::{Guard, IpNet, Sender};
pub use http::{Listener, serve};
pub use limits::Limits;
pub use service::keys::{ApiKey, InvalidApiKey};
pub use service::{Service, ServiceConfig};
pub use tls::{Tls, TlsError};
