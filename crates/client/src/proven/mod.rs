//! What the ledger says, believed only with proofs: for proxies, nodes and auditors that do not run a validator.
//!
//! **Problem.** A JSON-RPC server can say anything: invent a node, raise a price, hide who is cheaper, show last week's state or another
//! network. Whoever believes it lets it decide whom they pay.
//!
//! **Design.** [`ProvenLedger`] follows the validator sets with the [light client](crate::light) from a pinned genesis, keeps the newest
//! certified header, and reads storage slots only with Merkle-Patricia proofs against that header's state root. Servers are tried in
//! turn; one that lies is left alone for a while. What it knows has an age, and too old is an error.
//!
//! **Guarantees.** A value that [`ProvenLedger::slots`] returns is in a state that a quorum of the pinned network's validators finalised.

mod layout;
mod pin;
mod registry;

pub use layout::{NodeRecord, history_slot};
pub use registry::{ModelOffers, Offer, Registry};

use crate::{
    ClientError, NetworkInfo, RpcClient,
    error::Lie,
    light::{self, Trusted},
};
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, U64, U256, address, keccak256};
use parking_lot::Mutex;
use pin::Pin;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use tracing::warn;
use types::Handover;

/// Where block hashes are kept (EIP-2935).
const HISTORY: Address = address!("0x0000F90827F1C53a10cb7A02335B175320002935");
/// Newest blocks whose hashes are kept.
const HASHES_MAX: u64 = 1000;
/// Most slots of one proof: the servers' own bound.
const SLOTS_MAX: usize = 256;
/// Most proofs of one batch of reading, so that a server cannot keep us busy for ever.
const BATCHES_MAX: usize = 1024;
/// How long a server that lied or failed is asked last.
const AVOID_LIAR: Duration = Duration::from_secs(600);
const LAG_MAX: u64 = 15;
/// From when on servers count as silent.
const SILENT: Duration = Duration::from_secs(2);
const AVOID_FAILED: Duration = Duration::from_secs(5);

/// How a ledger is reached and believed.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// JSON-RPC servers, tried in turn; at least one. None is trusted.
    pub urls: Vec<String>,
    /// Genesis hash of the network that is meant. When absent, the one in `folder`; on first use, the one that the servers name.
    pub network: Option<B256>,
    /// Where the network and the newest validators are remembered; nowhere when absent.
    pub folder: Option<PathBuf>,
    /// Oldest newest block, by its own time, that counts as the present.
    pub stale_max: Duration,
}

/// A certified header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Block number.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
    /// Root of the state after it.
    pub state_root: B256,
    /// Its time in seconds since the Unix epoch.
    pub timestamp: u64,
}

#[derive(Debug)]
struct Source {
    rpc: RpcClient,
    avoid_until: Mutex<Option<Instant>>,
}

/// A view of the ledger through servers that are not trusted.
#[derive(Debug)]
pub struct ProvenLedger {
    sources: Vec<Source>,
    network: NetworkInfo,
    genesis: B256,
    trusted: Mutex<Trusted>,
    head: watch::Sender<Option<Head>>,
    hashes: Mutex<BTreeMap<u64, B256>>,
    folder: Option<PathBuf>,
    stale_max: Duration,
    /// What the last server did wrong.
    trouble: Mutex<String>,
    /// When a server last gave a block that can be believed.
    heard: Mutex<Option<Instant>>,
}

/// `eth_getProof` (EIP-1186), as far as it is checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountProof {
    account_proof: Vec<Bytes>,
    storage_proof: Vec<SlotProof>,
}

#[derive(Deserialize)]
struct SlotProof {
    value: U256,
    proof: Vec<Bytes>,
}

#[derive(Deserialize)]
struct Handovers {
    handovers: Vec<Handover>,
}

/// Values of slots, in the order in which they were asked for, and the root of the account's whole storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The values; zero where there is nothing.
    pub values: Vec<U256>,
    /// The account's storage root: the same root means that no slot has changed.
    pub storage_root: B256,
}

