use crate::{
    Attack, Wallet,
    adversary::Adversary,
    disk::Disk,
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
use ledger::{Anchor, Cursor, Genesis, Import, Part, Retention, Store};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{sync::Arc, time::Duration};
use types::NetworkConfig;

/// Quality of a network link.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Mean one-way delay in milliseconds.
    pub latency_ms: u64,
    /// Standard deviation of the delay in milliseconds.
    pub jitter_ms: u64,
    /// Messages lost, in percent: 0, 2 or 10.
    pub loss_percent: u8,
}

impl Link {
    fn simulated(self) -> simulated::Link {
        let success_rate = match self.loss_percent {
            0 => probability!(1.0),
            10 => probability!(0.9),
            _ => probability!(0.98),
        };
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

type Channel = (simulated::Sender<PublicKey, deterministic::Context>, simulated::Receiver<PublicKey>);

/// Validators on a simulated network. Their disks outlive them: [`crash`](Self::crash) and [`restart`](Self::restart).
pub struct Cluster {
    context: deterministic::Context,
    oracle: Oracle<PublicKey, deterministic::Context>,
    genesis: Genesis,
    network: NetworkConfig,
    secrets: Vec<ValidatorSecret>,
    keys: Vec<PublicKey>,
    /// Blocks and states of each.
    disks: Vec<(Disk, Disk)>,
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
    /// What the last validator does instead of its duty.
    pub byzantine: Option<Attack>,
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
            disks: vec![],
            chains: vec![],
            handles: vec![],
            starts: 0,
            link: setup.link,
            wallets,
        };
        for i in 0..n {
            cluster.disks.push((Disk::new(), Disk::new()));
            cluster.chains.push(cluster.open(i));
            let handles = match setup.byzantine.filter(|_| i + 1 == setup.validators) {
                Some(attack) => vec![Box::pin(cluster.start_adversary(i, attack)).await],
                None => Box::pin(cluster.start_validator(i)).await,
            };
            cluster.handles.push(handles);
        }
        let everybody: Vec<_> = (0..n).collect();
        cluster.connect(&everybody, &everybody).await;
        cluster
    }

    fn open(&self, i: usize) -> Arc<Chain> {
        let fee_recipient = Address::repeat_byte(0xf0 + i as u8);
        let options = ChainOptions { fee_recipient, background: false };
        let (blocks, state) = self.disks[i].clone();
        let store = Store::on(blocks, state, Retention::Full).expect("a store that can be opened");
        let store = Arc::new(store.with_snapshots_every(64));
        Arc::new(Chain::open(&self.genesis, self.network.clone(), store, options).expect("a valid genesis"))
    }

    async fn channels(&self, i: usize) -> [Channel; engine::CHANNELS] {
        let control = self.oracle.control(self.keys[i].clone());
        let quota = Quota::per_second(NZU32!(2048));
        let mut channels = Vec::new();
        for channel in 0..engine::CHANNELS as u64 {
            channels.push(control.register(channel, quota).await.expect("a free channel"));
        }
        channels.try_into().unwrap_or_else(|_| unreachable!("as many as asked"))
    }

    async fn start_adversary(&mut self, i: usize, attack: Attack) -> Handle<()> {
        let adversary = Adversary {
            attack,
            secret: self.secrets[i].clone(),
            me: self.keys[i].clone(),
            peers: self.keys.iter().filter(|k| **k != self.keys[i]).cloned().collect(),
            chain: self.chains[0].clone(),
        };
        adversary.start(self.context.child("adversary"), self.channels(i).await)
    }

    async fn start_validator(&mut self, i: usize) -> Vec<Handle<()>> {
        self.starts += 1;
        let channels = self.channels(i).await;
        let control = self.oracle.control(self.keys[i].clone());
        let timing = Timing::for_block_time(BLOCK_TIME_MS);
        Box::pin(consensus::start(
            self.context.child("validator").with_attribute("index", i).with_attribute("start", self.starts),
            self.chains[i].clone(),
            &self.secrets[i],
            control,
            self.oracle.manager(),
            timing,
            channels,
        ))
        .await
        .expect("consensus starts")
    }

    /// Starts validator `i` again after a [`crash`](Self::crash), with what is left on its disks: of what was not synced, any part may be gone.
    pub async fn restart(&mut self, i: usize) {
        let mut rng = StdRng::seed_from_u64(self.context.random());
        let (blocks, state) = &self.disks[i];
        let (blocks, state) = (blocks.after_crash(|| rng.random()), state.after_crash(|| rng.random()));
        self.disks[i] = (blocks, state);
        self.chains[i] = self.open(i);
        self.handles[i] = Box::pin(self.start_validator(i)).await;
    }

    /// Gives validator `i`, which must be down, new disks with the newest snapshot of validator `from`, as a state sync does. Gives the number of the
    /// snapshot's block.
    ///
    /// # Panics
    /// When there is no snapshot or it cannot be taken over: that is a failed test.
    pub fn take_snapshot(&mut self, i: usize, from: usize) -> u64 {
        let source = &self.chains[from];
        let store = source.store();
        let number = store.snapshot().expect("readable").expect("a snapshot");
        let executed = source.with_state(number).expect("readable").expect("the snapshot's state");
        let certificate = store.certificate(number).expect("readable").expect("a certificate");
        self.disks[i] = (Disk::new(), Disk::new());
        let (blocks, state) = self.disks[i].clone();
        let target = Store::on(blocks, state, Retention::Full).expect("an empty store");
        let mut import = Import::new(target.with_snapshots_every(64), number);
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let (part, next) = executed.state().part(at).expect("a part");
            import.add(Part::decode(&part.encode()).expect("canonical")).expect("a good part");
            cursor = next;
        }
        let hash = |n| store.block_hash(n).expect("readable").map(|hash| (n, hash));
        let anchor = Anchor {
            genesis: ledger::Block::clone(source.genesis().block()),
            block: ledger::Block::clone(executed.block()),
            turn: executed.turn().clone(),
            receipts: executed.receipts().to_vec(),
            hashes: (number.saturating_sub(256)..number).filter_map(hash).collect(),
            first: self.network.first_set(),
            handovers: source.handovers(certificate.epoch).expect("complete"),
            votes_from: self.network.epoch_of(source.head().number()) + 1,
            certificate,
        };
        import.finish(&anchor).expect("the state has the header's root");
        number
    }

    /// Lets the disks of validator `i` fail after some more operations.
    pub fn break_disks(&self, i: usize, operations: u64) {
        self.disks[i].0.fail_after(operations);
        self.disks[i].1.fail_after(operations);
    }

    /// A random number below `n`; the same in every run with this seed.
    pub fn random(&mut self, n: u64) -> u64 {
        self.context.random_range(0..n)
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

    /// Makes every link lossless, where all are connected.
    ///
    /// # Panics
    /// When the simulator refuses: that is a failed test.
    pub async fn end_losses(&mut self) {
        let everybody: Vec<_> = (0..self.keys.len()).collect();
        self.cut(&everybody, &everybody).await;
        self.link.loss_percent = 0;
        self.connect(&everybody, &everybody).await;
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

    /// Whether validator `i` had to stop.
    pub fn failed(&self, i: usize) -> bool {
        self.chains[i].failure().is_some()
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
