use prometheus_client::{
    encoding::text::encode_registry,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What a wallet counts; clones share their numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls that came onto the ledger.
    pub included: Counter,
    /// Calls that the ledger refused for good.
    pub refused: Counter,
    /// Submissions that were refused or unanswered, and are made again.
    pub retried: Counter,
    /// Transactions that were replaced with a higher fee.
    pub replaced: Counter,
    /// Calls whose deadline came near before they were on the ledger.
    pub deadlines_at_risk: Counter,
    /// Calls whose deadline passed before they were on the ledger.
    pub deadlines_missed: Counter,
    /// Calls that wait now.
    pub pending: Gauge,
}

impl Metrics {
    /// All numbers in Prometheus' text format, without its closing line, so that others can follow.
    pub fn text(&self, prefix: &str) -> String {
        let mut registry = Registry::with_prefix(prefix);
        self.register(&mut registry);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut out, &registry);
        out
    }

    /// Adds all to `registry`, with names that begin with `wallet_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("wallet");
        registry.register("included", "Calls that came onto the ledger", self.included.clone());
        registry.register("refused", "Calls that the ledger refused for good", self.refused.clone());
        registry.register("retried", "Submissions that were made again", self.retried.clone());
        registry.register("replaced", "Transactions replaced with a higher fee", self.replaced.clone());
        let help = "Calls whose deadline came near before they were on the ledger";
        registry.register("deadlines_at_risk", help, self.deadlines_at_risk.clone());
        let help = "Calls whose deadline passed before they were on the ledger";
        registry.register("deadlines_missed", help, self.deadlines_missed.clone());
        registry.register("pending", "Calls that wait now", self.pending.clone());
    }
}