impl ProvenLedger {
    /// Finds the network and proves its newest block.
    ///
    /// # Errors
    /// [`ClientError::OtherNetwork`] when the servers serve another network than the pinned one, else what the last server did wrong.
    pub async fn connect(config: LedgerConfig) -> Result<Self, ClientError> {
        let pin = match &config.folder {
            Some(folder) => Pin::read(folder)?,
            None => None,
        };
        let expected = match (&pin, config.network) {
            (Some(pin), Some(meant)) if pin.genesis != meant => {
                return Err(pin.contradicts(config.folder.as_deref(), meant));
            }
            (Some(pin), _) => Some(pin.genesis),
            (None, meant) => meant,
        };
        let sources: Vec<_> = config
            .urls
            .iter()
            .map(|url| Source {
                rpc: RpcClient::new(url.trim_end_matches('/')),
                avoid_until: Mutex::default(),
            })
            .collect();
        let network = find_network(&sources, expected).await?;
        let genesis = keccak256(&network.genesis_header);
        let malformed = |reason| ClientError::Malformed { url: config.urls.join(", "), reason };
        let trusted = match pin.map(|p| p.set) {
            Some(set) => {
                light::check_network(&network.network, &network.genesis_header, genesis)
                    .map_err(malformed)?;
                Trusted::resume(&network.network, genesis, set).map_err(malformed)?
            }
            None => {
                Trusted::genesis(&network.network, &network.genesis_header, genesis).map_err(malformed)?
            }
        };
        let ledger = Self {
            sources,
            network,
            genesis,
            trusted: Mutex::new(trusted),
            head: watch::Sender::new(None),
            hashes: Mutex::default(),
            folder: config.folder,
            stale_max: config.stale_max,
            trouble: Mutex::default(),
            heard: Mutex::default(),
        };
        ledger.remember()?;
        match ledger.refresh().await {
            // Old news is enough to begin with; whoever wants to act on it is told.
            Err(ClientError::Stale { .. }) if ledger.newest().is_some() => Ok(ledger),
            other => other.map(|_| ledger),
        }
    }

    /// Configuration and genesis header of the network.
    pub fn network(&self) -> &NetworkInfo {
        &self.network
    }

    /// Genesis hash of the network.
    pub fn genesis(&self) -> B256 {
        self.genesis
    }

    /// The server that would be asked next. What it says by itself proves nothing.
    pub fn rpc(&self) -> &RpcClient {
        &self.in_turn()[0].rpc
    }

    /// The newest certified block, however old.
    pub fn newest(&self) -> Option<Head> {
        *self.head.borrow()
    }

    /// The newest certified block.
    ///
    /// # Errors
    /// [`ClientError::Stale`] when even that is older than the bound.
    pub fn head(&self) -> Result<Head, ClientError> {
        match *self.head.borrow() {
            Some(head) => self.fresh(head.timestamp).map(|()| head),
            None => Err(self.stale(0)),
        }
    }

    /// Whether a block of this Unix time counts as the present.
    ///
    /// # Errors
    /// [`ClientError::Stale`].
    pub fn fresh(&self, timestamp: u64) -> Result<(), ClientError> {
        match age(timestamp) <= self.stale_max.as_secs() {
            true => Ok(()),
            false => Err(self.stale(timestamp)),
        }
    }

    fn stale(&self, timestamp: u64) -> ClientError {
        let trouble = self.trouble.lock().clone();
        let why = if trouble.is_empty() { "the servers have no newer one".into() } else { trouble };
        ClientError::Stale { age_s: age(timestamp), max_s: self.stale_max.as_secs(), why }
    }

    /// The hash of block `number`, when it is among the newest thousand that are proved.
    pub fn block_hash(&self, number: u64) -> Option<B256> {
        self.hashes.lock().get(&number).copied()
    }

    /// Whether no server gave a block that can be believed for some seconds: then nothing is worth waiting for.
    pub fn is_silent(&self) -> bool {
        self.heard.lock().is_none_or(|heard| heard.elapsed() > SILENT)
    }

