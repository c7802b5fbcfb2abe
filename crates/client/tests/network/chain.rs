//! A ledger in memory with real proofs: tries, headers, certificates. It lies on demand.

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U64, U256, address, keccak256};
use alloy_sol_types::SolValue as _;
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles, TrieAccount, proof::ProofRetainer};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};
use types::{FinalityCertificate, NetworkConfig, SystemContracts, ValidatorKey};

pub(crate) const CHAIN_ID: u64 = 7;
const HISTORY: Address = address!("0x0000F90827F1C53a10cb7A02335B175320002935");

/// How a JSON-RPC server lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Adds a node to the list of active ones.
    InventsNode,
    /// Lowers a price.
    ChangesPrice,
    /// Sends clients elsewhere.
    ChangesEndpoint,
    /// Says that there is one node less.
    HidesNode,
    /// Signs blocks itself.
    ForgesBlocks,
    /// Shows a state of an hour ago for ever.
    OldState,
    /// Serves another network.
    OtherNetwork,
    /// Gives another model for an id.
    OtherManifest,
    /// Answers nothing but errors.
    Down,
    /// Takes calls and never answers.
    Hangs,
}

fn vote_key(seed: u8) -> blst::min_sig::SecretKey {
    blst::min_sig::SecretKey::key_gen(&[seed; 32], &[]).unwrap()
}

