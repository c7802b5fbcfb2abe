use crate::{
    Wallet,
    genesis::{self, BLOCK_TIME_MS},
};
use alloy_primitives::{Address, B256};
use commonware_codec::DecodeExt as _;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    Manager as _,
    simulated::{self, Network, Oracle},
};
use commonware_runtime::{Clock as _, Handle, Quota, Runner as _, Supervisor as _, deterministic};
use commonware_utils::{NZU32, NZUsize, ordered::Set, probability};
use consensus::{Chain, ChainOptions, Timing, ValidatorSecret, engine};
use ledger::{Genesis, Store};
use rand::{SeedableRng as _, rngs::StdRng};
use std::{sync::Arc, time::Duration};
use types::NetworkConfig;

/// Quality of a network link.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Mean one-way delay in milliseconds.
    pub latency_ms: u64,
    /// Standard deviation of the delay in milliseconds.
    pub jitter_ms: u64,
    /// Messages lost, in percent; 0 or 2.
    pub loss_percent: u8,
}

impl Link {
    fn simulated(self) -> simulated::Link {
        let success_rate = if self.loss_percent == 0 { probability!(1.0) } else { probability!(0.98) };
        simulated::Link {
            latency: Duration::from_millis(self.latency_ms),
            jitter: Duration::from_millis(self.jitter_ms),
            success_rate,
        }
    }
}

/// What a run of the cluster ended in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome<T> {
    /// Hash over everything that happened: equal for equal seeds.
    pub auditor: String,
    /// What the scenario returned.
    pub value: T,
}

/// Validators on a simulated network. Their disks outlive them: [`crash`](Self::crash) and [`restart`](Self::restart).
pub struct Cluster {
    context: deterministic::Context,
    oracle: Oracle<PublicKey, deterministic::Context>,
    genesis: Genesis,
    network: NetworkConfig,
    secrets: Vec<ValidatorSecret>,
    keys: Vec<PublicKey>,
    stores: Vec<Arc<Store>>,
    chains: Vec<Arc<Chain>>,
    handles: Vec<Vec<Handle<()>>>,
    starts: usize,
    link: Link,
    /// Funded accounts.
    pub wallets: Vec<Wallet>,
}

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Validators of epoch 0.
    pub validators: usize,
    /// Nodes that run like validators but are not in the first set.
    pub others: usize,
    /// Blocks in an epoch.
    pub epoch_blocks: u64,
    /// All links, to begin with.
    pub link: Link,
}

/// Runs `scenario` on fresh validators with the given seed.
///
/// # Panics
/// When the cluster cannot be set up: that is a failed test.
pub fn simulate<T, F>(
    seed: u64,
    setup: Setup,
    scenario: impl FnOnce(Cluster) -> F + Send + 'static,
) -> Outcome<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let config =
        deterministic::Config::default().with_seed(seed).with_timeout(Some(Duration::from_secs(3600)));
    deterministic::Runner::new(config).start(|context| async move {
        let cluster = Box::pin(Cluster::start(context.child("cluster"), setup)).await;
        let value = scenario(cluster).await;
        Outcome { auditor: context.auditor().state(), value }
    })
}

impl Cluster {
    async fn start(context: deterministic::Context, setup: Setup) -> Self {
        let n = setup.validators + setup.others;
        let secrets: Vec<_> =
            (0..n as u64).map(|i| ValidatorSecret::from_rng(StdRng::seed_from_u64(i))).collect();
        let (genesis, network, wallets) = genesis::genesis(&secrets[..setup.validators], setup.epoch_blocks);
        let key = |s: &ValidatorSecret| PublicKey::decode(bytes::Bytes::from(s.peer().to_vec()));
        let keys: Vec<PublicKey> = secrets.iter().map(|s| key(s).expect("a valid key")).collect();
        let config = simulated::Config {
            max_size: engine::MESSAGE_BYTES_MAX,
            max_peers_per_set: NZUsize!(n),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(4),
        };
        let (net, oracle) = Network::new(context.child("network"), config);
        net.start();
        oracle.manager().track(0, Set::from_iter_dedup(keys.iter().cloned()));
        let mut cluster = Self {
            context,
            oracle,
            genesis,
            network,
            secrets,
            keys,
            stores: vec![],
            chains: vec![],
            handles: vec![],
            starts: 0,
            link: setup.link,
            wallets,
        };
        for i in 0..n {
            let store = Arc::new(Store::in_memory().expect("a store in memory"));
            cluster.stores.push(store.clone());
            cluster.chains.push(cluster.open(i));
            let handles = Box::pin(cluster.start_validator(i)).await;
            cluster.handles.push(handles);
        }
        let everybody: Vec<_> = (0..n).collect();
        cluster.connect(&everybody, &everybody).await;
        cluster
    }

