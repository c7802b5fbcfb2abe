use crate::{
    Executed, LedgerError, RecoveredTx,
    evm::{SPEC, TX_GAS_LIMIT_CAP},
};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use revm::context_interface::cfg::gas::calculate_initial_tx_gas_for_tx;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

/// Most transactions of one sender.
const PER_SENDER_MAX: usize = 64;
/// Most transactions in all.
const COUNT_MAX: usize = 20_000;
/// Most bytes in all (64 MiB).
const BYTES_MAX: usize = 64 << 20;
/// Blocks after which a transaction that could not be executed is forgotten (three hours at 250 ms).
const LIFETIME_BLOCKS: u64 = 43_200;
/// Least gas of a transaction.
const TRANSFER_GAS: u64 = 21_000;
/// Smallest fee cap, in wei.
const FEE_CAP_MIN: u128 = 1;
/// Percent by which a replacement must raise fee cap and tip.
const REPLACEMENT_PERCENT: u128 = 10;

/// Transactions that wait for a block: one queue of nonces a sender. Plain data, bounded in count, bytes and age.
#[derive(Debug, Default)]
pub struct Mempool {
    by_sender: BTreeMap<Address, BTreeMap<u64, Waiting>>,
    by_hash: HashMap<B256, Arc<RecoveredTx>>,
    /// Cheapest first; the hash breaks ties.
    by_price: BTreeSet<(u128, B256)>,
    /// By the block at which they came.
    by_age: BTreeSet<(u64, B256)>,
    bytes: usize,
    arrivals: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    tx: Arc<RecoveredTx>,
    since: u64,
    /// Order of arrival.
    number: u64,
}

/// Where a waiting transaction stands, as in geth's `txpool_` methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All nonces before it are used or wait too.
    Pending,
    /// A nonce before it is missing.
    Queued,
}

impl Mempool {
    /// Number of transactions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// The transaction with this hash.
    pub fn get(&self, hash: &B256) -> Option<Arc<RecoveredTx>> {
        self.by_hash.get(hash).cloned()
    }

