use crate::{
    ClientError, RpcClient,
    contracts::{ModelRegistry, NodeRegistry},
};
use alloy_primitives::{Address, B256, U256};
use parking_lot::Mutex;
use rand::RngExt as _;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use types::{ModelManifest, NetworkConfig};

/// How long the registries' answers are used.
const FRESH: Duration = Duration::from_secs(3);
/// Models and nodes that are read.
const MODELS_MAX: u64 = 64;
const NODES_MAX: u64 = 64;
/// First and longest time that a failed node is avoided.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// A node's offer, as the ledger states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The node; it must sign the receipt.
    pub node: Address,
    /// Base URL of its API.
    pub endpoint: String,
    /// Stake in wei.
    pub stake: U256,
    /// Wei per prompt token.
    pub price_input: u128,
    /// Wei per generated token.
    pub price_output: u128,
}

/// A published model and who serves it.
#[derive(Clone, Debug)]
struct Entry {
    manifest: ModelManifest,
    offers: Vec<Offer>,
}

#[derive(Debug, Default)]
struct State {
    models: Vec<Entry>,
    read: Option<Instant>,
    /// Failures in a row, and until when the node is avoided.
    failures: HashMap<Address, (u32, Instant)>,
}

/// Which nodes serve which model, read from the registries and kept for some seconds.
#[derive(Debug)]
pub struct Directory {
    rpc: RpcClient,
    network: NetworkConfig,
    state: Mutex<State>,
}

impl Directory {
    /// A directory of `network`.
    pub fn new(rpc: RpcClient, network: NetworkConfig) -> Self {
        Self { rpc, network, state: Mutex::default() }
    }

    /// Reads the registries anew when what is known is old.
    ///
    /// # Errors
    /// [`ClientError`] when nothing is known and the server cannot be read.
    pub async fn refresh(&self) -> Result<(), ClientError> {
        if self.state.lock().read.is_some_and(|t| t.elapsed() < FRESH) {
            return Ok(());
        }
        match self.read().await {
            Ok(models) => {
                let mut state = self.state.lock();
                state.models = models;
                state.read = Some(Instant::now());
                Ok(())
            }
            // What was read before is better than nothing while a validator restarts.
            Err(_) if self.state.lock().read.is_some() => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn read(&self) -> Result<Vec<Entry>, ClientError> {
        let contracts = &self.network.contracts;
        let (offset, limit) = (U256::ZERO, U256::from(MODELS_MAX));
        let ids = self.rpc.view(contracts.model_registry, &ModelRegistry::idsCall { offset, limit }).await?;
        let mut models = Vec::new();
        for id in ids {
            let call = ModelRegistry::getCall { modelId: id };
            let model = self.rpc.view(contracts.model_registry, &call).await?;
            // The registry checks the hash; a lying server is caught here.
            let Ok(manifest) = ModelManifest::decode(&model.manifest) else { continue };
            if manifest.id().0 != id {
                continue;
            }
            let call = NodeRegistry::nodesForCall { modelId: id, offset, limit: U256::from(NODES_MAX) };
            let offers = self.rpc.view(contracts.node_registry, &call).await?;
            let offers = offers
                .into_iter()
                .map(|o| Offer {
                    node: o.node,
                    endpoint: o.endpoint.trim_end_matches('/').to_owned(),
                    stake: o.stake,
                    price_input: o.pricePerInputToken,
                    price_output: o.pricePerOutputToken,
                })
                .collect();
            models.push(Entry { manifest, offers });
        }
        Ok(models)
    }

    /// Manifests of all models that some node serves.
    pub fn models(&self) -> Vec<ModelManifest> {
        let state = self.state.lock();
        state.models.iter().filter(|m| !m.offers.is_empty()).map(|m| m.manifest.clone()).collect()
    }

    /// Manifest and offers for a model name or id, best choice first: nodes that did not fail lately, drawn at random in
    /// proportion to their stake, then those that did.
    ///
    /// # Errors
    /// [`ClientError::NoNode`].
    pub fn choose(&self, model: &str) -> Result<(ModelManifest, Vec<Offer>), ClientError> {
        let state = self.state.lock();
        let served = state.models.iter().filter(|m| !m.offers.is_empty());
        let found = served.clone().find(|m| m.manifest.name == model || m.manifest.id().to_string() == model);
        let Some(entry) = found else {
            let available = served.map(|m| m.manifest.name.clone()).collect::<Vec<_>>().join(", ");
            return Err(ClientError::NoNode { model: model.into(), available });
        };
        let now = Instant::now();
        let mut rng = rand::rng();
        let mut keyed: Vec<_> = entry
            .offers
            .iter()
            .map(|offer| {
                let avoided = state.failures.get(&offer.node).is_some_and(|(_, until)| *until > now);
                // Efraimidis and Spirakis (2006): the largest u^(1/w) comes first with probability in proportion to w.
                let weight =
                    (offer.stake / U256::from(1_000_000_000_000u64)).saturating_to::<u64>().max(1) as f64;
                let key = rng.random::<f64>().max(f64::MIN_POSITIVE).ln() / weight;
                (avoided, key, offer.clone())
            })
            .collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
        Ok((entry.manifest.clone(), keyed.into_iter().map(|(_, _, offer)| offer).collect()))
    }

    /// All nodes that offer a model.
    pub fn nodes(&self) -> std::collections::BTreeSet<Address> {
        self.state.lock().models.iter().flat_map(|m| m.offers.iter().map(|o| o.node)).collect()
    }

    /// Where `node` is now, as the ledger states it.
    pub fn endpoint(&self, node: Address) -> Option<String> {
        let state = self.state.lock();
        let mut offers = state.models.iter().flat_map(|m| &m.offers);
        offers.find(|o| o.node == node).map(|o| o.endpoint.clone())
    }

    /// Avoids a node for a while, longer each time.
    pub fn failed(&self, node: Address) {
        let mut state = self.state.lock();
        let entry = state.failures.entry(node).or_insert((0, Instant::now()));
        let pause = BACKOFF_FIRST.saturating_mul(1 << entry.0.min(10)).min(BACKOFF_MAX);
        *entry = (entry.0.saturating_add(1), Instant::now() + pause);
    }

    /// Trusts a node again.
    pub fn succeeded(&self, node: Address) {
        self.state.lock().failures.remove(&node);
    }

    /// Whether `hash` is the hash of final block `number`.
    ///
    /// # Errors
    /// [`ClientError`] when the server cannot be read.
    pub async fn is_final(&self, number: u64, hash: B256) -> Result<bool, ClientError> {
        Ok(self.rpc.block_hash(number).await? == Some(hash))
    }
}