    fn open(&self, i: usize) -> Arc<Chain> {
        let fee_recipient = Address::repeat_byte(0xf0 + i as u8);
        let options = ChainOptions { fee_recipient, background: false };
        let store = self.stores[i].clone();
        Arc::new(Chain::open(&self.genesis, self.network.clone(), store, options).expect("a valid genesis"))
    }

    async fn start_validator(&mut self, i: usize) -> Vec<Handle<()>> {
        self.starts += 1;
        let control = self.oracle.control(self.keys[i].clone());
        let quota = Quota::per_second(NZU32!(2048));
        let mut channels = Vec::new();
        for channel in 0..engine::CHANNELS as u64 {
            channels.push(control.register(channel, quota).await.expect("a free channel"));
        }
        let channels: [_; engine::CHANNELS] =
            channels.try_into().unwrap_or_else(|_| unreachable!("as many as asked"));
        let timing = Timing::for_block_time(BLOCK_TIME_MS);
        consensus::start(
            self.context.child("validator").with_attribute("index", i).with_attribute("start", self.starts),
            self.chains[i].clone(),
            &self.secrets[i],
            control,
            self.oracle.manager(),
            timing,
            channels,
        )
        .await
        .expect("consensus starts")
    }

    /// Starts validator `i` again after a [`crash`](Self::crash), with what is on its disks.
    pub async fn restart(&mut self, i: usize) {
        self.chains[i] = self.open(i);
        self.handles[i] = Box::pin(self.start_validator(i)).await;
    }

    /// Keys of node `i`.
    pub fn secret(&self, i: usize) -> &ValidatorSecret {
        &self.secrets[i]
    }

    /// The account that owns the stake of node `i`.
    pub fn operator(&self, i: usize) -> Wallet {
        genesis::operator(i)
    }

    /// The network's configuration.
    pub fn network(&self) -> &NetworkConfig {
        &self.network
    }

    /// Lets virtual time pass.
    pub async fn sleep(&self, seconds: u64) {
        self.context.sleep(Duration::from_secs(seconds)).await;
    }

    /// Links every validator of `a` with every other one of `b`, both ways.
    ///
    /// # Panics
    /// When the simulator refuses: that is a failed test.
    pub async fn connect(&self, a: &[usize], b: &[usize]) {
        for (from, to) in pairs(a, b) {
            let (from, to) = (self.keys[from].clone(), self.keys[to].clone());
            self.oracle.add_link(from, to, self.link.simulated()).await.expect("a new link");
        }
    }

    /// Cuts every link between `a` and `b`, both ways.
    ///
    /// # Panics
    /// When the simulator refuses: that is a failed test.
    pub async fn cut(&self, a: &[usize], b: &[usize]) {
        for (from, to) in pairs(a, b) {
            let (from, to) = (self.keys[from].clone(), self.keys[to].clone());
            self.oracle.remove_link(from, to).await.expect("an existing link");
        }
    }

    /// Kills validator `i` without warning.
    pub fn crash(&mut self, i: usize) {
        for handle in self.handles[i].drain(..) {
            handle.abort();
        }
    }

    /// The chain as validator `i` knows it.
    pub fn chain(&self, i: usize) -> &Arc<Chain> {
        &self.chains[i]
    }

    /// Final height of every validator.
    pub fn heights(&self) -> Vec<u64> {
        self.chains.iter().map(|c| c.head().number()).collect()
    }

    /// Checks that no two validators have different final blocks at one height.
    ///
    /// # Panics
    /// On a fork.
    pub fn assert_no_fork(&self) {
        let common = self.heights().into_iter().max().unwrap_or_default();
        for height in 0..=common {
            let mut hashes: Vec<B256> = self
                .chains
                .iter()
                .filter_map(|c| c.store().block_hash(height).expect("a readable store"))
                .collect();
            hashes.dedup();
            assert!(hashes.len() <= 1, "fork at height {height}: {hashes:?}");
        }
    }
}

fn pairs(a: &[usize], b: &[usize]) -> Vec<(usize, usize)> {
    let mut out = std::collections::BTreeSet::new();
    for &i in a {
        for &j in b {
            if i != j {
                out.insert((i, j));
                out.insert((j, i));
            }
        }
    }
    out.into_iter().collect()
}