    /// All transactions with where they stand after `head`, by sender and nonce.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn all(&self, head: &Executed) -> Result<Vec<(Standing, Arc<RecoveredTx>)>, LedgerError> {
        let mut out = Vec::with_capacity(self.len());
        for (sender, queue) in &self.by_sender {
            let mut next = head.state().nonce(*sender)?;
            for (nonce, waiting) in queue {
                let standing = if next == *nonce { Standing::Pending } else { Standing::Queued };
                next += u64::from(next == *nonce);
                out.push((standing, waiting.tx.clone()));
            }
        }
        Ok(out)
    }

    /// All transactions, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RecoveredTx>> {
        self.by_sender.values().flat_map(|queue| queue.values().map(|w| &w.tx))
    }

    /// The nonce that `address` should use next: its state's nonce `from`, after the transactions that follow it without a gap.
    pub fn pending_nonce(&self, address: Address, from: u64) -> u64 {
        let queue = self.by_sender.get(&address);
        (from..).find(|n| !queue.is_some_and(|q| q.contains_key(n))).unwrap_or(from)
    }

    /// Takes a transaction that could be executed on `head`, now or once the nonces before it are.
    ///
    /// # Errors
    /// [`LedgerError`] with geth's wording.
    pub fn insert(&mut self, tx: Arc<RecoveredTx>, head: &Executed) -> Result<(), LedgerError> {
        if self.by_hash.contains_key(&tx.hash()) {
            return Err(LedgerError::AlreadyKnown);
        }
        let sender = tx.sender();
        let nonce = tx.tx().nonce();
        let queue = self.by_sender.get(&sender);
        let replaced = queue.and_then(|q| q.get(&nonce)).map(|w| w.tx.clone());
        // One balance pays for all that a sender has waiting.
        let others = queue.into_iter().flat_map(BTreeMap::iter).filter(|(n, _)| **n != nonce);
        let reserved = others.fold(U256::ZERO, |sum, (_, w)| sum.saturating_add(cost(&w.tx)));
        check(&tx, head, reserved)?;
        match &replaced {
            Some(old) if !outbids(&tx, old) => return Err(LedgerError::ReplacementUnderpriced),
            Some(_) => {}
            None => {
                if queue.is_some_and(|q| q.len() >= PER_SENDER_MAX) {
                    return Err(LedgerError::PoolFull);
                }
                self.make_room(&tx)?;
            }
        }
        if let Some(old) = replaced {
            self.remove(&old);
        }
        self.bytes += tx.raw_len();
        self.by_hash.insert(tx.hash(), tx.clone());
        self.by_price.insert((tx.tx().max_fee_per_gas(), tx.hash()));
        let since = head.number();
        self.by_age.insert((since, tx.hash()));
        let number = self.arrivals;
        self.arrivals += 1;
        self.by_sender.entry(sender).or_default().insert(nonce, Waiting { tx, since, number });
        Ok(())
    }

    /// Evicts what pays least until `tx` fits, if `tx` pays more.
    fn make_room(&mut self, tx: &RecoveredTx) -> Result<(), LedgerError> {
        while self.len() >= COUNT_MAX || self.bytes + tx.raw_len() > BYTES_MAX {
            let (price, hash) = *self.by_price.first().ok_or(LedgerError::PoolFull)?;
            let cheapest =
                self.get(&hash).filter(|c| price < tx.tx().max_fee_per_gas() && c.sender() != tx.sender());
            let cheapest = cheapest.ok_or(LedgerError::PoolFull)?;
            self.evict(&cheapest);
        }
        Ok(())
    }

    /// Removes a transaction and those of its sender that wait for it.
    fn evict(&mut self, tx: &RecoveredTx) {
        let nonce = tx.tx().nonce();
        let after = self.by_sender.get(&tx.sender()).into_iter().flat_map(|q| q.range(nonce..));
        let gone: Vec<_> = after.map(|(_, w)| w.tx.clone()).collect();
        for tx in gone {
            self.remove(&tx);
        }
    }

    fn remove(&mut self, tx: &RecoveredTx) {
        if self.by_hash.remove(&tx.hash()).is_none() {
            return;
        }
        self.bytes -= tx.raw_len();
        self.by_price.remove(&(tx.tx().max_fee_per_gas(), tx.hash()));
        let sender = tx.sender();
        if let Some(queue) = self.by_sender.get_mut(&sender) {
            if let Some(waiting) = queue.remove(&tx.tx().nonce()) {
                self.by_age.remove(&(waiting.since, tx.hash()));
            }
            if queue.is_empty() {
                self.by_sender.remove(&sender);
            }
        }
    }

    /// The transactions to try on `parent`: nonces of one sender in order, the highest tip first among senders, then who came first. As
    /// many as could fit if they used as little gas as possible: what a transaction uses is known only when it is executed.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn best(&self, parent: &Executed) -> Result<Vec<Arc<RecoveredTx>>, LedgerError> {
        let base_fee = parent.next_base_fee();
        let mut heap = BinaryHeap::new();
        let mut queues = Vec::new();
        for (sender, queue) in &self.by_sender {
            let account = parent.state().account(sender)?.unwrap_or_default();
            // Who has spent its coins otherwise must not keep others out with what it can no longer pay for.
            let mut left = account.balance;
            let mut affordable = |w: &&Waiting| {
                let rest = left.checked_sub(cost(&w.tx));
                left = rest.unwrap_or_default();
                rest.is_some()
            };
            let run: Vec<_> =
                (account.nonce..).map_while(|n| queue.get(&n)).take_while(|w| affordable(w)).collect();
            push_next(&mut heap, queues.len(), &run, 0, base_fee);
            queues.push(run);
        }
        let most = (parent.header().gas_limit / TRANSFER_GAS) as usize;
        let mut out = Vec::new();
        while out.len() < most
            && let Some((_, _, queue, position)) = heap.pop()
        {
            let tx: &Arc<RecoveredTx> = &queues[queue][position].tx;
            out.push(tx.clone());
            push_next(&mut heap, queue, &queues[queue], position + 1, base_fee);
        }
        Ok(out)
    }

    /// Forgets what `executed` made obsolete, and what has waited too long.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn on_committed(&mut self, executed: &Executed) -> Result<(), LedgerError> {
        let mut touched = BTreeSet::new();
        for tx in &executed.block().transactions {
            if let Some(known) = self.get(tx.tx_hash()) {
                touched.insert(known.sender());
            }
            // A delegation raises the nonce of who signed it (EIP-7702).
            touched.extend(
                tx.authorization_list().unwrap_or_default().iter().filter_map(|a| a.recover_authority().ok()),
            );
        }
        touched.extend(executed.outcomes().iter().map(|o| o.sender));
        let mut gone = Vec::new();
        for sender in touched {
            let next = executed.state().nonce(sender)?;
            let queue = self.by_sender.get(&sender);
            gone.extend(queue.into_iter().flat_map(|q| q.range(..next)).map(|(_, w)| w.tx.clone()));
        }
        let oldest = executed.number().saturating_sub(LIFETIME_BLOCKS);
        let old = self.by_age.range(..(oldest, B256::ZERO)).filter_map(|(_, hash)| self.get(hash));
        gone.extend(old);
        for tx in gone {
            self.remove(&tx);
        }
        Ok(())
    }
}

