//! Execution of a block in four phases: validate, pre, execute, post.

use crate::{
    Block, LedgerError, MAX_BLOCK_BYTES, RecoveredTx, State,
    block::EXTRA_DATA_BYTES,
    state::{AccountChange, Changes},
};
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction as _, TxType,
    proofs,
};
use alloy_eips::{eip1559::BaseFeeParams, eip7685::EMPTY_REQUESTS_HASH};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U256};
use alloy_trie::EMPTY_ROOT_HASH;
use imbl::OrdMap;
use revm::{
    Context, DatabaseCommit as _, DatabaseRef, ExecuteEvm as _, MainBuilder as _, MainContext as _,
    context::{
        BlockEnv, CfgEnv,
        result::{EVMError, InvalidTransaction},
    },
    context_interface::block::BlobExcessGasAndPrice,
    database::{AccountState, CacheDB},
    primitives::hardfork::SpecId,
    state::{AccountInfo, Bytecode},
};
use std::{convert::Infallible, sync::Arc};

/// Ethereum rules in force.
pub(crate) const SPEC: SpecId = SpecId::OSAKA;

/// Ancestors whose hashes the EVM can ask for.
const BLOCKHASH_WINDOW: u64 = 256;

/// Rules that all validators of a chain share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainParams {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Gas limit of every block.
    pub gas_limit: u64,
}

/// What the proposer decides about a block besides its transactions.
#[derive(Clone, Copy, Debug)]
pub struct BlockInput {
    /// Seconds since the Unix epoch; not below the parent's.
    pub timestamp: u64,
    /// The 32 bytes of `extraData`: consensus commits to its own context here.
    pub seal: B256,
    /// Receives the tips.
    pub beneficiary: Address,
}

/// What became of one transaction, besides its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOutcome {
    /// Who signed it.
    pub sender: Address,
    /// Gas used by it alone.
    pub gas_used: u64,
    /// Wei paid per gas.
    pub effective_gas_price: u128,
    /// Address of the contract it created.
    pub created: Option<Address>,
}

/// A block, its receipts and the state after it. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Executed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    block: Arc<Block>,
    hash: B256,
    state: State,
    receipts: Vec<ReceiptEnvelope>,
    outcomes: Vec<TransactionOutcome>,
    changes: Changes,
    /// Hashes of the newest blocks up to and including this one, by number.
    hashes: OrdMap<u64, B256>,
}

impl Executed {
    pub(crate) fn new(
        block: Arc<Block>,
        state: State,
        results: Results,
        changes: Changes,
        mut hashes: OrdMap<u64, B256>,
    ) -> Self {
        let hash = block.hash();
        hashes.insert(block.header.number, hash);
        if let Some(old) = block.header.number.checked_sub(BLOCKHASH_WINDOW) {
            hashes.remove(&old);
        }
        let Results { receipts, outcomes } = results;
        Self(Arc::new(Inner { block, hash, state, receipts, outcomes, changes, hashes }))
    }

    /// The block.
    pub fn block(&self) -> &Arc<Block> {
        &self.0.block
    }

    /// The block's header.
    pub fn header(&self) -> &Header {
        &self.0.block.header
    }

    /// The block's hash.
    pub fn hash(&self) -> B256 {
        self.0.hash
    }

    /// The block's number.
    pub fn number(&self) -> u64 {
        self.header().number
    }

    /// The state after the block.
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// One receipt a transaction.
    pub fn receipts(&self) -> &[ReceiptEnvelope] {
        &self.0.receipts
    }

    /// One outcome a transaction.
    pub fn outcomes(&self) -> &[TransactionOutcome] {
        &self.0.outcomes
    }

    /// Base fee of the next block, in wei (EIP-1559).
    pub fn next_base_fee(&self) -> u64 {
        let h = self.header();
        let base_fee = h.base_fee_per_gas.unwrap_or_default();
        BaseFeeParams::ethereum().next_block_base_fee(h.gas_used, h.gas_limit, base_fee)
    }

    pub(crate) fn changes(&self) -> &Changes {
        &self.0.changes
    }

    pub(crate) fn view(&self) -> StateView {
        StateView { state: self.0.state.clone(), hashes: self.0.hashes.clone() }
    }
}

/// Receipts and outcomes, one a transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) receipts: Vec<ReceiptEnvelope>,
    pub(crate) outcomes: Vec<TransactionOutcome>,
}

/// revm's read access to a [`State`].
#[derive(Clone, Debug, Default)]
pub(crate) struct StateView {
    pub(crate) state: State,
    pub(crate) hashes: OrdMap<u64, B256>,
}

impl DatabaseRef for StateView {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.state.account(&address).map(|a| AccountInfo {
            balance: a.balance,
            nonce: a.nonce,
            code_hash: a.code_hash,
            code: None,
            ..Default::default()
        }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.state.code_by_hash(&hash).map(Bytecode::new_raw).unwrap_or_default())
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.state.storage(address, slot))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(self.hashes.get(&number).copied().unwrap_or_default())
    }
}

/// The rules by which one block follows another.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    params: ChainParams,
}

