//! The actors of one validator, wired on any runtime.

use crate::{
    Application, Block, Chain, ConsensusError,
    block::BLOCK_BYTES_MAX,
    epochs::{Epochs, participants},
    evidence::Watch,
    gossip,
    keys::ValidatorSecret,
    orchestrator::{self, BUFFER_BYTES, Channels, MAILBOX},
};
use alloy_primitives::{B256, Bytes, FixedBytes};
use commonware_broadcast::buffered;
use commonware_codec::{Encode as _, RangeCfg, Read as _, Write as _};
use commonware_consensus::{
    marshal::{
        self,
        core::Actor as MarshalActor,
        standard::{Deferred, Standard},
    },
    simplex::{
        scheme::bls12381_multisig,
        types::{Finalization, Proposal},
    },
    types::{Epoch, FixedEpocher, Height, Participant, Round, View, ViewDelta},
};
use commonware_cryptography::{
    Digested, Digestible as _, Signer as _,
    bls12381::primitives::variant::MinSig,
    certificate::{Signers, Verifier},
    ed25519::PublicKey,
    keccak256::Digest,
};
use commonware_p2p::{Blocker, Manager, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{
    Clock, Handle, Metrics, Network, Spawner, Storage,
    buffer::paged::{CacheRef, page_size},
};
use commonware_storage::{archive::prunable, translator::TwoCap};
use commonware_utils::{NZDuration, NZU64, NZUsize};
use futures::{StreamExt as _, channel::mpsc};
use rand::{CryptoRng, Rng};
use std::{num::NonZeroU64, sync::Arc, time::Duration};
use types::{FinalityCertificate, NetworkConfig, ValidatorSet};

/// Votes and certificates: attributable aggregated BLS signatures. One alias, so that the engine is compiled once.
pub type Scheme = bls12381_multisig::Scheme<PublicKey, MinSig>;

/// Channels on the peer-to-peer network: votes, certificates, certificate resolver, block broadcast, block backfill,
/// transactions.
pub const CHANNELS: usize = 6;

/// Largest message between validators, in bytes.
pub const MESSAGE_BYTES_MAX: u32 = (BLOCK_BYTES_MAX + 64 * 1024) as u32;

/// Newest blocks that a validator can give to others who missed them.
const REPAIR_BLOCKS: u64 = 100_000;
/// Blocks between two looks at what is older.
const PRUNE_EVERY: u64 = 1024;
const PAGE_CACHE_PAGES: usize = 2048;
const ITEMS_PER_SECTION: u64 = 1024;

/// How long validators wait for one another.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Until a leader that proposes nothing is skipped.
    pub leader: Duration,
    /// Until a view without certificate is left.
    pub certification: Duration,
}

impl Timing {
    /// Time-outs that fit blocks that are at least `block_time_ms` apart.
    pub fn for_block_time(block_time_ms: u64) -> Self {
        let leader = Duration::from_millis(block_time_ms.saturating_mul(2) + 1000);
        Self { leader, certification: leader + Duration::from_secs(1) }
    }
}

/// The scheme with which the holder of these keys votes among `set`; `None` when it is not in the set.
///
/// # Errors
/// [`ConsensusError::Key`] for an unusable set.
pub fn scheme(
    set: &ValidatorSet,
    genesis: B256,
    secret: &ValidatorSecret,
) -> Result<Option<Scheme>, ConsensusError> {
    let participants = participants(set)?;
    // A vote key that is in the set under another peer key must not sign here.
    if participants.keys().position(&secret.peer.public_key()).is_none() {
        return Ok(None);
    }
    Ok(Scheme::signer(&NetworkConfig::namespace(genesis), participants, secret.vote.clone()))
}

