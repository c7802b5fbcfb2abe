use crate::{
    Block, Chain,
    block::{Context, seal},
    engine::Scheme,
};
use commonware_actor::Feedback;
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

/// A block may be at most this far ahead of a validator's clock before the validator waits to vote for it.
const SKEW_MS_MAX: u64 = 500;

/// Most unfinalised ancestors that are executed on the way to a block (after a restart or a missed verification).
const ANCESTORS_MAX: usize = 1024;

/// Proposes, verifies and commits blocks: the bridge between consensus and ledger.
#[derive(Clone, Debug)]
pub struct Application {
    chain: Arc<Chain>,
}

impl Application {
    /// An application over `chain`.
    pub fn new(chain: Arc<Chain>) -> Self {
        Self { chain }
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
        match self.chain.build(&parent, timestamp_ms, seal(&context, timestamp_ms)) {
            Ok(built) => {
                let block = Block::new(context, timestamp_ms, built.block().clone());
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
        match self.chain.execute(&parent, block.inner()) {
            Ok(_) => true,
            Err(e) => {
                warn!(height = block.inner().ledger_block().header.number, "a proposal is invalid: {e}");
                false
            }
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
