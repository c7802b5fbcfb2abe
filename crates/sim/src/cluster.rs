use crate::Wallet;
use alloy_primitives::{Address, B256, U256};
use commonware_codec::DecodeExt as _;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    Manager as _,
    simulated::{self, Network, Oracle},
};
use commonware_runtime::{Clock as _, Handle, Quota, Runner as _, Supervisor as _, deterministic};
use commonware_utils::{NZU32, NZUsize, ordered::Set, probability};
use consensus::{Chain, Timing, ValidatorSecret, engine};
use ledger::{Genesis, GenesisAccount, Store};
use rand::{SeedableRng as _, rngs::StdRng};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use types::{NetworkConfig, SystemContracts};

const CHAIN_ID: u64 = 10_744;
const BLOCK_TIME_MS: u64 = 250;
const WALLETS: u8 = 4;

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

/// Validators on a simulated network.
pub struct Cluster {
    context: deterministic::Context,
    oracle: Oracle<PublicKey, deterministic::Context>,
    keys: Vec<PublicKey>,
    chains: Vec<Arc<Chain>>,
    handles: Vec<Vec<Handle<()>>>,
    link: Link,
    /// Funded accounts.
    pub wallets: Vec<Wallet>,
}

/// Runs `scenario` on `n` fresh validators with the given seed.
///
/// # Panics
/// When the cluster cannot be set up: that is a failed test.
pub fn simulate<T, F>(
    seed: u64,
    n: usize,
    link: Link,
    scenario: impl FnOnce(Cluster) -> F + Send + 'static,
) -> Outcome<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let config =
        deterministic::Config::default().with_seed(seed).with_timeout(Some(Duration::from_secs(600)));
    deterministic::Runner::new(config).start(|context| async move {
        let cluster = Box::pin(Cluster::start(context.child("cluster"), n, link)).await;
        let value = scenario(cluster).await;
        Outcome { auditor: context.auditor().state(), value }
    })
}

impl Cluster {
    async fn start(context: deterministic::Context, n: usize, link: Link) -> Self {
        let mut secrets: Vec<_> =
            (0..n as u64).map(|i| ValidatorSecret::from_rng(StdRng::seed_from_u64(i))).collect();
        secrets.sort_by_key(|s| s.public(CHAIN_ID).peer);
        let zero = Address::ZERO;
        let network = NetworkConfig {
            version: 1,
            chain_id: CHAIN_ID,
            block_time_ms: BLOCK_TIME_MS,
            contracts: SystemContracts {
                model_registry: zero,
                node_registry: zero,
                receipt_log: zero,
                wrapped_native: zero,
            },
            validators: secrets.iter().map(|s| s.public(CHAIN_ID)).collect(),
        };
        let wallets: Vec<_> = (0..WALLETS).map(|i| Wallet::new(i, CHAIN_ID)).collect();
        let rich = GenesisAccount { balance: U256::from(10).pow(U256::from(24)), ..Default::default() };
        let alloc: BTreeMap<_, _> = wallets.iter().map(|w| (w.address(), rich.clone())).collect();
        let genesis = Genesis {
            chain_id: CHAIN_ID,
            timestamp: 0,
            gas_limit: 30_000_000,
            base_fee: 1_000_000_000,
            alloc,
            deployments: vec![],
        };
        let keys: Vec<PublicKey> = network
            .validators
            .iter()
            .map(|v| PublicKey::decode(bytes::Bytes::from(v.peer.to_vec())).expect("a valid key"))
            .collect();
        let config = simulated::Config {
            max_size: engine::MESSAGE_BYTES_MAX,
            max_peers_per_set: NZUsize!(n),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        };
        let (net, oracle) = Network::new(context.child("network"), config);
        net.start();
        oracle.manager().track(0, Set::from_iter_dedup(keys.iter().cloned()));
        let mut cluster = Self { context, oracle, keys, chains: vec![], handles: vec![], link, wallets };
        for (i, secret) in secrets.iter().enumerate() {
            let store = Store::in_memory().expect("a store in memory");
            let fees = Address::repeat_byte(0xf0 + i as u8);
            let chain = Chain::open(&genesis, network.clone(), store, fees).expect("a valid genesis");
            cluster.chains.push(Arc::new(chain));
            let handles = Box::pin(cluster.start_validator(i, secret)).await;
            cluster.handles.push(handles);
        }
        let everybody: Vec<_> = (0..n).collect();
        cluster.connect(&everybody, &everybody).await;
        cluster
    }

    async fn start_validator(&self, i: usize, secret: &ValidatorSecret) -> Vec<Handle<()>> {
        let me = self.keys[i].clone();
        let control = self.oracle.control(me.clone());
        let quota = Quota::per_second(NZU32!(2048));
        let mut channels = Vec::new();
        for channel in 0..engine::CHANNELS as u64 {
            channels.push(control.register(channel, quota).await.expect("a free channel"));
        }
        let channels: [_; engine::CHANNELS] =
            channels.try_into().unwrap_or_else(|_| unreachable!("as many as asked"));
        let scheme = engine::scheme(&self.chains[i], secret).expect("a validator of this network");
        let timing = Timing::for_block_time(BLOCK_TIME_MS);
        consensus::start(
            self.context.child("validator").with_attribute("index", i),
            self.chains[i].clone(),
            scheme,
            me,
            control,
            self.oracle.manager(),
            timing,
            channels,
        )
        .await
        .expect("consensus starts")
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
