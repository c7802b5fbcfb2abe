//! The actors of one validator, wired on any runtime.

use crate::{
    Application, Block, Chain, ConsensusError,
    block::{BLOCK_BYTES_MAX, EPOCH},
    gossip,
    keys::{ValidatorSecret, participants},
};
use alloy_primitives::{Bytes, FixedBytes};
use commonware_broadcast::buffered;
use commonware_codec::{Encode as _, RangeCfg};
use commonware_consensus::{
    marshal::{
        self,
        core::Actor as MarshalActor,
        standard::{Deferred, Standard},
    },
    simplex::{self, elector::RoundRobin, scheme::bls12381_multisig, types::Finalization},
    types::{Epoch, FixedEpocher, Height, ViewDelta},
};
use commonware_cryptography::{
    Digested, Digestible as _, Sha256, Signer as _,
    bls12381::primitives::variant::MinSig,
    certificate::{ConstantProvider, Verifier as _},
    ed25519::PublicKey,
    keccak256::Digest,
};
use commonware_p2p::{Blocker, Provider, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{
    Clock, Handle, Metrics, Network, Spawner, Storage,
    buffer::paged::{CacheRef, page_size},
};
use commonware_storage::{archive::prunable, translator::TwoCap};
use commonware_utils::{NZDuration, NZU64, NZUsize};
use futures::StreamExt as _;
use rand::{CryptoRng, Rng};
use std::{sync::Arc, time::Duration};
use tracing::error;
use types::{FinalityCertificate, NetworkConfig};

/// Votes and certificates: attributable aggregated BLS signatures. One alias, so that the engine is compiled once.
pub type Scheme = bls12381_multisig::Scheme<PublicKey, MinSig>;

/// Channels on the peer-to-peer network: votes, certificates, certificate resolver, block broadcast, block backfill,
/// transactions.
pub const CHANNELS: usize = 6;

/// Largest message between validators, in bytes.
pub const MESSAGE_BYTES_MAX: u32 = (BLOCK_BYTES_MAX + 64 * 1024) as u32;

/// Messages that an actor keeps waiting.
const MAILBOX: usize = 1024;
const PAGE_CACHE_PAGES: usize = 2048;
const BUFFER_BYTES: usize = 1 << 20;
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

/// The signing scheme of this validator in its network.
///
/// # Errors
/// [`ConsensusError::Key`] for a bad validator set, [`ConsensusError::NotAValidator`] when the key is not in it.
pub fn scheme(chain: &Chain, secret: &ValidatorSecret) -> Result<Scheme, ConsensusError> {
    let set = participants(chain.network())?;
    if set.keys().position(&secret.peer.public_key()).is_none() {
        return Err(ConsensusError::NotAValidator);
    }
    let namespace = NetworkConfig::namespace(chain.genesis().hash());
    Scheme::signer(&namespace, set, secret.vote.clone()).ok_or(ConsensusError::NotAValidator)
}

/// Starts all actors of the validator `me` and returns their handles.
///
/// `channels` are in the order given at [`CHANNELS`]. The same code runs on real and simulated networks.
///
/// # Errors
/// [`ConsensusError::Stopped`] when the consensus storage cannot be opened.
#[expect(clippy::too_many_arguments, reason = "the parts come from different layers of the runtime")]
pub async fn start<E, B, P, SE, RE>(
    context: E,
    chain: Arc<Chain>,
    scheme: Scheme,
    me: PublicKey,
    blocker: B,
    provider: P,
    timing: Timing,
    channels: [(SE, RE); CHANNELS],
) -> Result<Vec<Handle<()>>, ConsensusError>
where
    E: Clock + Rng + CryptoRng + Spawner + Storage + Metrics + Network,
    B: Blocker<PublicKey = PublicKey>,
    P: Provider<PublicKey = PublicKey>,
    SE: Sender<PublicKey = PublicKey>,
    RE: Receiver<PublicKey = PublicKey>,
{
    let [votes, certificates, resolver, broadcast, backfill, transactions] = channels;
    // The deterministic simulator has one storage for all validators, so names carry the validator.
    let id = me.to_string();
    let mailbox = NZUsize!(MAILBOX);
    let cache = CacheRef::new(page_size(4096), NZUsize!(PAGE_CACHE_PAGES));
    let block_codec: RangeCfg<usize> = RangeCfg::from(..=BLOCK_BYTES_MAX);
    let application = Application::new(chain.clone());
    let genesis = Block::genesis(chain.genesis().block().clone());
    let genesis_digest = genesis.digest();
    let epocher = FixedEpocher::new(NZU64!(u64::MAX));

    let (buffer, buffer_mailbox) = buffered::Engine::new(
        context.child("buffer"),
        buffered::Config {
            public_key: me.clone(),
            mailbox_size: mailbox,
            deque_size: 16,
            priority: true,
            codec_config: block_codec,
            peer_provider: provider.clone(),
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
            public_key: me,
            peer_provider: provider,
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
            provider: ConstantProvider::<Scheme, Epoch>::new(scheme.clone()),
            epocher: epocher.clone(),
            start: marshal::Start::Genesis(Digested::precomputed(genesis, genesis_digest)),
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
    let consensus = simplex::Engine::new(
        context.child("consensus"),
        simplex::Config {
            epoch: EPOCH,
            scheme,
            elector: RoundRobin::<Sha256>::default(),
            blocker,
            automaton: marshaled.clone(),
            relay: marshaled,
            reporter: marshal_mailbox.clone(),
            track_historical_votes: false,
            strategy: Sequential,
            partition: format!("{id}-consensus"),
            mailbox_size: mailbox,
            floor: simplex::Floor::Genesis(genesis_digest),
            leader_timeout: timing.leader,
            certification_timeout: timing.certification,
            timeout_retry: timing.certification + Duration::from_millis(50),
            fetch_timeout: NZDuration!(Duration::from_secs(1)),
            fetch_retry_delay: Duration::from_millis(100),
            view_retention: ViewDelta::new(100),
            skip: simplex::SkipPolicy::Enabled {
                timeout: timing.certification + Duration::from_millis(200),
                budget: simplex::SkipBudget::Participants,
            },
            forward: simplex::ForwardPolicy::Disabled,
            replay_buffer: NZUsize!(BUFFER_BYTES),
            write_buffer: NZUsize!(BUFFER_BYTES),
            page_cache: cache,
        },
    );
    let collector = collect_certificates(context.child("certificates"), chain.clone(), marshal_mailbox);
    let gossip = gossip::spawn(context.child("gossip"), chain, transactions.0, transactions.1);
    Ok(vec![
        collector,
        gossip,
        buffer.start(broadcast),
        marshal.start(application, buffer_mailbox, backfill),
        consensus.start(votes, certificates, resolver),
    ])
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
) -> Handle<()> {
    let mut heights = chain.committed_heights();
    context.spawn(move |_| async move {
        while let Some(height) = heights.next().await {
            // A block can be final through its descendants; then it has no certificate of its own.
            let Some(finalization) = marshal.get_finalization(Height::new(height)).await else { continue };
            if let Err(e) = chain.record_certificate(height, &portable(&finalization)) {
                error!(height, "cannot store a certificate: {e}");
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