/// Starts all actors of the validator with these keys and returns their handles.
///
/// `channels` are in the order given at [`CHANNELS`]. The same code runs on real and simulated networks.
///
/// # Errors
/// [`ConsensusError::Stopped`] when the consensus storage cannot be opened.
pub async fn start<E, B, M, SE, RE>(
    context: E,
    chain: Arc<Chain>,
    secret: &ValidatorSecret,
    blocker: B,
    manager: M,
    timing: Timing,
    channels: [(SE, RE); CHANNELS],
) -> Result<Vec<Handle<()>>, ConsensusError>
where
    E: Clock + Rng + CryptoRng + Spawner + Storage + Metrics + Network,
    B: Blocker<PublicKey = PublicKey>,
    M: Manager<PublicKey = PublicKey>,
    SE: Sender<PublicKey = PublicKey>,
    RE: Receiver<PublicKey = PublicKey>,
{
    let me = secret.peer.public_key();
    let epochs = Epochs::new(chain.clone(), secret.clone());
    let [votes, certificates, resolver, broadcast, backfill, transactions] = channels;
    // The deterministic simulator has one storage for all validators, so names carry the validator. A state sync begins anew: what an older
    // ledger of this validator left behind does not fit the new one.
    let id = match chain.store().synced_at()? {
        None => me.to_string(),
        Some(number) => format!("{me}-{number}"),
    };
    let mailbox = NZUsize!(MAILBOX);
    let cache = CacheRef::new(page_size(4096), NZUsize!(PAGE_CACHE_PAGES));
    let block_codec: RangeCfg<usize> = RangeCfg::from(..=BLOCK_BYTES_MAX);
    let application = Application::new(chain.clone(), epochs.clone());
    let genesis = Block::genesis(chain.genesis().block().clone());
    let genesis_digest = genesis.digest();
    let epoch_blocks = NonZeroU64::new(chain.network().epoch_blocks).unwrap_or(NonZeroU64::MIN);
    let epocher = FixedEpocher::new(epoch_blocks);

    let anchor = anchor(&chain)?;
    let (buffer, buffer_mailbox) = buffered::Engine::new(
        context.child("buffer"),
        buffered::Config {
            public_key: me.clone(),
            mailbox_size: mailbox,
            deque_size: 16,
            priority: true,
            codec_config: block_codec,
            peer_provider: manager.clone(),
            strategy: Sequential,
        },
    );
    let storage = |e| ConsensusError::Stopped(format!("consensus storage: {e:?}"));
    let certificate_codec = Scheme::certificate_codec_config_unbounded();
    let finalizations = archive(&id, "finalizations", cache.clone(), certificate_codec);
    let finalizations =
        prunable::Archive::init(context.child("finalizations"), finalizations).await.map_err(storage)?;
    let blocks = archive(&id, "blocks", cache.clone(), block_codec);
    let blocks = prunable::Archive::init(context.child("blocks"), blocks).await.map_err(storage)?;
    let backfill = marshal::resolver::p2p::init(
        context.child("backfill"),
        marshal::resolver::p2p::Config {
            public_key: me.clone(),
            peer_provider: manager.clone(),
            blocker: blocker.clone(),
            mailbox_size: mailbox,
            fetch_timeout: NZDuration!(Duration::from_secs(2)),
            fetch_retry_delay: Duration::from_millis(100),
            priority_requests: false,
            priority_responses: false,
        },
        backfill,
    );
    let (marshal, marshal_mailbox, _floor) = MarshalActor::init(
        context.child("marshal"),
        finalizations,
        blocks,
        marshal::Config {
            provider: epochs.clone(),
            epocher: epocher.clone(),
            start: match &anchor {
                Some(finalization) => marshal::Start::Floor(finalization.clone()),
                None => marshal::Start::Genesis(Digested::precomputed(genesis, genesis_digest)),
            },
            partition_prefix: id.clone(),
            mailbox_size: mailbox,
            view_retention: ViewDelta::new(100),
            prunable_items_per_section: NZU64!(ITEMS_PER_SECTION),
            page_cache: cache.clone(),
            replay_buffer: NZUsize!(BUFFER_BYTES),
            key_write_buffer: NZUsize!(BUFFER_BYTES),
            value_write_buffer: NZUsize!(BUFFER_BYTES),
            block_codec_config: block_codec,
            max_repair: NZUsize!(20),
            max_pending_acks: NZUsize!(16),
            strategy: Sequential,
        },
    )
    .await;
    let marshaled =
        Deferred::new(context.child("marshaled"), application.clone(), marshal_mailbox.clone(), epocher);
    let reporter = Watch { inner: marshaled.clone(), chain: chain.clone(), epochs: epochs.clone() };
    let parts = orchestrator::Parts {
        chain: chain.clone(),
        epochs,
        me,
        id,
        blocker,
        manager,
        application: marshaled,
        reporter,
        marshal: marshal_mailbox.clone(),
        page_cache: cache,
        timing,
        anchor,
    };
    let channels = Channels::new(&context, votes, certificates, resolver);
    let [for_engines, for_certificates] = [chain.committed_heights(), chain.committed_heights()];
    let engines = orchestrator::start(context.child("epochs"), parts, channels, for_engines);
    let collector = collect_certificates(
        context.child("certificate_collector"),
        chain.clone(),
        marshal_mailbox,
        for_certificates,
    );
    let gossip = gossip::spawn(context.child("gossip"), chain, transactions.0, transactions.1);
    let mut handles = gossip;
    handles.extend([
        collector,
        buffer.start(broadcast),
        marshal.start(application, buffer_mailbox, backfill),
        engines,
    ]);
    Ok(handles)
}

