use crate::{
    Chain, ConsensusError, ValidatorSecret,
    engine::{self, CHANNELS, MESSAGE_BYTES_MAX, Timing},
    keys::peer_key,
};
use alloy_primitives::B256;
use commonware_cryptography::{ChaCha20Poly1305, ed25519::PublicKey};
use commonware_p2p::authenticated::discovery;
use commonware_runtime::{Quota, Runner as _, Supervisor as _, tokio};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::NZUsize;
use futures::channel::oneshot;
use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

/// Messages a second that a peer may send on each channel, in the order of [`CHANNELS`]. Mailboxes have room for as many from every peer, so
/// this bounds memory too.
const MESSAGES_PER_SECOND: [u32; CHANNELS] = [256, 256, 64, 32, 128, 256];

/// Longest silence on a connection before it is given up.
const LINE_SILENT_MAX: Duration = Duration::from_secs(6);

/// How often peers tell each other whom they know; it keeps connections alive.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(1);

/// Peer sets whose members stay connected: this epoch's and the last one's.
const PEER_SETS: usize = 2;

/// How one validator is run.
#[derive(Debug)]
pub struct ValidatorConfig {
    /// Its keys.
    pub secret: ValidatorSecret,
    /// Where it listens for its peers.
    pub listen: SocketAddr,
    /// The address at which peers reach it; they tell each other.
    pub announce: SocketAddr,
    /// Peer keys and addresses of some validators, to begin with.
    pub peers: Vec<(B256, SocketAddr)>,
    /// Most peers of one epoch: its validators, and candidates that follow the chain.
    pub peers_max: usize,
    /// Folder for the consensus journal.
    pub data_dir: PathBuf,
}

/// A running validator: a thread with its own runtime.
#[derive(Debug)]
pub struct Validator {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<(), ConsensusError>>>,
}

impl Validator {
    /// Starts a validator for `chain`.
    ///
    /// # Errors
    /// [`ConsensusError`] when its keys or peers are unusable. What fails later is told by [`Chain::failure`] and [`stop`](Self::stop).
    pub fn start(config: ValidatorConfig, chain: Arc<Chain>) -> Result<Self, ConsensusError> {
        let head = chain.head().number();
        if head > 0 && !config.data_dir.exists() {
            // The record of this validator's votes is gone, and voting again could contradict them.
            let epoch = chain.network().epoch_of(head + 1) + 1;
            tracing::warn!(
                epoch,
                "the consensus folder is missing: this validator does not vote before this epoch"
            );
            chain.store().put_votes_from(epoch)?;
        }
        let peers = config
            .peers
            .iter()
            .map(|(key, address)| Ok((peer_key(key)?, *address)))
            .collect::<Result<Vec<_>, ConsensusError>>()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("validator".into())
            .spawn(move || run(config, chain, peers, stopped))
            .map_err(|e| ConsensusError::Stopped(e.to_string()))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// True while the validator's thread lives.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Stops the validator and waits for it.
    ///
    /// # Errors
    /// [`ConsensusError::Stopped`] when it had failed.
    pub fn stop(mut self) -> Result<(), ConsensusError> {
        drop(self.stop.take());
        match self.thread.take().map(thread::JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ConsensusError::Stopped("it panicked; see the log".into())),
            None => Ok(()),
        }
    }
}

fn run(
    config: ValidatorConfig,
    chain: Arc<Chain>,
    peers: Vec<(PublicKey, SocketAddr)>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), ConsensusError> {
    let runtime = tokio::Config::new()
        .with_storage_directory(&config.data_dir)
        .with_worker_threads(2)
        // Gossip flows all the time, so silence means a dead line. Dialling anew begins with an empty queue; after a cut that was kept, every
        // vote would wait behind old messages.
        .with_read_write_timeout(LINE_SILENT_MAX);
    tokio::Runner::new(runtime).start(|context| async move {
        let namespace = [b"og/peers/1/".as_slice(), chain.genesis().hash().as_slice()].concat();
        let handshake = Sake {
            signer: config.secret.peer.clone(),
            synchrony_bound: Duration::from_secs(5),
            max_handshake_age: Duration::from_secs(10),
            version: sake::Version::V1,
        };
        let mut network_config = discovery::Config::local(
            Cups::<_, ChaCha20Poly1305>::new(handshake, cups::Version::V1),
            &namespace,
            config.listen,
            config.announce,
            peers.into_iter().map(|(key, address)| (key, address.into())).collect(),
            NonZeroUsize::new(config.peers_max).unwrap_or(NonZeroUsize::MIN),
            MESSAGE_BYTES_MAX,
            NZUsize!(1024),
        );
        network_config.tracked_peer_sets = NZUsize!(PEER_SETS);
        network_config.dial_frequency = Duration::from_millis(100);
        network_config.gossip_bit_vec_frequency = GOSSIP_INTERVAL;
        let (mut network, oracle) = discovery::Network::new(context.child("network"), network_config);
        let quota =
            |c: usize| Quota::per_second(NonZeroU32::new(MESSAGES_PER_SECOND[c]).unwrap_or(NonZeroU32::MIN));
        let channels: [_; CHANNELS] = std::array::from_fn(|c| network.register(c as u64, quota(c)));
        let mut handles = vec![network.start()];
        let timing = Timing::for_block_time(chain.network().block_time_ms);
        let blocker = oracle.clone();
        handles.extend(
            engine::start(
                context.child("engine"),
                chain.clone(),
                &config.secret,
                blocker,
                oracle,
                timing,
                channels,
            )
            .await?,
        );
        let ended = futures::future::select_all(handles);
        match futures::future::select(stopped, ended).await {
            futures::future::Either::Left(_) => chain.close(),
            futures::future::Either::Right(_) => {
                let why = chain.failure().unwrap_or_else(|| "an actor ended; see the log".into());
                chain.fail(why.clone());
                Err(ConsensusError::Stopped(why))
            }
        }
    })
}
