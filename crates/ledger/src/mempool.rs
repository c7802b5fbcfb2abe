use crate::{Executed, LedgerError, RecoveredTx, execute::SPEC};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use revm::context_interface::cfg::gas::calculate_initial_tx_gas_for_tx;
use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
};

/// Most transactions of one sender.
const PER_SENDER_MAX: usize = 64;
/// Most transactions in all.
const COUNT_MAX: usize = 20_000;
/// Most bytes in all (64 MiB).
const BYTES_MAX: usize = 64 << 20;
/// Smallest fee cap, in wei.
const FEE_CAP_MIN: u128 = 1;
/// Percent by which a replacement must raise fee cap and tip.
const REPLACEMENT_PERCENT: u128 = 10;

/// Transactions that wait for a block: one queue of nonces a sender. Plain data, bounded in count and bytes.
#[derive(Debug, Default)]
pub struct Mempool {
    by_sender: BTreeMap<Address, BTreeMap<u64, Arc<RecoveredTx>>>,
    by_hash: HashMap<B256, Arc<RecoveredTx>>,
    bytes: usize,
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

    /// The nonce after the last of an unbroken run of waiting transactions of `address`, if any waits.
    pub fn pending_nonce(&self, address: Address) -> Option<u64> {
        let queue = self.by_sender.get(&address)?;
        let mut next = *queue.keys().next()?;
        while queue.contains_key(&next) {
            next += 1;
        }
        Some(next)
    }

    /// Takes a transaction that could be executed on `head`, now or once the nonces before it are.
    ///
    /// # Errors
    /// [`LedgerError`] with geth's wording.
    pub fn insert(&mut self, tx: Arc<RecoveredTx>, head: &Executed) -> Result<(), LedgerError> {
        if self.by_hash.contains_key(&tx.hash()) {
            return Err(LedgerError::AlreadyKnown);
        }
        check(&tx, head)?;
        let sender = tx.sender();
        let nonce = tx.tx().nonce();
        let queue = self.by_sender.get(&sender);
        let replaced = queue.and_then(|q| q.get(&nonce)).cloned();
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
        self.by_sender.entry(sender).or_default().insert(nonce, tx);
        Ok(())
    }

    /// Evicts the sender's tail that pays least until `tx` fits, if `tx` pays more.
    fn make_room(&mut self, tx: &RecoveredTx) -> Result<(), LedgerError> {
        while self.len() >= COUNT_MAX || self.bytes + tx.raw_len() > BYTES_MAX {
            let cheapest = self
                .by_sender
                .values()
                .filter_map(|q| q.values().next_back())
                .min_by_key(|t| (t.tx().max_fee_per_gas(), t.hash()))
                .cloned()
                .ok_or(LedgerError::PoolFull)?;
            if cheapest.tx().max_fee_per_gas() >= tx.tx().max_fee_per_gas() {
                return Err(LedgerError::PoolFull);
            }
            self.remove(&cheapest);
        }
        Ok(())
    }

    fn remove(&mut self, tx: &RecoveredTx) {
        if self.by_hash.remove(&tx.hash()).is_none() {
            return;
        }
        self.bytes -= tx.raw_len();
        let sender = tx.sender();
        if let Some(queue) = self.by_sender.get_mut(&sender) {
            queue.remove(&tx.tx().nonce());
            if queue.is_empty() {
                self.by_sender.remove(&sender);
            }
        }
    }

    /// The transactions to try on `parent`: nonces of one sender in order, the highest tip first among senders, ties by hash;
    /// stops at a block's worth of gas.
    pub fn best(&self, parent: &Executed) -> Vec<Arc<RecoveredTx>> {
        let base_fee = parent.next_base_fee();
        let mut heap = BinaryHeap::new();
        let mut queues = Vec::new();
        for (sender, queue) in &self.by_sender {
            let first = parent.state().nonce(*sender);
            let run: Vec<_> = (first..).map_while(|n| queue.get(&n)).cloned().collect();
            push_next(&mut heap, queues.len(), &run, 0, base_fee);
            queues.push(run);
        }
        let mut gas_left = parent.header().gas_limit;
        let mut out = Vec::new();
        while let Some((_, _, queue, position)) = heap.pop() {
            let tx: &Arc<RecoveredTx> = &queues[queue][position];
            if tx.tx().gas_limit() > gas_left {
                continue;
            }
            gas_left -= tx.tx().gas_limit();
            out.push(tx.clone());
            push_next(&mut heap, queue, &queues[queue], position + 1, base_fee);
        }
        out
    }

    /// Forgets what `executed` made obsolete.
    pub fn on_committed(&mut self, executed: &Executed) {
        let stale: Vec<_> = self
            .by_sender
            .iter()
            .flat_map(|(sender, queue)| {
                let next = executed.state().nonce(*sender);
                queue.range(..next).map(|(_, tx)| tx.clone())
            })
            .collect();
        for tx in stale {
            self.remove(&tx);
        }
    }
}

type Candidate = (u128, B256, usize, usize);

fn push_next(
    heap: &mut BinaryHeap<Candidate>,
    queue: usize,
    run: &[Arc<RecoveredTx>],
    position: usize,
    base_fee: u64,
) {
    if let Some(tx) = run.get(position)
        && let Some(tip) = tx.effective_tip(base_fee)
    {
        heap.push((tip, tx.hash(), queue, position));
    }
}

/// EIP-1559 replacement as in geth: both fee cap and tip must rise by a tenth.
fn outbids(new: &RecoveredTx, old: &RecoveredTx) -> bool {
    let raised =
        |new: u128, old: u128| new >= old.saturating_add((old * REPLACEMENT_PERCENT).div_ceil(100).max(1));
    let tip = |t: &RecoveredTx| t.tx().max_priority_fee_per_gas().unwrap_or(t.tx().max_fee_per_gas());
    raised(new.tx().max_fee_per_gas(), old.tx().max_fee_per_gas()) && raised(tip(new), tip(old))
}

fn check(tx: &RecoveredTx, head: &Executed) -> Result<(), LedgerError> {
    let t = tx.tx();
    let address = tx.sender();
    if t.gas_limit() > head.header().gas_limit {
        return Err(LedgerError::GasLimit);
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
    let state = head.state().nonce(address);
    if t.nonce() < state {
        return Err(LedgerError::NonceTooLow { address, tx: t.nonce(), state });
    }
    if t.nonce() >= state + PER_SENDER_MAX as u64 {
        return Err(LedgerError::NonceTooHigh { address, tx: t.nonce(), state });
    }
    let have = head.state().balance(address);
    let fee = U256::from(t.max_fee_per_gas()).saturating_mul(U256::from(t.gas_limit()));
    let want = fee.saturating_add(t.value());
    if have < want {
        return Err(LedgerError::InsufficientFunds { address, have, want });
    }
    Ok(())
}
