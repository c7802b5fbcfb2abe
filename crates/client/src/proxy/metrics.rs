use prometheus_client::{encoding::text::encode, metrics::counter::Counter, registry::Registry};

/// What the user of a proxy may watch.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    pub(super) requests: Counter,
    pub(super) verified: Counter,
    pub(super) refused: Counter,
    pub(super) retried: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("og_proxy");
        let mut counter = |name: &str, help: &str| {
            let c = Counter::default();
            registry.register(name, help, c.clone());
            c
        };
        let requests = counter("requests", "Chat requests");
        let verified = counter("verified", "Answers whose receipt passed every check");
        let refused = counter("refused", "Answers that failed a check and were withheld");
        let retried = counter("retried", "Requests passed to another node after a failure");
        Self { requests, verified, refused, retried, registry }
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}
