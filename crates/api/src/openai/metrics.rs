use crate::ports::Load;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::sync::atomic::AtomicI64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    path: &'static str,
    status: u16,
}

/// What an operator watches.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    pub(crate) prompt_tokens: Counter,
    pub(crate) completion_tokens: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) first_token_seconds: Histogram,
    pub(crate) request_seconds: Histogram,
    queued: Gauge,
    running: Gauge,
    pages_used: Gauge,
    pages_max: Gauge,
    cached_tokens: Gauge,
    preemptions: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("og_node");
        let requests = Family::<Outcome, Counter>::default();
        registry.register("requests", "Requests by path and HTTP status", requests.clone());
        let (prompt_tokens, completion_tokens) = (Counter::default(), Counter::default());
        registry.register("prompt_tokens", "Prompt tokens of finished answers", prompt_tokens.clone());
        registry.register(
            "completion_tokens",
            "Generated tokens of finished answers",
            completion_tokens.clone(),
        );
        let in_flight = Gauge::default();
        registry.register("in_flight", "Answers under way", in_flight.clone());
        let first_token_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register("first_token_seconds", "Time to the first text", first_token_seconds.clone());
        let request_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 16));
        registry.register("request_seconds", "Duration of requests", request_seconds.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::<i64, AtomicI64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let queued = gauge("queued", "Requests that wait for a place in the batch");
        let running = gauge("running", "Answers in the batch");
        let pages_used = gauge("kv_pages_used", "Pages of keys and values in use");
        let pages_max = gauge("kv_pages_max", "Pages of keys and values that there may be");
        let cached_tokens = gauge("cached_tokens", "Prompt tokens that came out of the prefix cache");
        let preemptions = gauge("preemptions", "Times an answer had to be computed anew for want of memory");
        Self {
            registry,
            requests,
            prompt_tokens,
            completion_tokens,
            in_flight,
            first_token_seconds,
            request_seconds,
            queued,
            running,
            pages_used,
            pages_max,
            cached_tokens,
            preemptions,
        }
    }

    pub(crate) fn count(&self, path: &'static str, status: u16) {
        self.requests.get_or_create(&Outcome { path, status }).inc();
    }

    /// Takes over the engine's gauges.
    pub(crate) fn show(&self, load: Load) {
        self.queued.set(load.queued as i64);
        self.running.set(load.running as i64);
        self.pages_used.set(load.pages.0 as i64);
        self.pages_max.set(load.pages.1 as i64);
        self.cached_tokens.set(load.cached_tokens as i64);
        self.preemptions.set(load.preemptions as i64);
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}
