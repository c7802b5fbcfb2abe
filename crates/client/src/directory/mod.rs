//! Which nodes serve which model, where and at which price: proved, kept in memory and refreshed in the background, so that no request
//! waits for a server.

mod choice;
mod names;
mod quality;

pub use choice::{Ceilings, Need};
pub use names::Names;

use crate::{
    ClientError,
    error::Ambiguity,
    proven::{Head, ModelOffers, Offer, ProvenLedger, Registry},
};
use alloy_primitives::{Address, B256};
use parking_lot::Mutex;
use quality::Quality;
use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::warn;
use types::ModelManifest;

/// Pause between two looks at the newest block.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_millis(500);
/// Shortest time between two looks at the registries, and the part of the time that reading them may take.
const READ_EVERY: Duration = Duration::from_secs(1);
const READ_PART: u32 = 5;
/// Pause between two warnings that the ledger cannot be read.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How long an answer waits for the block that it is anchored to. Honest nodes name blocks that everybody has.
const ANCHOR_WAIT: Duration = Duration::from_secs(3);
/// How long an answer is looked at again whose block could not be proved at once.
const LATER_MAX: Duration = Duration::from_secs(600);
/// Differences of clocks that are allowed for when blocks are counted by time.
const CLOCKS_MS: u64 = 5_000;
/// Most names in an error.
const NAMED_MAX: usize = 50;

/// What is proved of the registries.
#[derive(Clone, Debug)]
struct Known {
    models: Arc<Vec<ModelOffers>>,
    /// The state in which they were proved.
    head: Option<Head>,
}

/// What a request asks for.
pub struct Wanted<'a> {
    /// Name or id of the model.
    pub model: &'a str,
    /// The id, when the client gave both.
    pub id: Option<B256>,
    /// The most that the answer may cost, in wei.
    pub price_max: Option<u128>,
    /// The most tokens that it can take, which depends on the model.
    pub need: &'a (dyn Fn(&ModelManifest) -> Need + Sync),
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It is final and has this hash.
    Final(B256),
    /// It is newer than the newest proved block, which has this number, and the servers are silent at the moment.
    Later(u64),
    /// It is too old, or nobody has it.
    Unknown,
}

/// Which nodes to ask for a model.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The model.
    pub manifest: ModelManifest,
    /// Who serves it within the ceilings, best choice first.
    pub offers: Vec<Offer>,
    /// The most that its answer can take.
    pub need: Need,
}

/// Which nodes serve which model.
#[derive(Debug)]
pub struct Directory {
    ledger: Arc<ProvenLedger>,
    /// Read by one at a time.
    registry: tokio::sync::Mutex<Registry>,
    known: Mutex<Known>,
    names: Names,
    quality: Mutex<Quality>,
    ceilings: Ceilings,
}

impl Directory {
    /// Reads the registries for the first time.
    ///
    /// # Errors
    /// [`ClientError`] when no server gives what can be believed.
    pub async fn open(
        ledger: Arc<ProvenLedger>,
        names: Names,
        ceilings: Ceilings,
    ) -> Result<Arc<Self>, ClientError> {
        let directory = Arc::new(Self {
            ledger,
            registry: tokio::sync::Mutex::default(),
            known: Mutex::new(Known { models: Arc::default(), head: None }),
            names,
            quality: Mutex::default(),
            ceilings,
        });
        directory.read().await?;
        Ok(directory)
    }

    /// Keeps up with the ledger until the directory is dropped.
    pub fn follow(self: &Arc<Self>) {
        let block_time = Duration::from_millis(self.ledger.network().network.block_time_ms);
        let pause = block_time.clamp(*LOOK.start(), *LOOK.end());
        tokio::spawn(follow(Arc::downgrade(self), pause));
    }

    /// Reads the registries now.
    ///
    /// # Errors
    /// What the last server did wrong; what was known before stays.
    pub async fn read(&self) -> Result<(), ClientError> {
        let mut registry = self.registry.lock().await;
        let Some(head) = self.ledger.newest() else {
            return Err(self.ledger.head().err().unwrap_or(ClientError::NotFinalised));
        };
        registry.refresh(&self.ledger, head).await?;
        let models = Arc::new(registry.models().to_vec());
        let nodes: BTreeSet<_> = models.iter().flat_map(|m| m.offers.iter().map(|o| o.node)).collect();
        self.quality.lock().keep(&nodes);
        *self.known.lock() = Known { models, head: Some(head) };
        Ok(())
    }

    /// What is known, unless it is too old.
    fn models(&self) -> Result<Arc<Vec<ModelOffers>>, ClientError> {
        let known = self.known.lock().clone();
        self.ledger.fresh(known.head.map_or(0, |h| h.timestamp))?;
        Ok(known.models)
    }

    /// All models that some node serves, most stake behind it first, each with the name under which it can be asked for: its own, or its id
    /// when the name means another model here.
    ///
    /// # Errors
    /// [`ClientError::Stale`].
    pub fn list(&self) -> Result<Vec<(String, ModelManifest)>, ClientError> {
        let models = self.models()?;
        let name = |m: &ModelOffers| match self.names.find(&m.manifest.name, &models) {
            Ok(id) if id == m.id => m.manifest.name.clone(),
            _ => m.id.to_string(),
        };
        Ok(models.iter().map(|m| (name(m), m.manifest.clone())).collect())
    }

