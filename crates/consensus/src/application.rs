use crate::{Block, Chain, ConsensusError, block::Context, engine::Scheme, epochs::Epochs};
use alloy_primitives::B256;
use commonware_actor::Feedback;
use commonware_codec::Encode as _;
use commonware_consensus::{
    Application as ConsensusApplication, Reporter,
    marshal::{Update, ancestry::Ancestry},
};
use commonware_cryptography::{Digested, Digestible as _};
use commonware_runtime::{Clock, Metrics, Spawner, Storage};
use commonware_utils::{Acknowledgement as _, SystemTimeExt as _};
use futures::StreamExt as _;
use rand::Rng;
use std::{sync::Arc, time::Duration};
use tracing::{debug, error, warn};
use verify::finality;

/// A block may be at most this far ahead of a validator's clock before the validator waits to vote for it.
const SKEW_MS_MAX: u64 = 500;

/// Most unfinalised ancestors that are executed on the way to a block (after a restart or a missed verification).
const ANCESTORS_MAX: usize = 1024;

/// Proposes, verifies and commits blocks: the bridge between consensus and ledger.
#[derive(Clone, Debug)]
pub struct Application {
    chain: Arc<Chain>,
    epochs: Epochs,
}

impl Application {
    pub(crate) fn new(chain: Arc<Chain>, epochs: Epochs) -> Self {
        Self { chain, epochs }
    }

    /// Whether the proposer's part of the randomness is genuine, and the header has the randomness that follows.
    fn has_right_randomness(&self, block: &Block, parent: &ledger::Executed) -> bool {
        let context = block.context_ref();
        let (epoch, view) = (context.round.epoch().get(), context.round.view().get());
        let leader = B256::from_slice(&context.leader.encode());
        let set = parent.validators();
        let Some(proposer) = set.members.iter().find(|v| v.peer == leader) else { return false };
        let header = &block.ledger_block().header;
        let expected = finality::randomness(parent.header().mix_hash, block.reveal());
        let genesis = self.chain.genesis().hash();
        header.mix_hash == expected
            && finality::check_reveal(genesis, &proposer.vote, epoch, view, block.reveal()).is_ok()
    }

    /// The executed block that `ancestry` starts with, executing forward from the nearest ancestor whose state is known.
    async fn executed(
        &self,
        first: Digested<Block>,
        ancestry: &mut impl Ancestry<Block>,
    ) -> Option<ledger::Executed> {
        let mut path = Vec::new();
        let mut block = first;
        let mut executed = loop {
            if let Some(known) = self.chain.executed(&block.inner().hash()) {
                break known;
            }
            if path.len() == ANCESTORS_MAX {
                warn!("more than {ANCESTORS_MAX} unknown ancestors");
                return None;
            }
            path.push(block);
            block = ancestry.next().await?;
        };
        for block in path.into_iter().rev() {
            match self.chain.execute(&executed, block.inner()) {
                Ok(next) => executed = next,
                Err(e) => {
                    warn!(height = block.inner().ledger_block().header.number, "an ancestor is invalid: {e}");
                    return None;
                }
            }
        }
        Some(executed)
    }
}

impl<E> ConsensusApplication<E> for Application
where
    E: Rng + Spawner + Metrics + Clock + Storage,
{
    type SigningScheme = Scheme;
    type Context = Context;
    type Block = Block;
    type Input = ();

    async fn propose(
        &mut self,
        (runtime, context): (E, Context),
        mut ancestry: impl Ancestry<Block>,
        _input: (),
    ) -> Option<Digested<Block>> {
        let parent = ancestry.next().await?;
        let parent_ms = parent.inner().timestamp_ms();
        let parent = self.executed(parent, &mut ancestry).await?;
        let earliest = parent_ms + self.chain.block_time_ms();
        let now = runtime.current().epoch_millis();
        if now < earliest {
            runtime.sleep(Duration::from_millis(earliest - now)).await;
        }
        let timestamp_ms = runtime.current().epoch_millis().max(earliest);
        let this = self.clone();
        // Execution takes a while; other tasks of this thread must go on.
        let build = move |_| async move {
            Block::propose(&this.chain, this.epochs.secret(), context, timestamp_ms, &parent)
        };
        match runtime.child("build").shared(true).spawn(build).await.ok()? {
            Ok(block) => {
                let digest = block.digest();
                Some(Digested::precomputed(block, digest))
            }
            Err(e) => {
                error!("cannot build a block: {e}");
                None
            }
        }
    }

    async fn verify(&mut self, (runtime, context): (E, Context), mut ancestry: impl Ancestry<Block>) -> bool {
        let Some(block) = ancestry.next().await else { return false };
        let Some(parent) = ancestry.next().await else { return false };
        let (timestamp_ms, parent_ms) = (block.inner().timestamp_ms(), parent.inner().timestamp_ms());
        if *block.inner().context_ref() != context || timestamp_ms < parent_ms + self.chain.block_time_ms() {
            debug!("a proposal has the wrong context or comes too early");
            return false;
        }
        // A clock that is ahead is no fault that lasts: wait instead of voting against the block.
        let now = runtime.current().epoch_millis();
        if timestamp_ms > now.saturating_add(SKEW_MS_MAX) {
            runtime.sleep(Duration::from_millis(timestamp_ms - now - SKEW_MS_MAX)).await;
        }
        let Some(parent) = self.executed(parent, &mut ancestry).await else { return false };
        let (this, block) = (self.clone(), block.inner().clone());
        let execute = move |_| async move {
            let height = block.ledger_block().header.number;
            if !this.has_right_randomness(&block, &parent) {
                warn!(height, "a proposal has the wrong randomness");
                return false;
            }
            match this.chain.execute(&parent, &block) {
                Ok(_) => true,
                Err(ConsensusError::Ledger(fault)) if fault.is_fault() => {
                    // The block may be good: a validator with a broken disk stops instead of voting against it.
                    error!(height, "{fault}");
                    this.chain.fail(fault.to_string());
                    std::future::pending().await
                }
                Err(e) => {
                    warn!(height, "a proposal is invalid: {e}");
                    false
                }
            }
        };
        // When the runtime stops, no answer is better than a wrong one.
        match runtime.child("verify").shared(true).spawn(execute).await {
            Ok(valid) => valid,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Reporter for Application {
    type Activity = Update<Block>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        if let Update::Block(block, acknowledgement) = activity {
            match self.chain.commit(block.inner()) {
                Ok(()) => {
                    acknowledgement.acknowledge();
                }
                Err(e) => {
                    // A final block that this ledger cannot execute or store means a broken disk or a broken program.
                    // Not acknowledging it stops this validator before it can do harm.
                    error!(
                        height = block.inner().ledger_block().header.number,
                        "cannot commit a final block: {e}"
                    );
                    self.chain.fail(format!("cannot commit final block: {e}"));
                }
            }
        }
        Feedback::Ok
    }
}