fn archive<C>(id: &str, name: &str, cache: CacheRef, codec_config: C) -> prunable::Config<TwoCap, C> {
    prunable::Config {
        translator: TwoCap,
        metadata_partition: format!("{id}-{name}-metadata"),
        key_partition: format!("{id}-{name}-key"),
        key_page_cache: cache,
        value_partition: format!("{id}-{name}-value"),
        compression: None,
        codec_config,
        items_per_section: NZU64!(ITEMS_PER_SECTION),
        key_write_buffer: NZUsize!(BUFFER_BYTES),
        value_write_buffer: NZUsize!(BUFFER_BYTES),
        replay_buffer: NZUsize!(BUFFER_BYTES),
    }
}

/// Copies the certificate of every final block that has one of its own into the ledger's store, in the network's
/// own format.
fn collect_certificates<E: Spawner>(
    context: E,
    chain: Arc<Chain>,
    marshal: marshal::core::Mailbox<Scheme, Standard<Block>>,
    mut heights: mpsc::UnboundedReceiver<u64>,
) -> Handle<()> {
    context.spawn(move |_| async move {
        while let Some(height) = heights.next().await {
            // A block can be final through its descendants; then it has no certificate of its own.
            let Some(finalization) = marshal.get_finalization(Height::new(height)).await else { continue };
            chain.store().put_certificate(height, &portable(&finalization));
            if height % PRUNE_EVERY == 0 {
                // Older blocks are in the ledger's store; whoever is further behind joins with a state sync.
                marshal.prune(Height::new(height.saturating_sub(REPAIR_BLOCKS)));
            }
        }
    })
}

/// A finalization in the network's own format.
fn portable(finalization: &Finalization<Scheme, Digest>) -> FinalityCertificate {
    let proposal = &finalization.proposal;
    let certificate = &finalization.certificate;
    let mut signers = vec![0u8; certificate.signers.len().div_ceil(8)];
    for signer in certificate.signers.iter() {
        let i = usize::from(signer);
        signers[i / 8] |= 1 << (i % 8);
    }
    FinalityCertificate {
        epoch: proposal.round.epoch().get(),
        view: proposal.round.view().get(),
        parent_view: proposal.parent.get(),
        block_hash: proposal.payload.0.into(),
        signers: Bytes::from(signers),
        signature: FixedBytes::from_slice(&certificate.signature.encode()),
    }
}

/// A finalization in the engine's form; `validators` is how many could sign.
fn native(certificate: &FinalityCertificate, validators: usize) -> Option<Finalization<Scheme, Digest>> {
    let digest = Digest::from(certificate.block_hash.0);
    let round = Round::new(Epoch::new(certificate.epoch), View::new(certificate.view));
    let proposal = Proposal::new(round, View::new(certificate.parent_view), digest);
    let signers = certificate.signer_indices(validators).ok()?;
    let signers = signers.into_iter().map(Participant::from_usize);
    let mut bytes = Vec::new();
    Signers::new(u32::try_from(validators).ok()?, signers).ok()?.write(&mut bytes);
    bytes.extend_from_slice(certificate.signature.as_slice());
    let certificate =
        <Scheme as Verifier>::Certificate::read_cfg(&mut bytes::Bytes::from(bytes), &validators).ok()?;
    Some(Finalization { proposal, certificate })
}

/// The finalization of the block at which a state sync began, if one did.
fn anchor(chain: &Chain) -> Result<Option<Finalization<Scheme, Digest>>, ConsensusError> {
    let Some(number) = chain.store().synced_at()? else { return Ok(None) };
    let gone = || {
        ConsensusError::Stopped(format!("the certificate of block {number}, where the sync began, is gone"))
    };
    let certificate = chain.store().certificate(number)?.ok_or_else(gone)?;
    let set = chain.store().validators(certificate.epoch)?.ok_or_else(gone)?;
    native(&certificate, set.members.len()).map(Some).ok_or_else(gone)
}