/// One validator with a real proof of possession.
pub(crate) fn config(seed: u8) -> NetworkConfig {
    let key = vote_key(seed);
    let vote = key.sk_to_pk().compress();
    let namespace = NetworkConfig::possession_namespace(CHAIN_ID);
    let message = [&[namespace.len() as u8], namespace.as_slice(), &vote].concat();
    let possession = key.sign(&message, b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_", &[]).compress();
    NetworkConfig {
        version: types::NETWORK_VERSION,
        chain_id: CHAIN_ID,
        block_time_ms: 100,
        epoch_blocks: 1000,
        window_seconds: 90,
        game_seconds: 600,
        unbonding_seconds: 7 * 24 * 3600,
        contracts: SystemContracts {
            model_registry: Address::repeat_byte(1),
            node_registry: Address::repeat_byte(2),
            receipt_log: Address::repeat_byte(3),
            wrapped_native: Address::repeat_byte(4),
            staking: Address::repeat_byte(5),
            ..SystemContracts::none()
        },
        validators: vec![ValidatorKey {
            peer: B256::repeat_byte(9),
            vote: FixedBytes::from_slice(&vote),
            possession: FixedBytes::from_slice(&possession),
        }],
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A trie by keccak-256 of its keys; gives the root and the proof of each of some keys.
fn trie(leaves: &BTreeMap<B256, Vec<u8>>, keys: &[B256]) -> (B256, Vec<Vec<Bytes>>) {
    if leaves.is_empty() {
        return (EMPTY_ROOT_HASH, vec![vec![]; keys.len()]);
    }
    let targets: Vec<_> = keys.iter().map(Nibbles::unpack).collect();
    let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::new(targets.clone()));
    for (key, value) in leaves {
        builder.add_leaf(Nibbles::unpack(key), value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes();
    let path = |t: &Nibbles| nodes.matching_nodes_sorted(t).into_iter().map(|(_, node)| node).collect();
    (root, targets.iter().map(path).collect())
}

/// Slots of contracts.
#[derive(Clone, Debug, Default)]
pub(crate) struct State(BTreeMap<Address, BTreeMap<B256, U256>>);

/// An offer as the registry has it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) node: Address,
    pub(crate) endpoint: String,
    pub(crate) stake: u128,
    pub(crate) offers: Vec<(B256, u128, u128)>,
}

fn mapping(key: B256, base: B256) -> B256 {
    keccak256((key, base).abi_encode())
}

fn element(base: B256, i: usize) -> B256 {
    (U256::from_be_bytes(keccak256(base).0) + U256::from(i)).into()
}

fn slot(n: u64) -> B256 {
    U256::from(n).into()
}

impl State {
    fn set(&mut self, contract: Address, slot: B256, value: U256) {
        self.0.entry(contract).or_default().insert(slot, value);
    }

    /// Writes the registry of nodes as the compiled contract lays it out.
    pub(crate) fn register(&mut self, contract: Address, nodes: &[Listed]) {
        self.0.remove(&contract);
        self.set(contract, slot(1), U256::from(nodes.len()));
        for (i, listed) in nodes.iter().enumerate() {
            self.set(contract, element(slot(1), i), listed.node.into_word().into());
            let record = mapping(listed.node.into_word(), slot(0));
            self.set(contract, record, U256::from(listed.stake));
            let text = (U256::from_be_bytes(record.0) + U256::from(1)).into();
            self.write_string(contract, text, &listed.endpoint);
            let models = mapping(listed.node.into_word(), slot(3));
            self.set(contract, models, U256::from(listed.offers.len()));
            for (j, (model, input, output)) in listed.offers.iter().enumerate() {
                self.set(contract, element(models, j), (*model).into());
                let price = mapping(*model, mapping(listed.node.into_word(), slot(5)));
                self.set(contract, price, U256::from(*input) | (U256::from(*output) << 128usize));
            }
        }
    }

    fn write_string(&mut self, contract: Address, at: B256, text: &str) {
        let bytes = text.as_bytes();
        if bytes.len() < 32 {
            let mut word = [0; 32];
            word[..bytes.len()].copy_from_slice(bytes);
            word[31] = 2 * bytes.len() as u8;
            return self.set(contract, at, U256::from_be_bytes(word));
        }
        self.set(contract, at, U256::from(2 * bytes.len() + 1));
        for (i, part) in bytes.chunks(32).enumerate() {
            let mut word = [0; 32];
            word[..part.len()].copy_from_slice(part);
            self.set(contract, element(at, i), U256::from_be_bytes(word));
        }
    }

    fn storage(&self, contract: Address) -> BTreeMap<B256, Vec<u8>> {
        let slots = self.0.get(&contract).into_iter().flatten().filter(|(_, v)| !v.is_zero());
        slots.map(|(s, v)| (keccak256(s), alloy_rlp::encode(v))).collect()
    }

    fn accounts(&self) -> BTreeMap<B256, Vec<u8>> {
        let account = |contract: &Address| {
            let (storage_root, _) = trie(&self.storage(*contract), &[]);
            alloy_rlp::encode(TrieAccount { storage_root, ..Default::default() })
        };
        self.0.keys().map(|c| (keccak256(c), account(c))).collect()
    }

    fn root(&self) -> B256 {
        trie(&self.accounts(), &[]).0
    }

    fn prove(&self, contract: Address, slots: &[B256]) -> Value {
        let keys: Vec<_> = slots.iter().map(keccak256).collect();
        let paths = trie(&self.storage(contract), &keys).1;
        let proofs = slots.iter().zip(paths).map(|(s, proof)| {
            let value = self.0.get(&contract).and_then(|c| c.get(s)).copied().unwrap_or_default();
            json!({"key": s, "value": value, "proof": proof})
        });
        let proofs: Vec<_> = proofs.collect();
        json!({"accountProof": trie(&self.accounts(), &[keccak256(contract)]).1[0], "storageProof": proofs})
    }
}

/// A chain whose every block is final.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) config: NetworkConfig,
    pub(crate) genesis: Bytes,
    seed: u8,
    /// Headers and states by number, from 1 on.
    blocks: Vec<(Header, State)>,
}

impl Chain {
    /// A chain of validator `seed`, without blocks.
    pub(crate) fn new(seed: u8) -> Self {
        let config = config(seed);
        let extra_data = Bytes::copy_from_slice(config.commitment().as_slice());
        let genesis = Bytes::from(alloy_rlp::encode(Header { extra_data, ..Default::default() }));
        Self { config, genesis, seed, blocks: vec![] }
    }

    pub(crate) fn name(&self) -> B256 {
        keccak256(&self.genesis)
    }

    /// Number and hash of the newest block.
    pub(crate) fn head(&self) -> (u64, B256) {
        self.blocks.last().map_or((0, self.name()), |(h, _)| (h.number, h.hash_slow()))
    }

    /// Makes a block with this state, whose time is `age` seconds ago.
    pub(crate) fn block(&mut self, mut state: State, age: u64) {
        let (number, parent_hash) = self.head();
        // As the real chain does: every block hash stays in the history contract.
        for (header, _) in &self.blocks {
            state.set(HISTORY, slot(header.number % 8191), header.hash_slow().into());
        }
        let header = Header {
            parent_hash,
            number: number + 1,
            timestamp: now() - age,
            state_root: state.root(),
            parent_beacon_block_root: Some(self.config.first_set().commitment()),
            base_fee_per_gas: Some(7),
            withdrawals_root: Some(EMPTY_ROOT_HASH),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            requests_hash: Some(B256::ZERO),
            ..Default::default()
        };
        self.blocks.push((header, state));
    }

    fn certificate(&self, header: &Header, seed: u8) -> FinalityCertificate {
        let mut certificate = FinalityCertificate {
            epoch: header.number / self.config.epoch_blocks,
            view: header.number,
            parent_view: header.number - 1,
            block_hash: header.hash_slow(),
            signers: Bytes::from_static(&[1]),
            signature: FixedBytes::ZERO,
        };
        let message = certificate.message(&NetworkConfig::namespace(self.name()));
        let signed = vote_key(seed).sign(&message, b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_", &[]);
        certificate.signature = FixedBytes::from_slice(&signed.compress());
        certificate
    }

    /// What a server says that lies like this.
    pub(crate) fn answer(&self, lie: Lie, method: &str, params: &Value) -> Option<Value> {
        let shown = match lie {
            Lie::OldState => 1,
            _ => self.blocks.len(),
        };
        match method {
            "og_network" => Some(json!({"network": self.config, "genesisHeader": self.genesis})),
            "og_finalized" => {
                let (header, _) = self.blocks[..shown].last()?;
                let seed = if lie == Lie::ForgesBlocks { self.seed ^ 0x55 } else { self.seed };
                let certificate = self.certificate(header, seed);
                Some(json!({"number": header.number, "hash": header.hash_slow(), "certificate": certificate,
                    "header": Bytes::from(alloy_rlp::encode(header))}))
            }
            "eth_getProof" => {
                let number: U64 = serde_json::from_value(params[2].clone()).unwrap();
                let (_, state) = self.blocks.get(number.to::<usize>().checked_sub(1)?)?;
                let contract: Address = serde_json::from_value(params[0].clone()).unwrap();
                let slots: Vec<B256> = serde_json::from_value(params[1].clone()).unwrap();
                let mut proof = state.prove(contract, &slots);
                if contract == self.config.contracts.node_registry {
                    tamper(lie, &slots, &mut proof);
                }
                Some(proof)
            }
            _ => None,
        }
    }
}

/// Changes values and leaves their proofs.
fn tamper(lie: Lie, slots: &[B256], proof: &mut Value) {
    for (i, slot_asked) in slots.iter().enumerate() {
        let value: U256 = serde_json::from_value(proof["storageProof"][i]["value"].clone()).unwrap();
        let is_count = *slot_asked == slot(1);
        let is_price = !value.is_zero() && value >> 128usize != U256::ZERO && value >> 250usize == U256::ZERO;
        let text = value.to_be_bytes::<32>();
        let changed = match lie {
            Lie::InventsNode if is_count => value + U256::from(1),
            Lie::HidesNode if is_count => value - U256::from(1),
            Lie::ChangesPrice if is_price && !is_count => U256::from(1),
            Lie::ChangesEndpoint if text.starts_with(b"http") => {
                let mut other = text;
                other[7..10].copy_from_slice(b"999");
                U256::from_be_bytes(other)
            }
            _ => continue,
        };
        proof["storageProof"][i]["value"] = json!(changed);
    }
}
