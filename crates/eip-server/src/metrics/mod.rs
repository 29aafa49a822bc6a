//! The numbers that `/metrics` shows.

mod states;

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use eip_model::Volume;
use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing::error;

pub(crate) use states::write as write_states;

/// How often what was measured is folded into buckets, whether anyone looks or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Upper bounds in seconds: from a read out of memory to the longest wait for a host.
const BUCKETS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The numbers of one route, by method and status.
type Numbers = HashMap<(&'static str, u16), (Counter, Histogram)>;

/// Looking a number up by its labels costs more than counting, so each is looked up once.
static REQUESTS: LazyLock<RwLock<HashMap<String, Numbers>>> = LazyLock::new(RwLock::default);

/// Counts an answer, and how long it took.
pub(crate) fn count_request(method: &'static str, route: &str, status: u16, seconds: f64) {
    let known = {
        let routes = REQUESTS.read().unwrap_or_else(PoisonError::into_inner);
        let numbers = routes.get(route).and_then(|numbers| numbers.get(&(method, status)));
        numbers.map(|(count, duration)| {
            count.increment(1);
            duration.record(seconds);
        })
    };
    if known.is_none() {
        // Whatever is registered before there is a recorder counts for nobody.
        recorder();
        let labels = [
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.to_string()),
        ];
        let count = metrics::counter!("eip_http_requests_total", &labels);
        let duration = metrics::histogram!("eip_http_request_duration_seconds", &labels[..2]);
        count.increment(1);
        duration.record(seconds);
        let mut routes = REQUESTS.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(route.to_owned()).or_default().insert((method, status), (count, duration));
    }
}

/// What each host has counted altogether, by its last report.
static TRAFFIC: LazyLock<RwLock<HashMap<String, Volume>>> = LazyLock::new(RwLock::default);

/// Counts what came since the last report of a host to this process.
pub(crate) fn count_traffic(host: &str, total: Volume) {
    recorder();
    let mut hosts = TRAFFIC.write().unwrap_or_else(PoisonError::into_inner);
    let before = hosts.insert(host.to_owned(), total).unwrap_or_default();
    drop(hosts);
    let total = total.since(before);
    let counts =
        [("in", total.packets_in, total.bytes_in), ("out", total.packets_out, total.bytes_out)];
    for (direction, packets, bytes) in counts {
        let labels = [("host", host.to_owned()), ("direction", direction.to_owned())];
        metrics::counter!("eip_traffic_packets_total", &labels).increment(packets);
        metrics::counter!("eip_traffic_bytes_total", &labels).increment(bytes);
    }
}

/// Counts an attempt to send an event to a webhook.
pub(crate) fn count_delivery(accepted: bool) {
    recorder();
    let outcome = if accepted { "accepted" } else { "failed" };
    metrics::counter!("eip_webhook_attempts_total", "outcome" => outcome).increment(1);
}

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
