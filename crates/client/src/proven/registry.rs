use super::{
    Head, ProvenLedger, Slots,
    layout::{
        ACTIVE, NodeRecord, StringHead, after, base, high, in_array, low, models_of_slot, node_slot,
        price_slot,
    },
};
use crate::{ClientError, contracts::ModelRegistry, error::Lie};
use alloy_primitives::{Address, B256, U256};
use std::collections::{BTreeMap, HashMap};
use tracing::{debug, warn};
use types::ModelManifest;

/// Most nodes whose stakes are read, and most of them whose offers are: those with the highest stakes.
const NODES_MAX: u64 = 20_000;
const OFFERING_MAX: usize = 2_000;
/// Most offers that are read, from the node with the highest stake on.
const OFFERS_MAX: usize = 16_000;
/// Most offers of one node (the contract's own bound).
const OFFERS_OF_ONE: u64 = 64;
/// Most models that are kept: those with the highest stake behind their offers.
const MODELS_MAX: usize = 1_024;

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

/// A model and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOffers {
    /// Id in the registry: the manifest's hash.
    pub id: B256,
    /// What the model is.
    pub manifest: ModelManifest,
    /// Who serves it.
    pub offers: Vec<Offer>,
}

impl ModelOffers {
    /// Stake behind the model, in wei: of all nodes that offer it.
    pub fn stake(&self) -> U256 {
        stake_of(&self.offers)
    }
}

fn stake_of(offers: &[Offer]) -> U256 {
    offers.iter().fold(U256::ZERO, |sum, o| sum.saturating_add(o.stake))
}

/// The registries of nodes and models, read with proofs.
#[derive(Debug, Default)]
pub struct Registry {
    /// Most stake behind it first.
    models: Vec<ModelOffers>,
    /// The registry's storage root when it was read.
    root: Option<B256>,
    /// Manifests that were fetched; `None` for those that do not decode. A manifest never changes.
    manifests: HashMap<B256, Option<ModelManifest>>,
    /// True while some manifest could not be fetched.
    incomplete: bool,
}

impl Registry {
    /// The models that some active node offers, most stake behind it first.
    pub fn models(&self) -> &[ModelOffers] {
        &self.models
    }

    /// Reads what has changed since the last time.
    ///
    /// # Errors
    /// What the last server did wrong; what was read before stays.
    pub async fn refresh(&mut self, ledger: &ProvenLedger, head: Head) -> Result<(), ClientError> {
        let contract = ledger.network().network.contracts.node_registry;
        let now = ledger.slots(head, contract, &[]).await?.storage_root;
        if self.root == Some(now) && !self.incomplete {
            return Ok(());
        }
        let offers = Reader { ledger, head, contract }.offers().await?;
        let mut ranked: Vec<_> = offers.into_iter().map(|(id, o)| (stake_of(&o), id, o)).collect();
        ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.truncate(MODELS_MAX);
        self.manifests.retain(|id, _| ranked.iter().any(|(_, other, _)| other == id));
        let (mut models, mut incomplete) = (Vec::new(), false);
        for (_, id, offers) in ranked {
            match self.manifest(ledger, id).await {
                Ok(Some(manifest)) => models.push(ModelOffers { id, manifest, offers }),
                Ok(None) => {}
                Err(e) => {
                    warn!("model {id} is left out: {e}");
                    incomplete = true;
                }
            }
        }
        (self.models, self.root, self.incomplete) = (models, Some(now), incomplete);
        Ok(())
    }

    /// The manifest with this hash; `None` when its bytes are no manifest.
    async fn manifest(
        &mut self,
        ledger: &ProvenLedger,
        id: B256,
    ) -> Result<Option<ModelManifest>, ClientError> {
        if let Some(known) = self.manifests.get(&id) {
            return Ok(known.clone());
        }
        let bytes = ledger.preimage(id).await?;
        let manifest = match ModelManifest::decode(&bytes) {
            Ok(manifest) => Some(manifest),
            Err(e) => {
                debug!("model {id} has no readable manifest: {e}");
                None
            }
        };
        self.manifests.insert(id, manifest.clone());
        Ok(manifest)
    }
}

impl ProvenLedger {
    /// The bytes of the manifest with this keccak-256, which is proof enough. Servers are tried in turn.
    async fn preimage(&self, id: B256) -> Result<Vec<u8>, ClientError> {
        let contract = self.network().network.contracts.model_registry;
        let mut last = None;
        for source in self.in_turn() {
            match source.rpc.view(contract, &ModelRegistry::getCall { modelId: id }).await {
                Ok(model) if alloy_primitives::keccak256(&model.manifest) == id => {
                    return Ok(model.manifest.into());
                }
                Ok(_) => {
                    let lie = Lie::Manifest(id);
                    let e = ClientError::Disbelieved { url: source.rpc.url().into(), lie };
                    last = Some(self.avoid(source, e));
                }
                Err(e) => last = Some(self.avoid(source, e)),
            }
        }
        Err(last.unwrap_or(ClientError::NotFinalised))
    }
}

