//! One consensus engine an epoch: started when the validators of the epoch are known, stopped when the next epoch begins.

use crate::{
    Chain, ConsensusError,
    engine::{Scheme, Timing},
    epochs::{self, Epochs},
    turns::Drawn,
};
use commonware_consensus::{
    CertifiableAutomaton, Relay, Reporter,
    marshal::{core::Mailbox, standard::Standard},
    simplex::{
        self, Floor, Plan,
        types::{Activity, Context, Finalization},
    },
    types::{Epoch, Height, ViewDelta},
};
use commonware_cryptography::{certificate::Scheme as _, ed25519::PublicKey, keccak256::Digest};
use commonware_p2p::{
    Blocker, Channel, Manager, Message, Receiver, Sender, TrackedPeers,
    utils::mux::{Builder as _, MuxHandle, Muxer},
};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Network, Spawner, Storage, buffer::paged::CacheRef};
use commonware_utils::{NZDuration, NZUsize, channel::mpsc, ordered::Set, vec::NonEmptyVec};
use futures::{FutureExt as _, StreamExt as _, channel::mpsc as futures_mpsc};
use rand::{CryptoRng, Rng};
use std::{sync::Arc, time::Duration};
use tracing::{debug, error, info};

/// Bytes that journals buffer.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// Epochs before the last one whose journals are looked for and removed.
const OLD_JOURNALS: u64 = 4;
/// Messages that an engine keeps waiting.
pub(crate) const MAILBOX: usize = 1024;

/// What one engine needs besides the network.
#[derive(Clone)]
pub(crate) struct Parts<B, M, A, R> {
    pub(crate) chain: Arc<Chain>,
    pub(crate) epochs: Epochs,
    pub(crate) me: PublicKey,
    pub(crate) id: String,
    pub(crate) blocker: B,
    pub(crate) manager: M,
    pub(crate) application: A,
    pub(crate) reporter: R,
    pub(crate) marshal: Mailbox<Scheme, Standard<crate::Block>>,
    pub(crate) page_cache: CacheRef,
    pub(crate) timing: Timing,
    /// The finalisation of the block at which a state sync began.
    pub(crate) anchor: Option<Finalization<Scheme, Digest>>,
}

type Backup = mpsc::Receiver<(Channel, Message<PublicKey>)>;

/// The three channels of the engines, shared out by epoch.
pub(crate) struct Channels<S: Sender> {
    votes: MuxHandle<S>,
    votes_of_others: Backup,
    certificates: MuxHandle<S>,
    certificates_of_others: Backup,
    resolver: MuxHandle<S>,
}

impl<S: Sender<PublicKey = PublicKey>> Channels<S> {
    pub(crate) fn new<E, R>(context: &E, votes: (S, R), certificates: (S, R), resolver: (S, R)) -> Self
    where
        E: Spawner + Metrics,
        R: Receiver<PublicKey = PublicKey>,
    {
        let (mux, votes, votes_of_others) =
            Muxer::builder(context.child("votes"), votes.0, votes.1).with_backup().build();
        mux.start();
        let (mux, certificates, certificates_of_others) =
            Muxer::builder(context.child("certificates"), certificates.0, certificates.1)
                .with_backup()
                .build();
        mux.start();
        let (mux, resolver) = Muxer::new(context.child("resolver"), resolver.0, resolver.1);
        mux.start();
        Self { votes, votes_of_others, certificates, certificates_of_others, resolver }
    }
}

/// Runs engines until the runtime stops; `committed` gives the numbers of final blocks.
pub(crate) fn start<E, S, B, M, A, R>(
    context: E,
    parts: Parts<B, M, A, R>,
    channels: Channels<S>,
    committed: futures_mpsc::UnboundedReceiver<u64>,
) -> Handle<()>
where
    E: Clock + Rng + CryptoRng + Spawner + Storage + Metrics + Network,
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
    M: Manager<PublicKey = PublicKey>,
    A: CertifiableAutomaton<Context = Context<Digest, PublicKey>, Digest = Digest>
        + Relay<Digest = Digest, PublicKey = PublicKey, Plan = Plan<PublicKey>>,
    R: Reporter<Activity = Activity<Scheme, Digest>>,
{
    context.spawn(move |context| run(context, parts, channels, committed))
}

