//! The numbers that `/metrics` shows.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How often what was measured is folded into buckets, whether anyone looks or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Upper bounds in seconds: from a read out of memory to the longest wait for a host.
const BUCKETS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Returns what has been measured in this process, in the text format of Prometheus.
pub(crate) fn render() -> String {
    recorder().map(PrometheusHandle::render).unwrap_or_default()
}

pub(crate) async fn keep_up(stop: CancellationToken) {
    let mut turn = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(turn.tick()).await.is_some() {
        if let Some(recorder) = recorder() {
            recorder.run_upkeep();
        }
    }
}

/// There is one recorder in a process, whoever asks first installs it.
fn recorder() -> Option<&'static PrometheusHandle> {
    let install = || {
        let name = Matcher::Full("eip_http_request_duration_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(name, &BUCKETS);
        match builder.and_then(PrometheusBuilder::install_recorder) {
            Ok(handle) => Some(handle),
            Err(error) => {
                error!(%error, "Could not set up metrics; going on without");
                None
            }
        }
    };
    RECORDER.get_or_init(install).as_ref()
}
