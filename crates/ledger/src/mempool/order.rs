//! Which transactions a block is built from, and in which order.

use super::{Mempool, Place, Waiting, rules::cost};
use crate::{Executed, LedgerError, RecoveredTx};
use alloy_primitives::Address;
use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap, sync::Arc};

/// Least gas of a transaction.
const TRANSFER_GAS: u64 = 21_000;

/// Transactions to try in a block, in this order.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// They come first, but use at most half of the block.
    pub lane: Vec<Arc<RecoveredTx>>,
    /// They fill the rest. What the lane had no room for is among them.
    pub rest: Vec<Arc<RecoveredTx>>,
}

impl<I: IntoIterator<Item = Arc<RecoveredTx>>> From<I> for Candidates {
    fn from(rest: I) -> Self {
        Self { lane: Vec::new(), rest: rest.into_iter().collect() }
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

/// Nonces of one sender in order, the highest tip first among senders, then who came first; at most `most`.
fn by_tip(runs: &[Vec<&Waiting>], base_fee: u64, most: usize) -> Vec<Arc<RecoveredTx>> {
    let mut heap = BinaryHeap::new();
    for (i, run) in runs.iter().enumerate() {
        push_next(&mut heap, i, run, 0, base_fee);
    }
    let mut out = Vec::new();
    while out.len() < most
        && let Some((_, _, queue, position)) = heap.pop()
    {
        out.push(runs[queue][position].tx.clone());
        push_next(&mut heap, queue, &runs[queue], position + 1, base_fee);
    }
    out
}

/// Tip, highest first, then number of arrival.
type Rank = (Reverse<u128>, u64);

/// One transaction of each sender after the other, so that no sender is before another's first; in each turn the highest tip first.
fn in_turns(runs: &[Vec<&Waiting>], base_fee: u64, most: usize) -> Vec<Arc<RecoveredTx>> {
    let mut turns: BTreeMap<usize, Vec<(Rank, &Waiting)>> = BTreeMap::new();
    for run in runs {
        // A sender's later ones cannot come before one whose fee cap is too low.
        let tips = run.iter().map_while(|w| w.tx.effective_tip(base_fee).map(|tip| (tip, *w)));
        for (turn, (tip, waiting)) in tips.enumerate() {
            turns.entry(turn).or_default().push(((Reverse(tip), waiting.number), waiting));
        }
    }
    let mut out = Vec::new();
    for mut turn in turns.into_values() {
        turn.sort_by_key(|(rank, _)| *rank);
        out.extend(turn.into_iter().map(|(_, waiting)| waiting.tx.clone()));
    }
    out.truncate(most);
    out
}

/// The transactions of a queue that can run one after the other, from the nonce and balance of their sender's account on.
pub(super) fn runnable(
    queue: &BTreeMap<u64, Waiting>,
    head: &Executed,
    sender: &Address,
) -> Result<Vec<u64>, LedgerError> {
    let account = head.state().account(sender)?.unwrap_or_default();
    let mut left = account.balance;
    // Who has spent its coins otherwise must not keep others out with what it can no longer pay for.
    let mut is_affordable = |w: &Waiting| {
        let rest = left.checked_sub(cost(&w.tx));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    let run = (account.nonce..).map_while(|n| queue.get(&n).map(|w| (n, w)));
    Ok(run.take_while(|(_, w)| is_affordable(w)).map(|(n, _)| n).collect())
}

impl Mempool {
    /// The transactions to try on `parent`. As many as could fit if they used as little gas as possible: what a transaction uses is known
    /// only when it is executed.
    ///
    /// # Errors
    /// [`LedgerError::Store`] when the state cannot be read.
    pub fn best(&self, parent: &Executed) -> Result<Candidates, LedgerError> {
        let base_fee = parent.next_base_fee();
        let most = (parent.header().gas_limit / TRANSFER_GAS) as usize;
        let (mut runs, mut lane) = (Vec::new(), Vec::new());
        for (sender, queue) in &self.by_sender {
            let run = runnable(queue, parent, sender)?;
            let run: Vec<&Waiting> = run.iter().filter_map(|n| queue.get(n)).collect();
            // What comes before a protocol call in its sender's queue is in the way, so it goes along.
            if let Some(last) = run.iter().rposition(|w| w.place == Place::Lane) {
                lane.push(run[..=last].to_vec());
            }
            runs.push(run);
        }
        Ok(Candidates { lane: in_turns(&lane, base_fee, most), rest: by_tip(&runs, base_fee, most) })
    }
}