async fn run<E, S, B, M, A, R>(
    context: E,
    mut parts: Parts<B, M, A, R>,
    mut channels: Channels<S>,
    mut committed: futures_mpsc::UnboundedReceiver<u64>,
) where
    E: Clock + Rng + CryptoRng + Spawner + Storage + Metrics + Network,
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
    M: Manager<PublicKey = PublicKey>,
    A: CertifiableAutomaton<Context = Context<Digest, PublicKey>, Digest = Digest>
        + Relay<Digest = Digest, PublicKey = PublicKey, Plan = Plan<PublicKey>>,
    R: Reporter<Activity = Activity<Scheme, Digest>>,
{
    let mut epoch = parts.epochs.current();
    let mut engine = match parts.enter(&context, epoch, &mut channels).await {
        Ok(engine) => engine,
        Err(e) => return parts.chain.fail(e.to_string()),
    };
    loop {
        futures::select! {
            number = committed.next() => {
                if number.is_none() {
                    return;
                }
                // The newest one: there is nothing to do in epochs that are over.
                let next = parts.epochs.current();
                if next <= epoch {
                    continue;
                }
                epoch = next;
                engine.abort();
                engine = match parts.enter(&context, epoch, &mut channels).await {
                    Ok(engine) => engine,
                    Err(e) => return parts.chain.fail(e.to_string()),
                };
            }
            // Whoever talks about a later epoch has the last block of this one: without it, this validator could not follow.
            message = channels.votes_of_others.recv().fuse() => {
                let Some((theirs, (peer, _))) = message else { return };
                parts.catch_up(epoch, theirs, peer);
            }
            message = channels.certificates_of_others.recv().fuse() => {
                let Some((theirs, (peer, _))) = message else { return };
                parts.catch_up(epoch, theirs, peer);
            }
            _ = (&mut engine).fuse() => {
                error!(epoch, "the consensus engine stopped");
                return parts.chain.fail("the consensus engine stopped; see the log".into());
            }
        }
    }
}

impl<B, M, A, R> Parts<B, M, A, R>
where
    B: Blocker<PublicKey = PublicKey>,
    M: Manager<PublicKey = PublicKey>,
    A: CertifiableAutomaton<Context = Context<Digest, PublicKey>, Digest = Digest>
        + Relay<Digest = Digest, PublicKey = PublicKey, Plan = Plan<PublicKey>>,
    R: Reporter<Activity = Activity<Scheme, Digest>>,
{
    fn catch_up(&self, ours: u64, theirs: u64, peer: PublicKey) {
        if theirs > ours {
            let last = (ours + 1) * self.chain.network().epoch_blocks - 1;
            self.marshal.hint_finalized(Height::new(last), NonEmptyVec::new(peer));
        }
    }

    /// Tells the network who the peers of `epoch` are, and starts its engine.
    async fn enter<E, S>(
        &mut self,
        context: &E,
        epoch: u64,
        channels: &mut Channels<S>,
    ) -> Result<Handle<()>, ConsensusError>
    where
        E: Clock + Rng + CryptoRng + Spawner + Storage + Metrics + Network,
        S: Sender<PublicKey = PublicKey>,
    {
        let unknown = || ConsensusError::Stopped(format!("the validators of epoch {epoch} are not known"));
        let set = self.epochs.set(epoch).ok_or_else(unknown)?;
        let primary = epochs::peers(&set);
        // Candidates and this node itself may follow the chain.
        let candidates = self.chain.candidates().into_iter().filter_map(|p| crate::keys::peer_key(&p).ok());
        let secondary = Set::from_iter_dedup(candidates.chain([self.me.clone()]));
        self.manager.track(epoch, TrackedPeers::new(primary, secondary));
        let scheme = self.epochs.engine_scheme(epoch).ok_or_else(unknown)?;
        if scheme.me().is_none() {
            info!(epoch, "this node follows without voting in this epoch");
        }
        let seed = self.epochs.turn_seed(epoch)?.ok_or_else(unknown)?;
        let first = epoch * self.chain.network().epoch_blocks;
        let floor = match self.chain.store().block_hash(first.saturating_sub(1))? {
            Some(hash) => Floor::Genesis(Digest::from(hash.0)),
            // A state sync in the middle of the epoch.
            None => Floor::Finalized(self.anchor.clone().ok_or_else(unknown)?),
        };
        // Who only follows must not find votes of its own.
        let role = if scheme.me().is_some() { "consensus" } else { "following" };
        let partition = |epoch: u64| format!("{}-{role}-{epoch}", self.id);
        // Votes of epochs that are over can be contradicted by nobody any more.
        for old in epoch.saturating_sub(OLD_JOURNALS)..epoch.saturating_sub(1) {
            let _ = context.remove(&partition(old), None).await;
        }
        let timing = self.timing;
        let engine = simplex::Engine::new(
            context.child("engine").with_attribute("epoch", epoch),
            simplex::Config {
                epoch: Epoch::new(epoch),
                scheme,
                elector: Drawn(seed),
                blocker: self.blocker.clone(),
                automaton: self.application.clone(),
                relay: self.application.clone(),
                reporter: self.reporter.clone(),
                // Late votes are looked at too: they may contradict earlier ones.
                track_historical_votes: true,
                strategy: Sequential,
                partition: partition(epoch),
                mailbox_size: NZUsize!(MAILBOX),
                floor,
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
                page_cache: self.page_cache.clone(),
            },
        );
        let closed = |_| ConsensusError::Stopped("the peer-to-peer network has stopped".into());
        let votes = channels.votes.register(epoch).await.map_err(closed)?;
        let certificates = channels.certificates.register(epoch).await.map_err(closed)?;
        let resolver = channels.resolver.register(epoch).await.map_err(closed)?;
        debug!(epoch, validators = set.members.len(), "an epoch begins");
        Ok(engine.start(votes, certificates, resolver))
    }
}
