//! Pays for what was logged: proves each answer to be in its node's log, and sends vouchers. No request waits for it.

use super::{Proxy, accounts::Answer};
use crate::ClientError;
use alloy_primitives::Address;
use std::{
    collections::HashSet,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tracing::warn;

/// Time between two looks at nodes' logs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Answers that are looked up at once.
const LOOKS_MAX: usize = 64;
/// Time in which a node must log what it answered, in seconds: many blocks, and a restart. Later it is not paid.
const LOG_SECONDS: u64 = 120;

/// Looks after payments for as long as the proxy lives.
pub(super) fn follow(proxy: &Arc<Proxy>) {
    if proxy.purse.is_none() {
        return;
    }
    let proxy: Weak<Proxy> = Arc::downgrade(proxy);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(proxy) = proxy.upgrade() else { return };
            proxy.look_at_logs().await;
            if let Err(e) = proxy.send_vouchers().await {
                warn!("vouchers: {e}");
            }
        }
    });
}

impl Proxy {
    /// Settles the answers that are logged, and those that their nodes did not log in time.
    async fn look_at_logs(&self) {
        let Some(purse) = &self.purse else { return };
        // One that does not answer shall not hold up the others.
        let mut silent: HashSet<Address> = HashSet::new();
        for answer in purse.unlogged(LOOKS_MAX) {
            let looked = match silent.contains(&answer.node) {
                true => Ok(false),
                false => self.is_logged(answer.id).await,
            };
            match looked {
                Ok(true) => purse.settle(&answer, true),
                Ok(false) => self.wait_or_give_up(&answer, "it is not in the log on the ledger"),
                Err(e) => {
                    silent.insert(answer.node);
                    self.wait_or_give_up(&answer, &e.to_string());
                }
            }
        }
    }

    /// A node that did not log its answer in time gets nothing for it, and others are asked first.
    fn wait_or_give_up(&self, answer: &Answer, why: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        // While the ledger cannot be read, it is not the node's fault.
        if now < answer.since + LOG_SECONDS || self.ledger.is_silent() {
            return;
        }
        warn!(node = %answer.node, receipt = %answer.id, "an answer was not logged and is not paid: {why}");
        self.directory.failed(answer.node);
        if let Some(purse) = &self.purse {
            purse.settle(answer, false);
        }
    }

    async fn send_vouchers(&self) -> Result<(), ClientError> {
        let Some(purse) = &self.purse else { return Ok(()) };
        for (node, voucher) in purse.vouchers()? {
            // Where it is now; a node that left the registry is paid when it comes back.
            let Some(base) = self.directory.endpoint(node) else { continue };
            let url = format!("{base}/og/v1/payments");
            match self.http.post(&url).header("og-voucher", voucher).send().await {
                Ok(response) if response.status().is_server_error() => {}
                // Who refuses a voucher gets the next one.
                Ok(response) => {
                    if !response.status().is_success() {
                        warn!(%node, "a voucher was refused with status {}", response.status());
                    }
                    purse.sent(node);
                }
                Err(e) => warn!(%node, "a voucher was not taken: {e}"),
            }
        }
        Ok(())
    }
}