/// Tip, arrival, queue and position in it.
type Candidate = (u128, Reverse<u64>, usize, usize);

fn push_next(
    heap: &mut BinaryHeap<Candidate>,
    queue: usize,
    run: &[&Waiting],
    position: usize,
    base_fee: u64,
) {
    if let Some(waiting) = run.get(position)
        && let Some(tip) = waiting.tx.effective_tip(base_fee)
    {
        heap.push((tip, Reverse(waiting.number), queue, position));
    }
}

/// EIP-1559 replacement as in geth: both fee cap and tip must rise by a tenth.
fn outbids(new: &RecoveredTx, old: &RecoveredTx) -> bool {
    let raised =
        |new: u128, old: u128| new >= old.saturating_add((old * REPLACEMENT_PERCENT).div_ceil(100).max(1));
    let tip = |t: &RecoveredTx| t.tx().max_priority_fee_per_gas().unwrap_or(t.tx().max_fee_per_gas());
    raised(new.tx().max_fee_per_gas(), old.tx().max_fee_per_gas()) && raised(tip(new), tip(old))
}

/// Most wei that a transaction can take from its sender.
fn cost(tx: &RecoveredTx) -> U256 {
    let t = tx.tx();
    U256::from(t.max_fee_per_gas()).saturating_mul(U256::from(t.gas_limit())).saturating_add(t.value())
}

/// Checks `tx` against the newest state; `reserved` wei of its sender pay for other transactions.
fn check(tx: &RecoveredTx, head: &Executed, reserved: U256) -> Result<(), LedgerError> {
    let t = tx.tx();
    let address = tx.sender();
    if t.gas_limit() > head.header().gas_limit {
        return Err(LedgerError::GasLimit);
    }
    if t.gas_limit() > TX_GAS_LIMIT_CAP {
        return Err(LedgerError::GasLimitCap { cap: TX_GAS_LIMIT_CAP, tx: t.gas_limit() });
    }
    if t.max_priority_fee_per_gas().is_some_and(|tip| tip > t.max_fee_per_gas()) {
        return Err(LedgerError::TipAboveFeeCap);
    }
    if t.max_fee_per_gas() < FEE_CAP_MIN {
        return Err(LedgerError::Underpriced { have: t.max_fee_per_gas(), want: FEE_CAP_MIN });
    }
    let gas = calculate_initial_tx_gas_for_tx(tx.env(), SPEC, None);
    let want = gas.initial_total_gas().max(gas.floor_gas());
    if t.gas_limit() < want {
        return Err(LedgerError::IntrinsicGas { have: t.gas_limit(), want });
    }
    let account = head.state().account(&address)?.unwrap_or_default();
    let state = account.nonce;
    if t.nonce() < state {
        return Err(LedgerError::NonceTooLow { address, tx: t.nonce(), state });
    }
    if t.nonce() >= state + PER_SENDER_MAX as u64 {
        return Err(LedgerError::NonceTooHigh { address, tx: t.nonce(), state });
    }
    let want = cost(tx).saturating_add(reserved);
    let have = account.balance;
    if have < want {
        return Err(LedgerError::InsufficientFunds { address, have, want });
    }
    Ok(())
}
