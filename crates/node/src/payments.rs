//! What clients authorise, owe and promise a node. A request is paid with one signed authorisation, which names its receipt; a
//! voucher pays for all logged answers up to a sequence; an authorisation that no voucher covered is redeemed by itself.

mod book;

use crate::{
    court::Court,
    inference::now_ms,
    receipt_log::{ReceiptLog, Slip},
};
use alloy_sol_types::SolCall as _;
use api::ports::{InferenceFault, Payment, Promise};
use book::{Book, Overdue, Pocket};
use client::contracts::{
    Escrow, Escrow::Authorisation as EscrowAuthorisation, Escrow::Voucher as EscrowVoucher, LoggedClaim,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tracing::warn;
use types::{Address, Authorisation, Bytes, EscrowDomain, ReceiptId, U256, Voucher, signing};

/// From when on a pocket's content is read again, while requests go on with what is known.
const POCKET_AGE: Duration = Duration::from_secs(5);
/// Longest time for which a pocket's content is believed; at most a quarter of the time that a withdrawal takes.
const POCKET_AGE_MAX: Duration = Duration::from_secs(60);
/// Longest time between an authorisation and its expiry, in seconds: what a clock may be wrong, and a retry.
const EXPIRY_MAX: u64 = 3600;
/// Pockets that are read at once: for clients that have one, and for strangers, who shall not stand in their way.
const LOOKUPS_MAX: usize = 8;
/// Shortest time between two looks at one stranger's pocket: shorter than a block, so that a deposit is seen.
const STRANGER_AGE: Duration = Duration::from_millis(200);
/// Strangers that are remembered; all are forgotten when there are more, which costs a look each.
const STRANGERS_MAX: usize = 4096;
/// Most clients in one settlement: all their pockets are read before.
const VOUCHERS_MAX: usize = 64;
/// Most authorisations that are redeemed at once: each is a transaction.
const REDEEM_MAX: usize = 8;
/// Gas of a redemption, with the transaction: below its cost an answer is not worth it.
const REDEEM_GAS: u64 = 250_000;

/// All clients of a node.
pub(crate) struct Till {
    court: Court,
    domain: EscrowDomain,
    node: Address,
    /// Serve only who pays.
    required: bool,
    log: Arc<ReceiptLog>,
    book: Mutex<Book>,
    strangers: Mutex<HashMap<Address, Instant>>,
    known_lookups: Semaphore,
    stranger_lookups: Semaphore,
}

/// Coins set aside for one answer; dropping it frees them, unless the answer was logged.
pub(crate) struct Tab {
    till: Arc<Till>,
    slip: Slip,
}

impl Tab {
    pub(crate) fn client(&self) -> Address {
        self.slip.client
    }

    /// What pays for the answer.
    pub(crate) fn slip(&self) -> &Slip {
        &self.slip
    }

    /// The answer was logged: the client owes its price.
    pub(crate) fn owe(&self, price: u128) {
        self.till.lock().logged(self.slip.client, self.slip.sequence, U256::from(price));
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.till.lock().left(self.slip.client, self.slip.sequence);
    }
}

fn refused(message: impl Into<String>) -> InferenceFault {
    InferenceFault::PaymentRequired(message.into())
}

fn internal(e: impl std::fmt::Display) -> InferenceFault {
    InferenceFault::Internal(e.to_string())
}

/// A call that takes one authorisation.
pub(crate) struct Redemption {
    pub(crate) client: Address,
    pub(crate) sequence: u64,
    pub(crate) call: Bytes,
}

impl Till {
    /// Reads what is owed and promised from the log.
    pub(crate) fn open(
        court: Court,
        genesis: types::B256,
        node: Address,
        required: bool,
        log: Arc<ReceiptLog>,
    ) -> anyhow::Result<Arc<Self>> {
        let network = &court.network;
        let domain = EscrowDomain { chain_id: network.chain_id, genesis, escrow: network.contracts.escrow };
        let mut book = Book::default();
        for (client, total, sequence, signature) in log.vouchers()? {
            book.restore_voucher(client, total, sequence, signature);
        }
        for slip in log.slips()? {
            if let Some((receipt, _)) = log.get(slip.receipt)? {
                book.restore_slip(slip, U256::from(receipt.claim.price));
            }
        }
        Ok(Arc::new(Self {
            court,
            domain,
            node,
            required,
            log,
            book: Mutex::new(book),
            strangers: Mutex::default(),
            known_lookups: Semaphore::new(LOOKUPS_MAX),
            stranger_lookups: Semaphore::new(LOOKUPS_MAX),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits the request with this receipt, which costs at most `most` wei.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        payment: Option<&Payment>,
        receipt: ReceiptId,
        most: u128,
    ) -> Result<Option<Tab>, InferenceFault> {
        let Some(payment) = payment else {
            return match self.required {
                true => Err(refused("this node wants to be paid: send og-payment (see `og proxy --pay`)")),
                false => Ok(None),
            };
        };
        let slip = self.check(payment, receipt, U256::from(most))?;
        let known = self.lock().pocket(slip.client);
        let pocket = match known {
            Some(pocket) if pocket.at.elapsed() < self.pocket_age_max() => {
                if pocket.at.elapsed() > POCKET_AGE {
                    self.read_again(slip.client);
                }
                pocket
            }
            _ => self.look(slip.client, known.is_some()).await?,
        };
        let most = U256::from(most);
        let entered = self.lock().enter(&slip, most, pocket);
        match entered {
            // What is known may be old: the client may just have filled its pocket.
            Err(book::Refusal::Poor { .. }) if known.is_some() => {
                let pocket = self.look(slip.client, true).await?;
                self.lock().enter(&slip, most, pocket)?;
            }
            other => other?,
        }
        Ok(Some(Tab { till: self.clone(), slip }))
    }

    /// What a client signed for this request.
    fn check(&self, payment: &Payment, receipt: ReceiptId, most: U256) -> Result<Slip, InferenceFault> {
        let Payment { client, max_price, sequence, expiry, signature } = *payment;
        let now = now_ms() / 1000;
        if expiry < now || expiry > now + EXPIRY_MAX {
            return Err(refused(format!(
                "og-payment must expire within the next hour; it says {expiry}, and it is {now} here"
            )));
        }
        if max_price < most {
            return Err(refused(format!(
                "this answer may cost {most} wei, and og-payment allows {max_price}; ask for fewer tokens or allow more"
            )));
        }
        let authorisation = Authorisation {
            client,
            node: self.node,
            receiptId: receipt.0,
            maxPrice: max_price,
            sequence,
            expiry,
        };
        if signing::recover(self.domain.digest(&authorisation), &signature).ok() != Some(client) {
            return Err(refused(format!("og-payment is not signed by {client} for this node and request")));
        }
        let signature = Bytes::copy_from_slice(&signature);
        Ok(Slip { client, receipt, max_price, sequence, expiry, signature })
    }

    fn pocket_age_max(&self) -> Duration {
        POCKET_AGE_MAX.min(Duration::from_secs(self.court.network.window_seconds / 4))
    }

    /// Reads a pocket. Who has none, or too little, is not remembered, and cannot keep others waiting.
    async fn look(&self, client: Address, is_known: bool) -> Result<Pocket, InferenceFault> {
        let lookups = if is_known { &self.known_lookups } else { &self.stranger_lookups };
        let busy = || InferenceFault::Busy("too many pockets are looked at; try again".into());
        let _place = lookups.try_acquire().map_err(|_| busy())?;
        if !is_known {
            let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            if strangers.get(&client).is_some_and(|at| at.elapsed() < STRANGER_AGE) {
                return Err(busy());
            }
            if strangers.len() >= STRANGERS_MAX {
                strangers.clear();
            }
            strangers.insert(client, Instant::now());
        }
        let (taken, held) = self.court.pocket(client, self.node).await.map_err(internal)?;
        Ok(Pocket { taken, held, at: Instant::now() })
    }

    /// Reads a known client's pocket while its request goes on.
    fn read_again(self: &Arc<Self>, client: Address) {
        let till = self.clone();
        tokio::spawn(async move {
            if let Ok(pocket) = till.look(client, true).await {
                till.lock().saw(client, pocket);
            }
        });
    }

    /// Takes a promise. A stranger's costs a look into a map.
    pub(crate) async fn take(&self, promise: &Promise) -> Result<(), InferenceFault> {
        let Promise { client, total, sequence, signature } = *promise;
        self.lock().expects(client, total, sequence)?;
        let voucher = Voucher { client, node: self.node, total, sequence };
        if signing::recover(self.domain.digest(&voucher), &signature).ok() != Some(client) {
            return Err(refused(format!("og-voucher is not signed by {client} for this node")));
        }
        self.lock().take(client, total, sequence, Bytes::copy_from_slice(&signature))?;
        let log = self.log.clone();
        let kept =
            tokio::task::spawn_blocking(move || log.keep_voucher(client, total, sequence, &signature)).await;
        kept.map_err(internal)?.map_err(|e| InferenceFault::Internal(format!("{e:#}")))
    }

    /// A call of the escrow that takes what was promised, when there is something.
    pub(crate) async fn settlement(&self, log_size: u64) -> anyhow::Result<Option<Bytes>> {
        let due = self.lock().due(VOUCHERS_MAX);
        let (mut vouchers, mut signatures) = (Vec::new(), Vec::<Bytes>::new());
        for (client, total, sequence, signature) in due {
            let (taken, held) = self.court.pocket(client, self.node).await?;
            self.lock().saw(client, Pocket { taken, held, at: Instant::now() });
            if total > taken && !held.is_zero() {
                vouchers.push(EscrowVoucher { client, node: self.node, total, sequence });
                signatures.push(signature);
            }
        }
        if vouchers.is_empty() {
            return Ok(None);
        }
        let call = Escrow::settleCall { vouchers, signatures, logSize: log_size };
        Ok(Some(call.abi_encode().into()))
    }

    /// Calls that take single authorisations: expired ones whose clients sent no voucher, as far as they are worth their gas.
    pub(crate) fn redemptions(&self, log_size: u64, gas_price: U256) -> anyhow::Result<Vec<Redemption>> {
        let now = now_ms() / 1000;
        let Overdue { redeemable, lost } = self.lock().overdue(now, self.court.network.window_seconds);
        for (client, sequence) in lost {
            self.redeemed(client, sequence)?;
        }
        let worth = gas_price.saturating_mul(U256::from(REDEEM_GAS));
        let mut calls = Vec::new();
        for (slip, _) in redeemable.into_iter().filter(|(_, price)| *price > worth) {
            let Some((receipt, index)) = self.log.get(slip.receipt)? else { continue };
            let Some(proof) = self.log.inclusion(index, log_size) else { continue };
            let authorisation = EscrowAuthorisation {
                client: slip.client,
                node: self.node,
                receiptId: slip.receipt.0,
                maxPrice: slip.max_price,
                sequence: slip.sequence,
                expiry: slip.expiry,
            };
            let logged = LoggedClaim {
                claim: alloy_rlp::encode(&receipt.claim).into(),
                signature: Bytes::from(receipt.signature()?.to_vec()),
                path: proof.path,
            };
            let signature = slip.signature;
            let call = Escrow::redeemCall { authorisation, signature, size: log_size, index, logged };
            let call = call.abi_encode().into();
            calls.push(Redemption { client: slip.client, sequence: slip.sequence, call });
            if calls.len() == REDEEM_MAX {
                break;
            }
        }
        Ok(calls)
    }

    /// Forgets an authorisation that was taken, or cannot be any more.
    pub(crate) fn redeemed(&self, client: Address, sequence: u64) -> anyhow::Result<()> {
        self.lock().left_for_good(client, sequence);
        if let Err(e) = self.log.drop_slip(client, sequence) {
            warn!("an authorisation was not forgotten: {e:#}");
            return Err(e);
        }
        Ok(())
    }
}