/// Reads the registry of nodes in one state.
struct Reader<'a> {
    ledger: &'a ProvenLedger,
    head: Head,
    contract: Address,
}

/// A node before its offers are known.
struct Listed {
    node: Address,
    stake: u128,
    endpoint: U256,
}

impl Reader<'_> {
    async fn read(&self, slots: &[B256]) -> Result<Vec<U256>, ClientError> {
        if slots.is_empty() {
            return Ok(vec![]);
        }
        let Slots { values, .. } = self.ledger.slots(self.head, self.contract, slots).await?;
        Ok(values)
    }

    /// All offers by model. Five rounds of proofs: how many nodes, which, their stakes, what they offer, at which prices.
    async fn offers(&self) -> Result<BTreeMap<B256, Vec<Offer>>, ClientError> {
        let nodes = self.nodes().await?;
        let endpoints = self.endpoints(&nodes).await?;
        let counts: Vec<_> = nodes.iter().map(|n| models_of_slot(n.node)).collect();
        let counts = self.read(&counts).await?;
        let mut places = Vec::new();
        for (at, (listed, count)) in nodes.iter().zip(counts).enumerate() {
            let count = count.min(U256::from(OFFERS_OF_ONE)).as_limbs()[0];
            places.extend((0..count).map(|i| (at, in_array(models_of_slot(listed.node), i))));
            if places.len() > OFFERS_MAX {
                warn!(
                    "the network has more than {OFFERS_MAX} offers; those of nodes with less stake are left out"
                );
                break;
            }
        }
        let slots: Vec<_> = places.iter().map(|(_, slot)| *slot).collect();
        let models: Vec<B256> = self.read(&slots).await?.into_iter().map(B256::from).collect();
        let prices: Vec<_> =
            places.iter().zip(&models).map(|((at, _), model)| price_slot(nodes[*at].node, *model)).collect();
        let prices = self.read(&prices).await?;
        let mut offers: BTreeMap<B256, Vec<Offer>> = BTreeMap::new();
        for (((at, _), model), price) in places.iter().zip(models).zip(prices) {
            // An endpoint that is no text cannot be asked.
            let Some(endpoint) = &endpoints[*at] else { continue };
            offers.entry(model).or_default().push(Offer {
                node: nodes[*at].node,
                endpoint: endpoint.clone(),
                stake: U256::from(nodes[*at].stake),
                price_input: low(price),
                price_output: high(price),
            });
        }
        Ok(offers)
    }

    /// Active nodes, the highest stakes first.
    async fn nodes(&self) -> Result<Vec<Listed>, ClientError> {
        let count = self.read(&[base(ACTIVE)]).await?.first().copied().unwrap_or_default();
        let count = count.min(U256::from(NODES_MAX)).as_limbs()[0];
        let slots: Vec<_> = (0..count).map(|i| in_array(base(ACTIVE), i)).collect();
        let names = self.read(&slots).await?;
        let names: Vec<_> = names.into_iter().map(|n| Address::from_word(n.into())).collect();
        let slots: Vec<_> = names.iter().map(|n| node_slot(*n)).collect();
        let records = self.read(&slots).await?;
        let mut staked: Vec<_> =
            names.into_iter().zip(records).map(|(node, word)| (NodeRecord::decode(word), node)).collect();
        staked.sort_by(|a, b| b.0.stake.cmp(&a.0.stake).then(a.1.cmp(&b.1)));
        staked.truncate(OFFERING_MAX);
        let slots: Vec<_> = staked.iter().map(|(_, node)| after(node_slot(*node), 1)).collect();
        let endpoints = self.read(&slots).await?;
        let listed = staked.into_iter().zip(endpoints);
        Ok(listed.map(|((r, node), endpoint)| Listed { node, stake: r.stake, endpoint }).collect())
    }

    /// Endpoints of `nodes`; `None` for one that cannot be read.
    async fn endpoints(&self, nodes: &[Listed]) -> Result<Vec<Option<String>>, ClientError> {
        let heads: Vec<_> = nodes.iter().map(|n| StringHead::decode(n.endpoint)).collect();
        let mut slots = Vec::new();
        for (listed, head) in nodes.iter().zip(&heads) {
            if let Some(StringHead::Long(length)) = head {
                slots.extend((0..length.div_ceil(32)).map(|i| in_array(after(node_slot(listed.node), 1), i)));
            }
        }
        let mut words = self.read(&slots).await?.into_iter();
        let text =
            |bytes: Vec<u8>| String::from_utf8(bytes).ok().map(|url| url.trim_end_matches('/').to_owned());
        let read = heads.into_iter().map(|head| match head? {
            StringHead::Whole(bytes) => text(bytes),
            StringHead::Long(length) => {
                let parts = words.by_ref().take(length.div_ceil(32) as usize);
                let mut bytes: Vec<u8> = parts.flat_map(|w| w.to_be_bytes::<32>()).collect();
                bytes.truncate(length as usize);
                text(bytes)
            }
        });
        Ok(read.collect())
    }
}
