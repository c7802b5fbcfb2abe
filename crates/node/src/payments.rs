//! What clients owe a node, and what they have promised.

use crate::{court::Court, receipt_log::ReceiptLog};
use alloy_sol_types::SolCall as _;
use api::ports::{InferenceFault, Payment};
use client::contracts::{Escrow, Escrow::Voucher as EscrowVoucher};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use types::{Address, B256, Bytes, U256, Voucher, signing};

/// How long a pocket's content is believed, as long as it suffices.
const POCKET_AGE_MAX: Duration = Duration::from_secs(5);
/// What a client may owe beyond its promises, in wei: the answers that are under way at once.
const DEBT_MAX: u128 = 1_000_000_000_000_000;
/// Most clients in one settlement (the contract's bound).
const VOUCHERS_MAX: usize = 64;

/// What is known of one client.
#[derive(Clone, Debug, Default)]
struct Customer {
    /// Prices of all answers.
    due: U256,
    /// Largest promise.
    promised: U256,
    signature: Vec<u8>,
    /// What answers under way may cost.
    reserved: U256,
    /// What was taken out of the pocket, and what can be.
    pocket: Option<(U256, U256, Instant)>,
}

/// All clients of a node.
pub(crate) struct Till {
    court: Court,
    /// Hash of the network's genesis block.
    genesis: B256,
    node: Address,
    /// Serve only who pays.
    required: bool,
    log: Arc<ReceiptLog>,
    customers: Mutex<HashMap<Address, Customer>>,
}

/// Coins set aside for one answer; dropping it frees them.
pub(crate) struct Tab {
    till: Arc<Till>,
    client: Address,
    most: U256,
}

impl Tab {
    pub(crate) fn client(&self) -> Address {
        self.client
    }

    /// The answer was given: the client owes its price.
    pub(crate) fn owe(&self, price: u128) -> anyhow::Result<()> {
        self.till.lock().entry(self.client).or_default().due += U256::from(price);
        Ok(())
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let mut customers = self.till.lock();
        let customer = customers.entry(self.client).or_default();
        customer.reserved = customer.reserved.saturating_sub(self.most);
    }
}

fn refused(message: impl Into<String>) -> InferenceFault {
    InferenceFault::PaymentRequired(message.into())
}

impl Till {
    /// Reads what is owed and promised from the log.
    pub(crate) fn open(
        court: Court,
        genesis: B256,
        node: Address,
        required: bool,
        log: Arc<ReceiptLog>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut customers: HashMap<Address, Customer> = HashMap::new();
        for (client, price) in log.prices()? {
            customers.entry(client).or_default().due += U256::from(price);
        }
        for (client, total, signature) in log.promises()? {
            let customer = customers.entry(client).or_default();
            (customer.promised, customer.signature) = (total, signature);
        }
        Ok(Arc::new(Self { court, genesis, node, required, log, customers: Mutex::new(customers) }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Customer>> {
        self.customers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request that costs at most `most` wei.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        payment: Option<&Payment>,
        most: u128,
    ) -> Result<Option<Tab>, InferenceFault> {
        let Some(payment) = payment else {
            return match self.required {
                true => Err(refused("this node wants to be paid: send og-payment (see `og proxy --pay`)")),
                false => Ok(None),
            };
        };
        self.take(payment).await?;
        let (client, most) = (payment.client, U256::from(most));
        let known = self.lock().entry(client).or_default().pocket;
        let fresh = match known {
            Some((taken, held, at))
                if at.elapsed() < POCKET_AGE_MAX && self.suffices(client, taken + held, most) =>
            {
                (taken, held, at)
            }
            _ => {
                let (taken, held) = self
                    .court
                    .pocket(client, self.node)
                    .await
                    .map_err(|e| InferenceFault::Internal(e.to_string()))?;
                (taken, held, Instant::now())
            }
        };
        self.lock().entry(client).or_default().pocket = Some(fresh);
        if !self.suffices(client, fresh.0 + fresh.1, most) {
            return Err(refused(format!(
                "the pocket of {client} for this node holds {} wei, and this answer may cost {most}: deposit more in the escrow",
                fresh.1
            )));
        }
        self.lock().entry(client).or_default().reserved += most;
        Ok(Some(Tab { till: self.clone(), client, most }))
    }

    /// Whether a pocket that held `all` coins in all pays for what is owed and `most` more.
    fn suffices(&self, client: Address, all: U256, most: U256) -> bool {
        let customers = self.lock();
        customers.get(&client).is_none_or(|c| all >= c.due + c.reserved + most)
    }

    /// Takes a promise: it must cover what is owed, up to the answers that may be under way.
    pub(crate) async fn take(&self, payment: &Payment) -> Result<(), InferenceFault> {
        let Payment { client, total, signature } = payment;
        let voucher = Voucher { client: *client, node: self.node, total: *total };
        let network = &self.court.network;
        let digest = voucher.digest(network.chain_id, self.genesis, network.contracts.escrow);
        if signing::recover(digest, signature).ok() != Some(*client) {
            return Err(refused("the signature in og-payment is not the client's"));
        }
        let larger = {
            let mut customers = self.lock();
            let customer = customers.entry(*client).or_default();
            let larger = *total > customer.promised;
            if larger {
                (customer.promised, customer.signature) = (*total, signature.to_vec());
            }
            if customer.due > customer.promised + U256::from(DEBT_MAX) {
                return Err(refused(format!("{client} owes {} wei; promise at least that", customer.due)));
            }
            larger
        };
        if larger {
            let log = self.log.clone();
            let (client, total, signature) = (*client, *total, *signature);
            let kept = tokio::task::spawn_blocking(move || log.keep_promise(client, total, &signature)).await;
            kept.map_err(|e| e.to_string())
                .and_then(|r| r.map_err(|e| format!("{e:#}")))
                .map_err(InferenceFault::Internal)?;
        }
        Ok(())
    }

    /// A call of the escrow that takes what was promised and is owed, when there is something.
    pub(crate) async fn settlement(&self, log_size: u64) -> anyhow::Result<Option<Bytes>> {
        let all: Vec<(Address, Customer)> = self.lock().iter().map(|(a, c)| (*a, c.clone())).collect();
        let (mut vouchers, mut signatures) = (Vec::new(), Vec::<Bytes>::new());
        for (client, customer) in all {
            if customer.promised.is_zero() || vouchers.len() == VOUCHERS_MAX {
                continue;
            }
            let (taken, held) = self.court.pocket(client, self.node).await?;
            if customer.promised > taken && !held.is_zero() {
                vouchers.push(EscrowVoucher { client, node: self.node, total: customer.promised });
                signatures.push(customer.signature.into());
            }
        }
        if vouchers.is_empty() {
            return Ok(None);
        }
        let call = Escrow::settleCall { vouchers, signatures, logSize: log_size };
        Ok(Some(call.abi_encode().into()))
    }
}
