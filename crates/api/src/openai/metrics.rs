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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: u16,
}

/// What an operator watches.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Status, Counter>,
    pub(crate) prompt_tokens: Counter,
    pub(crate) completion_tokens: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) first_token_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("og_node");
        let requests = Family::<Status, Counter>::default();
        registry.register("chat_requests", "Chat requests by HTTP status", requests.clone());
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
        Self { registry, requests, prompt_tokens, completion_tokens, in_flight, first_token_seconds }
    }

    pub(crate) fn count(&self, status: u16) {
        self.requests.get_or_create(&Status { status }).inc();
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}