    /// The model that is meant and its offers.
    fn resolve<'a>(
        &self,
        models: &'a [ModelOffers],
        model: &str,
        id: Option<B256>,
    ) -> Result<&'a ModelOffers, ClientError> {
        let by_id = |id: B256| models.iter().find(|m| m.id == id);
        let none = || {
            let names: BTreeSet<_> =
                models.iter().map(|m| m.manifest.name.as_str()).take(NAMED_MAX).collect();
            let available = names.into_iter().collect::<Vec<_>>().join(", ");
            ClientError::NoNode {
                model: id.map_or_else(|| model.to_owned(), |id| format!("{model} ({id})")),
                available,
            }
        };
        let as_id = model.parse::<B256>().ok();
        match (id, as_id) {
            (Some(id), named) => {
                let found = by_id(id).ok_or_else(none)?;
                if found.manifest.name != model && named != Some(id) {
                    let (name, is) = (model.to_owned(), found.manifest.name.clone());
                    return Err(ClientError::Ambiguous(Ambiguity::OtherName { name, id, is }));
                }
                Ok(found)
            }
            (None, Some(id)) => by_id(id).ok_or_else(none),
            (None, None) => {
                if !models.iter().any(|m| m.manifest.name == model) {
                    return Err(none());
                }
                let id = self.names.pin(model, models)?;
                by_id(id).ok_or_else(none)
            }
        }
    }

    /// The model that is meant.
    ///
    /// # Errors
    /// [`ClientError::NoNode`], [`ClientError::Ambiguous`] or [`ClientError::Stale`].
    pub fn model(&self, model: &str) -> Result<ModelManifest, ClientError> {
        let models = self.models()?;
        Ok(self.resolve(&models, model, None)?.manifest.clone())
    }

    /// Manifest and offers for a request, best choice first: nodes that did not fail lately, drawn at random by
    /// [stake, price and quality](Ceilings), then those that did.
    ///
    /// # Errors
    /// [`ClientError::NoNode`], [`ClientError::Ambiguous`], [`ClientError::TooExpensive`] or [`ClientError::Stale`].
    pub fn choose(&self, wanted: &Wanted<'_>) -> Result<Choice, ClientError> {
        let models = self.models()?;
        let found = self.resolve(&models, wanted.model, wanted.id)?;
        let need = (wanted.need)(&found.manifest);
        let allowed = self.ceilings.allowed(found, need, wanted.price_max)?;
        let offers = choice::draw(allowed, need, &self.quality.lock());
        Ok(Choice { manifest: found.manifest.clone(), offers, need })
    }

    /// All nodes that offer a model.
    pub fn nodes(&self) -> BTreeSet<Address> {
        self.known.lock().models.iter().flat_map(|m| m.offers.iter().map(|o| o.node)).collect()
    }

    /// Where `node` is now, as the ledger states it.
    pub fn endpoint(&self, node: Address) -> Option<String> {
        let models = self.known.lock().models.clone();
        let mut offers = models.iter().flat_map(|m| &m.offers);
        offers.find(|o| o.node == node).map(|o| o.endpoint.clone())
    }

    /// Avoids a node for a while, longer each time.
    pub fn failed(&self, node: Address) {
        self.quality.lock().failed(node);
    }

    /// Trusts a node again, which began to answer after `latency`.
    pub fn succeeded(&self, node: Address, latency: Option<Duration>) {
        self.quality.lock().succeeded(node, latency);
    }

    /// What is known of block `number`; waits some seconds for it when it is newer than the newest one, unless the servers are silent.
    pub async fn anchor(&self, number: u64) -> Anchor {
        if !self.ledger.is_silent() {
            self.ledger.reaches(number, ANCHOR_WAIT).await;
        }
        let Some(head) = self.ledger.newest() else { return Anchor::Unknown };
        match self.ledger.block_hash(number) {
            Some(hash) => Anchor::Final(hash),
            None if number > head.number
                && self.ledger.is_silent()
                && number - head.number <= self.blocks_since(head) =>
            {
                Anchor::Later(head.number)
            }
            None => Anchor::Unknown,
        }
    }

    /// Most blocks that can have been made since `head`.
    fn blocks_since(&self, head: Head) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let age_ms = now.saturating_sub(head.timestamp.saturating_mul(1000)).saturating_add(CLOCKS_MS);
        age_ms / self.ledger.network().network.block_time_ms.max(1)
    }

    /// Looks again, when the servers are back, at the block that an answer of `node` named; a node that named a wrong one is avoided.
    pub fn look_again(self: &Arc<Self>, node: Address, number: u64, hash: B256) {
        let directory = self.clone();
        tokio::spawn(async move {
            let is_there = directory.ledger.reaches(number, LATER_MAX).await;
            if is_there && directory.ledger.block_hash(number) != Some(hash) {
                warn!(%node, "it named a block {number} that does not exist, while the ledger could not be read");
                directory.failed(node);
            }
        });
    }
}

async fn follow(directory: Weak<Directory>, pause: Duration) {
    let mut next_read = Instant::now() + READ_EVERY;
    let mut warned: Option<Instant> = None;
    loop {
        tokio::time::sleep(pause).await;
        let Some(directory) = directory.upgrade() else { return };
        let mut outcome = directory.ledger.refresh().await.map(|_| ());
        if outcome.is_ok() && Instant::now() >= next_read {
            let began = Instant::now();
            outcome = directory.read().await;
            next_read = Instant::now() + READ_EVERY.max(began.elapsed() * READ_PART);
        }
        if let Err(e) = outcome
            && warned.is_none_or(|w| w.elapsed() > WARN_EVERY)
        {
            warn!("the ledger cannot be read: {e}");
            warned = Some(Instant::now());
        }
    }
}