    /// Waits until block `number` is proved, at most for `limit`. Asks nobody: the block comes with the next [`refresh`](Self::refresh).
    pub async fn reaches(&self, number: u64, limit: Duration) -> bool {
        let mut heads = self.head.subscribe();
        let reached = heads.wait_for(|h| h.is_some_and(|h| h.number >= number));
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Looks for a newer certified block, and proves it.
    ///
    /// # Errors
    /// What the last server did wrong, when none gave a block that can be believed.
    pub async fn refresh(&self) -> Result<Head, ClientError> {
        let mut last = None;
        for source in self.in_turn() {
            match self.refresh_from(&source.rpc).await {
                // Whoever shows an old state shows nothing new: somebody else may know better.
                Ok(head) if age(head.timestamp) > self.lag_max() => {
                    last = Some(self.avoid(source, self.stale(head.timestamp)))
                }
                Ok(head) => {
                    *source.avoid_until.lock() = None;
                    self.trouble.lock().clear();
                    *self.heard.lock() = Some(Instant::now());
                    return Ok(head);
                }
                Err(e) => last = Some(self.avoid(source, e)),
            }
        }
        Err(last.unwrap_or_else(|| self.stale(0)))
    }

    /// Age of a block, in seconds, from which on another server is asked, too.
    fn lag_max(&self) -> u64 {
        LAG_MAX.max(20 * self.network.network.block_time_ms / 1000).min(self.stale_max.as_secs())
    }

    async fn refresh_from(&self, rpc: &RpcClient) -> Result<Head, ClientError> {
        let lied = |lie| ClientError::Disbelieved { url: rpc.url().into(), lie };
        let said = rpc.finalized().await?;
        let (header, hash) = light::header(&said.header).map_err(|e| lied(Lie::Finality(e)))?;
        let before = *self.head.borrow();
        if let Some(before) = before.filter(|b| b.number >= header.number) {
            // A server that is a little behind is no liar, and no news either.
            return match before.number == header.number && before.hash != hash {
                true => Err(lied(Lie::Finality(format!(
                    "block {} is {}, not {hash}",
                    before.number, before.hash
                )))),
                false => Ok(before),
            };
        }
        self.follow(rpc, &header).await?;
        let checked = self.trusted.lock().final_header(&said.header, &said.certificate);
        if let Err(e) = checked {
            return Err(self.classify(rpc, Lie::Finality(e)).await);
        }
        let head =
            Head { number: header.number, hash, state_root: header.state_root, timestamp: header.timestamp };
        self.learn_hashes(rpc, head).await?;
        self.head.send_replace(Some(head));
        Ok(head)
    }

    /// Follows the changes of the validator set up to the one that votes for `header`.
    async fn follow(&self, rpc: &RpcClient, header: &Header) -> Result<(), ClientError> {
        if header.parent_beacon_block_root == Some(self.trusted.lock().set().commitment()) {
            return Ok(());
        }
        let epoch = U64::from(header.number / self.network.network.epoch_blocks);
        let said: Handovers = rpc.call("og_handovers", json!([epoch])).await?;
        let followed = {
            let mut trusted = self.trusted.lock();
            let known = trusted.set().epoch;
            let new = said.handovers.iter().filter(|h| h.next.epoch > known);
            new.map(|h| trusted.follow(h)).collect::<Result<Vec<()>, _>>()
        };
        match followed {
            Ok(_) => self.remember(),
            Err(e) => Err(self.classify(rpc, Lie::Finality(e)).await),
        }
    }

    /// A block that does not check may simply be another network's.
    async fn classify(&self, rpc: &RpcClient, lie: Lie) -> ClientError {
        let served = rpc.network().await.map(|n| keccak256(&n.genesis_header));
        match served {
            Ok(served) if served != self.genesis => self.other(rpc, served),
            _ => ClientError::Disbelieved { url: rpc.url().into(), lie },
        }
    }

    fn other(&self, rpc: &RpcClient, served: B256) -> ClientError {
        ClientError::OtherNetwork { origin: rpc.url().into(), served, meant: self.genesis }
    }

    /// Proves the hashes of the blocks before `head` that are not known yet (EIP-2935).
    async fn learn_hashes(&self, rpc: &RpcClient, head: Head) -> Result<(), ClientError> {
        let oldest = head.number.saturating_sub(HASHES_MAX - 1);
        let known = self.hashes.lock().last_key_value().map(|(n, _)| *n);
        let from = known.map_or(oldest, |n| (n + 1).max(oldest));
        let numbers: Vec<_> = (from..head.number).collect();
        let slots: Vec<_> = numbers.iter().map(|n| history_slot(*n)).collect();
        let found = self.slots_from(rpc, head, HISTORY, &slots).await?;
        let mut hashes = self.hashes.lock();
        let named = numbers.into_iter().zip(found.values).filter(|(_, v)| !v.is_zero());
        hashes.extend(named.map(|(n, v)| (n, B256::from(v))));
        hashes.insert(head.number, head.hash);
        *hashes = hashes.split_off(&oldest);
        Ok(())
    }

    /// Values of storage slots of `contract` in the state of `head`, proved. Servers are tried in turn.
    ///
    /// # Errors
    /// What the last server did wrong; [`ClientError::Disbelieved`] when its proof does not fit.
    pub async fn slots(&self, head: Head, contract: Address, slots: &[B256]) -> Result<Slots, ClientError> {
        let mut last = None;
        for source in self.in_turn() {
            match self.slots_from(&source.rpc, head, contract, slots).await {
                Ok(found) => return Ok(found),
                Err(e) => last = Some(self.avoid(source, e)),
            }
        }
        Err(last.unwrap_or_else(|| self.stale(0)))
    }

    async fn slots_from(
        &self,
        rpc: &RpcClient,
        head: Head,
        contract: Address,
        slots: &[B256],
    ) -> Result<Slots, ClientError> {
        let mut found = Slots { values: Vec::with_capacity(slots.len()), storage_root: B256::ZERO };
        if slots.len() > SLOTS_MAX * BATCHES_MAX {
            let max = SLOTS_MAX * BATCHES_MAX;
            return Err(ClientError::TooLarge { url: rpc.url().into(), max });
        }
        // Without slots, the account alone.
        let parts: Vec<&[B256]> =
            if slots.is_empty() { vec![&[]] } else { slots.chunks(SLOTS_MAX).collect() };
        for part in parts {
            let proof: AccountProof =
                rpc.call("eth_getProof", json!([contract, part, U64::from(head.number)])).await?;
            let (values, root) = check(head, contract, part, &proof)
                .map_err(|lie| ClientError::Disbelieved { url: rpc.url().into(), lie })?;
            found.values.extend(values);
            found.storage_root = root;
        }
        Ok(found)
    }

    /// Servers that did not fail lately first.
    fn in_turn(&self) -> Vec<&Source> {
        let now = Instant::now();
        let mut sources: Vec<_> = self.sources.iter().collect();
        sources.sort_by_key(|s| s.avoid_until.lock().is_some_and(|until| until > now));
        sources
    }

    /// Asks a server last for a while; longer when it lied.
    fn avoid(&self, source: &Source, e: ClientError) -> ClientError {
        let lied = matches!(e, ClientError::Disbelieved { .. } | ClientError::OtherNetwork { .. });
        let pause = if lied { AVOID_LIAR } else { AVOID_FAILED };
        if lied {
            warn!("not believed: {e}");
        }
        *source.avoid_until.lock() = Some(Instant::now() + pause);
        *self.trouble.lock() = e.to_string();
        e
    }

    /// Writes network and newest validators down: after a restart nobody has to be asked who votes, and old validators who took their stake
    /// out cannot forge a history.
    fn remember(&self) -> Result<(), ClientError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        Pin::new(self.genesis, self.trusted.lock().set().clone()).write(folder)
    }
}