impl Ledger {
    /// A ledger with the given rules.
    pub fn new(params: ChainParams) -> Self {
        Self { params }
    }

    /// The rules.
    pub fn params(&self) -> &ChainParams {
        &self.params
    }

    /// Builds the block that follows `parent` from as many of `candidates` as are valid and fit, in their order.
    ///
    /// # Errors
    /// [`LedgerError`] only when the block could not be built at all.
    pub fn build(
        &self,
        parent: &Executed,
        input: BlockInput,
        candidates: impl IntoIterator<Item = Arc<RecoveredTx>>,
    ) -> Result<Executed, LedgerError> {
        let mut run = Run::start(self.params, parent, input.timestamp, input.beneficiary);
        let mut transactions = Vec::new();
        // Leaves room for the header and the list prefixes.
        let mut room = MAX_BLOCK_BYTES - 4096;
        for tx in candidates {
            // Every transaction's network encoding has at most four more bytes than its EIP-2718 encoding.
            if tx.raw_len() + 4 > room || run.apply(&tx).is_err() {
                continue;
            }
            room -= tx.raw_len() + 4;
            transactions.push(tx.tx().clone());
        }
        let (results, changes, gas_used) = run.finish();
        let state = parent.state().apply(&changes);
        let header = self.header(parent, input, &transactions, &results, gas_used, state.root());
        let block = Arc::new(Block { header, transactions });
        Ok(Executed::new(block, state, results, changes, parent.0.hashes.clone()))
    }

    /// Executes `block` on `parent` and compares every header field with the result.
    ///
    /// # Errors
    /// [`LedgerError::InvalidBlock`] names the first thing that is wrong.
    pub fn execute(&self, parent: &Executed, block: &Arc<Block>) -> Result<Executed, LedgerError> {
        let given = &block.header;
        let invalid = |reason: String| LedgerError::InvalidBlock { number: given.number, reason };
        // Validate: what needs no execution.
        if given.parent_hash != parent.hash() || given.number != parent.number() + 1 {
            return Err(invalid("it does not follow its parent".into()));
        }
        if given.timestamp < parent.header().timestamp {
            return Err(invalid("it is older than its parent".into()));
        }
        if block.encoded_len() > MAX_BLOCK_BYTES || given.extra_data.len() != EXTRA_DATA_BYTES {
            return Err(invalid("it is too large, or its extra data has not 32 bytes".into()));
        }
        let txs = block
            .transactions
            .iter()
            .map(|tx| RecoveredTx::recover(tx.clone(), self.params.chain_id))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| invalid(e.to_string()))?;
        // Pre and execute.
        let mut run = Run::start(self.params, parent, given.timestamp, given.beneficiary);
        for (i, tx) in txs.iter().enumerate() {
            run.apply(tx).map_err(|e| invalid(format!("transaction {i}: {e}")))?;
        }
        let (results, changes, gas_used) = run.finish();
        // Post: the header must be what this ledger would have written.
        let state = parent.state().apply(&changes);
        let seal = B256::from_slice(&given.extra_data);
        let input = BlockInput { timestamp: given.timestamp, seal, beneficiary: given.beneficiary };
        let expected = self.header(parent, input, &block.transactions, &results, gas_used, state.root());
        if *given != expected {
            return Err(invalid(differing_field(given, &expected).into()));
        }
        Ok(Executed::new(block.clone(), state, results, changes, parent.0.hashes.clone()))
    }

    fn header(
        &self,
        parent: &Executed,
        input: BlockInput,
        transactions: &[alloy_consensus::TxEnvelope],
        results: &Results,
        gas_used: u64,
        state_root: B256,
    ) -> Header {
        let logs_bloom = results.receipts.iter().fold(Bloom::ZERO, |bloom, r| bloom | *r.logs_bloom());
        Header {
            parent_hash: parent.hash(),
            beneficiary: input.beneficiary,
            state_root,
            transactions_root: proofs::calculate_transaction_root(transactions),
            receipts_root: proofs::calculate_receipt_root(&results.receipts),
            logs_bloom,
            number: parent.number() + 1,
            gas_limit: self.params.gas_limit,
            gas_used,
            timestamp: input.timestamp,
            extra_data: Bytes::copy_from_slice(input.seal.as_slice()),
            base_fee_per_gas: Some(parent.next_base_fee()),
            ..fixed_header()
        }
    }
}

/// The header fields that are the same in all blocks of this chain.
pub(crate) fn fixed_header() -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        difficulty: U256::ZERO,
        nonce: B64::ZERO,
        mix_hash: B256::ZERO,
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Default::default()
    }
}

fn differing_field(a: &Header, b: &Header) -> &'static str {
    match () {
        () if a.gas_used != b.gas_used => "wrong gas used",
        () if a.receipts_root != b.receipts_root || a.logs_bloom != b.logs_bloom => {
            "wrong receipts root or bloom"
        }
        () if a.state_root != b.state_root => "wrong state root",
        () if a.transactions_root != b.transactions_root => "wrong transactions root",
        () if a.base_fee_per_gas != b.base_fee_per_gas => "wrong base fee",
        () if a.gas_limit != b.gas_limit => "wrong gas limit",
        () => "wrong fixed header field",
    }
}

