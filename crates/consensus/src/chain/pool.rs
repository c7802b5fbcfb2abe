//! The chain's mempool: what comes from clients and peers, and what peers are told.

use super::Chain;
use crate::{
    ConsensusError,
    gossip::Taken,
    lane::{Lane, LaneRules},
};
use alloy_primitives::{Address, B256, Bytes};
use futures::channel::mpsc;
use ledger::{Arrival, Executed, LedgerError, Occupancy, RecoveredTx, Standing};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use std::sync::Arc;

/// Transactions waiting to be sent to peers.
const GOSSIP_QUEUE: usize = 20_000;

impl Chain {
    /// With a lane in the mempool and in blocks for protocol calls.
    #[must_use]
    pub fn with_lane(self, rules: LaneRules) -> Self {
        let chain = Self { lane: Lane::new(rules), ..self };
        let head = chain.head();
        // What waited before the last stop finds its places anew.
        let waiting = std::mem::take(&mut *chain.mempool.lock());
        for tx in waiting.iter() {
            let arrival = chain.arrival(tx, &head, false);
            // What cannot be executed any more is refused; that is as it should be.
            let _ = chain.mempool.lock().insert_as(tx.clone(), &head, arrival);
        }
        chain
    }

    fn arrival(&self, tx: &RecoveredTx, head: &Executed, from_client: bool) -> Arrival {
        Arrival { from_client, is_protocol_call: self.lane.admits(&self.ledger, head, tx) }
    }

    /// Takes a raw transaction from a client: checks it, puts it into the mempool and hands it to the peers as soon as it can run.
    ///
    /// # Errors
    /// [`ConsensusError::Transaction`] with geth's wording.
    pub fn submit(&self, raw: Bytes) -> Result<B256, ConsensusError> {
        let refused = |e: LedgerError| ConsensusError::Transaction(e.to_string());
        let tx = self.check(&raw).map_err(refused)?;
        let arrival = self.arrival(&tx, &self.head(), true);
        self.insert(tx.clone(), arrival).map_err(refused)?;
        Ok(tx.hash())
    }

    /// Decodes a transaction and checks its signature, unless that was done already.
    fn check(&self, raw: &[u8]) -> Result<Arc<RecoveredTx>, LedgerError> {
        let hash = alloy_primitives::keccak256(raw);
        if let Some(known) = self.checked.get(&hash) {
            return Ok(known);
        }
        let tx = Arc::new(RecoveredTx::decode(raw, self.network.chain_id)?);
        self.checked.insert(hash, tx.clone());
        Ok(tx)
    }

    fn insert(&self, tx: Arc<RecoveredTx>, arrival: Arrival) -> Result<(), LedgerError> {
        {
            let mut mempool = self.mempool.lock();
            // Read under the lock: the mempool never judges by a block older than one that it was told of.
            let head = self.head();
            mempool.insert_as(tx.clone(), &head, arrival)?;
            self.tell_peers(&mempool.take_news());
        }
        for listener in self.on_transaction.read().iter() {
            listener(&tx);
        }
        Ok(())
    }

    /// Takes raw transactions from a peer; signatures are checked on all cores.
    pub(crate) fn admit_all(&self, raws: &[Bytes]) -> Taken {
        let head = self.head();
        let gas_limit = head.header().gas_limit;
        let look = |raw: &Bytes| -> Result<_, LedgerError> {
            let tx = self.check(raw)?;
            ledger::check_fixed(&tx, gas_limit)?;
            let arrival = self.arrival(&tx, &head, false);
            Ok((tx, arrival))
        };
        let looked: Vec<_> = raws.par_iter().map(look).collect();
        let mut taken = Taken { all: raws.len(), ..Taken::default() };
        for looked in looked {
            match looked {
                Ok((tx, arrival)) => taken.new += usize::from(self.insert(tx, arrival).is_ok()),
                Err(_) => taken.bad += 1,
            }
        }
        taken
    }

    /// After a final block: forgets what it made obsolete, and tells the peers what can run now.
    pub(super) fn renew_pool(&self, executed: &Executed) -> Result<(), LedgerError> {
        let mut mempool = self.mempool.lock();
        mempool.on_committed(executed)?;
        self.tell_peers(&mempool.take_news());
        Ok(())
    }

    /// Hands transactions that can run to the peers. What cannot run yet is told when it can: peers would have no use for it.
    fn tell_peers(&self, news: &[Arc<RecoveredTx>]) {
        let mut gossip = self.gossip.lock();
        let Some(gossip) = gossip.as_mut() else { return };
        for tx in news {
            if gossip.try_send(tx.raw().into()).is_err() {
                tracing::debug!(
                    "the gossip queue is full; the transaction stays in this validator's mempool"
                );
                return;
            }
        }
    }

    /// The next nonce of `address`, counting transactions in the mempool.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the state cannot be read.
    pub fn pending_nonce(&self, address: Address) -> Result<u64, ConsensusError> {
        let state = self.head().state().nonce(address)?;
        Ok(self.mempool.lock().pending_nonce(address, state))
    }

    /// A transaction of the mempool.
    pub fn pooled(&self, hash: &B256) -> Option<Arc<RecoveredTx>> {
        self.mempool.lock().get(hash)
    }

    /// All transactions of the mempool.
    ///
    /// # Errors
    /// [`ConsensusError::Ledger`] when the state cannot be read.
    pub fn pool(&self) -> Result<Vec<(Standing, Arc<RecoveredTx>)>, ConsensusError> {
        let head = self.head();
        Ok(self.mempool.lock().all(&head)?)
    }

    /// Number of transactions in each kind of place.
    pub fn pool_occupancy(&self) -> Occupancy {
        self.mempool.lock().occupancy()
    }

    pub(crate) fn gossip_queue(&self) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(GOSSIP_QUEUE);
        *self.gossip.lock() = Some(sender);
        receiver
    }
}