fn age(timestamp: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).saturating_sub(timestamp)
}

/// Checks an account proof with its slots against a certified state.
fn check(
    head: Head,
    contract: Address,
    slots: &[B256],
    proof: &AccountProof,
) -> Result<(Vec<U256>, B256), Lie> {
    let account =
        light::check_account(head.state_root, contract, &proof.account_proof).map_err(Lie::Account)?;
    let root = account.unwrap_or_default().storage_root;
    if proof.storage_proof.len() != slots.len() {
        return Err(Lie::Slot(format!("{} proofs for {} slots", proof.storage_proof.len(), slots.len())));
    }
    let mut values = Vec::with_capacity(slots.len());
    for (slot, said) in slots.iter().zip(&proof.storage_proof) {
        light::check_slot(root, *slot, said.value, &said.proof)
            .map_err(|e| Lie::Slot(format!("slot {slot} of {contract}: {e}")))?;
        values.push(said.value);
    }
    Ok((values, root))
}

/// The network that the servers serve: the expected one, or on first use the one that all who answer name.
async fn find_network(sources: &[Source], expected: Option<B256>) -> Result<NetworkInfo, ClientError> {
    let mut found: Option<(NetworkInfo, B256)> = None;
    let mut last = None;
    for source in sources {
        let (url, said) = (source.rpc.url(), source.rpc.network().await);
        let said = match said {
            Ok(said) => said,
            Err(e) => {
                last = last.or(Some(e));
                continue;
            }
        };
        let served = keccak256(&said.genesis_header);
        match expected.or(found.as_ref().map(|(_, genesis)| *genesis)) {
            Some(meant) if meant != served => {
                let other = ClientError::OtherNetwork { origin: url.into(), served, meant };
                // On first use nobody can say which of them is meant.
                if expected.is_none() {
                    return Err(other);
                }
                warn!("left out: {other}");
                *source.avoid_until.lock() = Some(Instant::now() + AVOID_LIAR);
                last = Some(other);
            }
            _ => {
                light::check_network(&said.network, &said.genesis_header, served)
                    .map_err(|e| ClientError::Disbelieved { url: url.into(), lie: Lie::Genesis(e) })?;
                found.get_or_insert((said, served));
            }
        }
    }
    let none = || ClientError::Malformed { url: String::new(), reason: "no JSON-RPC server is named".into() };
    found.map(|(network, _)| network).ok_or_else(|| last.unwrap_or_else(none))
}