/// The environment of a block.
pub(crate) fn block_env(
    number: u64,
    timestamp: u64,
    beneficiary: Address,
    gas_limit: u64,
    base_fee: u64,
) -> BlockEnv {
    BlockEnv {
        number: U256::from(number),
        beneficiary,
        timestamp: U256::from(timestamp),
        gas_limit,
        basefee: base_fee,
        difficulty: U256::ZERO,
        prevrandao: Some(B256::ZERO),
        // Blob transactions are refused, but the opcode BLOBBASEFEE needs a value.
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
        ..Default::default()
    }
}

/// The configuration of the EVM.
pub(crate) fn configure(cfg: &mut CfgEnv, chain_id: u64) {
    cfg.chain_id = chain_id;
    cfg.set_spec_and_mainnet_gas_params(SPEC);
}

/// A block being executed.
struct Run {
    db: CacheDB<StateView>,
    env: BlockEnv,
    chain_id: u64,
    gas_used: u64,
    results: Results,
}

impl Run {
    /// Phase *pre*: opens the block on its parent's state.
    fn start(params: ChainParams, parent: &Executed, timestamp: u64, beneficiary: Address) -> Self {
        let base_fee = parent.next_base_fee();
        Self {
            db: CacheDB::new(parent.view()),
            env: block_env(parent.number() + 1, timestamp, beneficiary, params.gas_limit, base_fee),
            chain_id: params.chain_id,
            gas_used: 0,
            results: Results::default(),
        }
    }

    /// Phase *execute*: applies one transaction, or leaves the state as it was.
    fn apply(&mut self, tx: &RecoveredTx) -> Result<(), LedgerError> {
        if tx.tx().gas_limit() > self.env.gas_limit - self.gas_used {
            return Err(LedgerError::GasLimit);
        }
        let mut evm = Context::mainnet()
            .with_db(&mut self.db)
            .with_block(self.env.clone())
            .modify_cfg_chained(|cfg| configure(cfg, self.chain_id))
            .build_mainnet();
        let done = evm.transact(tx.env()).map_err(evm_error)?;
        let gas_used = done.result.tx_gas_used();
        let created = match tx.tx().kind() {
            alloy_primitives::TxKind::Create if done.result.is_success() => done.result.created_address(),
            _ => None,
        };
        let success = done.result.is_success();
        let logs = done.result.into_logs();
        self.db.commit(done.state);
        self.gas_used += gas_used;
        let receipt = Receipt { status: success.into(), cumulative_gas_used: self.gas_used, logs };
        self.results.receipts.push(envelope(tx.tx().tx_type(), receipt.into()));
        self.results.outcomes.push(TransactionOutcome {
            sender: tx.sender(),
            gas_used,
            effective_gas_price: tx.tx().effective_gas_price(Some(self.env.basefee)),
            created,
        });
        Ok(())
    }

    fn finish(self) -> (Results, Changes, u64) {
        (self.results, collect(self.db), self.gas_used)
    }
}

/// Reads the changes out of revm's cache, in order of address.
pub(crate) fn collect(db: CacheDB<StateView>) -> Changes {
    let mut changes = Changes::default();
    for (address, account) in db.cache.accounts {
        let gone = match account.account_state {
            AccountState::None => continue,
            AccountState::NotExisting => true,
            // EIP-161: touched and empty means removed.
            AccountState::Touched | AccountState::StorageCleared => account.info.is_empty(),
        };
        let info = (!gone).then_some((account.info.nonce, account.info.balance, account.info.code_hash));
        let cleared = account.account_state == AccountState::StorageCleared;
        let view = &db.db.state;
        // The cache also holds slots that were only read.
        let storage = account
            .storage
            .into_iter()
            .filter(|(slot, value)| cleared || view.storage(address, *slot) != *value)
            .collect();
        if gone && view.account(&address).is_none() {
            continue;
        }
        changes.accounts.insert(address, AccountChange { info, cleared, storage });
    }
    for (hash, code) in db.cache.contracts {
        if !code.is_empty() && db.db.state.code_by_hash(&hash).is_none() {
            changes.codes.insert(hash, code.original_bytes());
        }
    }
    changes
}

fn envelope(kind: TxType, receipt: ReceiptWithBloom<Receipt>) -> ReceiptEnvelope {
    match kind {
        TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
        TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
        TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
        TxType::Eip4844 => ReceiptEnvelope::Eip4844(receipt),
        TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
    }
}

/// The EVM's refusal in geth's words, where it has one.
pub(crate) fn evm_error(error: EVMError<Infallible>) -> LedgerError {
    LedgerError::Call(match error {
        EVMError::Transaction(InvalidTransaction::LackOfFundForMaxFee { fee, balance }) => {
            format!("insufficient funds for gas * price + value: have {balance} want {fee}")
        }
        EVMError::Transaction(e) => e.to_string(),
        other => format!("{other:?}"),
    })
}
