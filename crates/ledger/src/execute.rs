//! Execution of a block in four phases: validate, pre, execute, post.

use crate::{
    Block, Candidates, LedgerError, MAX_BLOCK_BYTES, RecoveredTx, State,
    block::{EXTRA_DATA_BYTES, MISSED_MAX, Turn},
    evm::{OgEvm, StateView, block_env, evm, evm_error},
    executed::{Executed, Parts, Results},
    state::{AccountChange, Changes},
    system,
};
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction as _, TxEnvelope,
    TxType, proofs,
};
use alloy_eips::{eip4895::Withdrawal, eip7685::EMPTY_REQUESTS_HASH};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U256};
use alloy_trie::EMPTY_ROOT_HASH;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use revm::{
    ExecuteCommitEvm as _,
    database::{AccountState, CacheDB},
};
use std::sync::Arc;
use types::ValidatorSet;

/// Rules that all validators of a chain share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainParams {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Gas limit of every block.
    pub gas_limit: u64,
    /// Number of blocks in an epoch.
    pub epoch_blocks: u64,
    /// The staking contract; without one, the validators never change.
    pub staking: Option<Address>,
    /// The contract that keeps the randomness of blocks.
    pub beacon: Option<Address>,
}

/// What the proposer decides about a block besides its transactions.
#[derive(Clone, Debug)]
pub struct BlockInput {
    /// Seconds since the Unix epoch; not below the parent's.
    pub timestamp: u64,
    /// The 32 bytes of `extraData`: consensus commits to its own context here.
    pub seal: B256,
    /// Receives the tips.
    pub beneficiary: Address,
    /// `mixHash`: the chain's randomness, which contracts see as PREVRANDAO (EIP-4399).
    pub randomness: B256,
    /// Whose turn it was.
    pub turn: Turn,
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

/// The rules by which one block follows another.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    params: ChainParams,
    genesis: B256,
}

/// Finds a transaction whose signature was checked before.
pub type Known<'a> = &'a (dyn Fn(&B256) -> Option<Arc<RecoveredTx>> + Sync);

impl Ledger {
    /// A ledger with the given rules, of the chain with this genesis block.
    pub fn new(params: ChainParams, genesis: B256) -> Self {
        Self { params, genesis }
    }

    /// The rules.
    pub fn params(&self) -> &ChainParams {
        &self.params
    }

    pub(crate) fn genesis(&self) -> B256 {
        self.genesis
    }

    /// Builds the block that follows `parent` from as many of `candidates` as are valid and fit, in their order. Protocol calls come first,
    /// with at most half of the gas and bytes; nothing else can take that from them. It is the proposer's choice: a block in another order is valid.
    ///
    /// # Errors
    /// [`LedgerError`] only when the block could not be built at all.
    pub fn build(
        &self,
        parent: &Executed,
        input: &BlockInput,
        candidates: impl Into<Candidates>,
    ) -> Result<Executed, LedgerError> {
        let Candidates { lane, rest } = candidates.into();
        let mut run = Run::start(self, parent, input)?;
        let mut transactions = Vec::new();
        // Leaves room for the header, the withdrawals and the list prefixes.
        let room = MAX_BLOCK_BYTES - 32_768;
        let mut used = 0;
        let lane = lane.into_iter().map(|tx| (tx, room / 2, self.params.gas_limit / 2));
        let rest = rest.into_iter().map(|tx| (tx, room, self.params.gas_limit));
        for (tx, room, gas) in lane.chain(rest) {
            // Every transaction's network encoding has at most four more bytes than its EIP-2718 encoding.
            let bytes = tx.raw_len() + 4;
            if used + bytes > room || run.gas_used >= gas {
                continue;
            }
            match run.apply(&tx) {
                Ok(()) => {}
                Err(e) if e.is_fault() => return Err(e),
                Err(_) => continue,
            }
            used += bytes;
            transactions.push(tx.tx().clone());
        }
        self.finish(parent, run, input, transactions)
    }

    /// Executes `block` on `parent` and compares every header field with the result. `turn` comes from consensus; the header's seal commits
    /// to it. Signatures of transactions that `known` does not have are checked on all cores.
    ///
    /// # Errors
    /// [`LedgerError::InvalidBlock`] names the first thing that is wrong.
    pub fn execute(
        &self,
        parent: &Executed,
        block: &Arc<Block>,
        turn: &Turn,
        known: Known<'_>,
    ) -> Result<Executed, LedgerError> {
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
        if turn.missed.len() > MISSED_MAX {
            return Err(invalid("too many missed turns".into()));
        }
        let txs = block
            .transactions
            .par_iter()
            .map(|tx| match known(tx.tx_hash()) {
                Some(known) => Ok(known),
                None => RecoveredTx::recover(tx.clone(), self.params.chain_id).map(Arc::new),
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| invalid(e.to_string()))?;
        // Pre and execute.
        let input = block.input(turn);
        let mut run = Run::start(self, parent, &input)?;
        for (i, tx) in txs.iter().enumerate() {
            run.apply(tx).map_err(|e| match e {
                e if e.is_fault() => e,
                e => invalid(format!("transaction {i}: {e}")),
            })?;
        }
        // Post: the header must be what this ledger would have written.
        let executed = self.finish(parent, run, &input, block.transactions.clone())?;
        if executed.block() != block {
            return Err(invalid(differing_field(block, executed.block()).into()));
        }
        Ok(executed)
    }

    /// Phase *post*: the end of an epoch, roots and header.
    fn finish(
        &self,
        parent: &Executed,
        mut run: Run,
        input: &BlockInput,
        transactions: Vec<TxEnvelope>,
    ) -> Result<Executed, LedgerError> {
        let number = parent.number() + 1;
        let (withdrawals, requests_hash, validators) = run.end_epoch(&self.params, parent, number)?;
        let (results, changes, gas_used) = run.finish()?;
        let (state, dropped) = parent.state().apply(&changes)?;
        let logs_bloom = results.receipts.iter().fold(Bloom::ZERO, |bloom, r| bloom | *r.logs_bloom());
        let header = Header {
            parent_hash: parent.hash(),
            beneficiary: input.beneficiary,
            state_root: state.root(),
            transactions_root: proofs::calculate_transaction_root(&transactions),
            receipts_root: proofs::calculate_receipt_root(&results.receipts),
            withdrawals_root: Some(proofs::calculate_withdrawals_root(&withdrawals)),
            logs_bloom,
            number,
            gas_limit: self.params.gas_limit,
            gas_used,
            timestamp: input.timestamp,
            mix_hash: input.randomness,
            extra_data: Bytes::copy_from_slice(input.seal.as_slice()),
            base_fee_per_gas: Some(parent.next_base_fee()),
            parent_beacon_block_root: Some(parent.validators().commitment()),
            requests_hash: Some(requests_hash),
            ..fixed_header()
        };
        let block = Arc::new(Block { header, transactions, withdrawals });
        let hashes = parent.hashes().clone();
        let turn = input.turn.clone();
        Ok(Executed::new(Parts { block, turn, state, results, dropped, hashes, validators }))
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

fn differing_field(given: &Block, expected: &Block) -> &'static str {
    let (a, b) = (&given.header, &expected.header);
    match () {
        () if a.gas_used != b.gas_used => "wrong gas used",
        () if a.receipts_root != b.receipts_root || a.logs_bloom != b.logs_bloom => {
            "wrong receipts root or bloom"
        }
        () if a.state_root != b.state_root => "wrong state root",
        () if a.transactions_root != b.transactions_root => "wrong transactions root",
        () if a.base_fee_per_gas != b.base_fee_per_gas => "wrong base fee",
        () if a.gas_limit != b.gas_limit => "wrong gas limit",
        () if a.parent_beacon_block_root != b.parent_beacon_block_root => "wrong validators",
        () if a.requests_hash != b.requests_hash => "wrong next validators",
        () if a.withdrawals_root != b.withdrawals_root || given.withdrawals != expected.withdrawals => {
            "wrong rewards"
        }
        () => "wrong fixed header field",
    }
}

/// A block being executed.
pub(crate) struct Run {
    pub(crate) evm: OgEvm<CacheDB<StateView>>,
    gas_limit: u64,
    base_fee: u64,
    gas_used: u64,
    results: Results,
}

impl Run {
    /// Phase *pre*: opens the block on its parent's state and makes the system calls.
    pub(crate) fn start(ledger: &Ledger, parent: &Executed, input: &BlockInput) -> Result<Self, LedgerError> {
        let params = &ledger.params;
        let base_fee = parent.next_base_fee();
        let env = block_env(
            parent.number() + 1,
            input.timestamp,
            input.beneficiary,
            params.gas_limit,
            base_fee,
            input.randomness,
        );
        let mut evm = evm(CacheDB::new(parent.view()), params, ledger.genesis, env, |_| {});
        system::begin_block(&mut evm, params, parent.hash(), parent.validators(), &input.turn)?;
        Ok(Self { evm, gas_limit: params.gas_limit, base_fee, gas_used: 0, results: Results::default() })
    }

    /// Phase *execute*: applies one transaction, or leaves the state as it was.
    pub(crate) fn apply(&mut self, tx: &RecoveredTx) -> Result<(), LedgerError> {
        if tx.tx().gas_limit() > self.gas_limit - self.gas_used {
            return Err(LedgerError::GasLimit);
        }
        let done = self.evm.transact_commit(tx.env()).map_err(evm_error)?;
        let gas_used = done.tx_gas_used();
        let created = match tx.tx().kind() {
            alloy_primitives::TxKind::Create if done.is_success() => done.created_address(),
            _ => None,
        };
        self.gas_used += gas_used;
        let receipt = Receipt {
            status: done.is_success().into(),
            cumulative_gas_used: self.gas_used,
            logs: done.into_logs(),
        };
        self.results.receipts.push(envelope(tx.tx().tx_type(), receipt.into()));
        self.results.outcomes.push(TransactionOutcome {
            sender: tx.sender(),
            gas_used,
            effective_gas_price: tx.tx().effective_gas_price(Some(self.base_fee)),
            created,
        });
        Ok(())
    }

    /// Ends the epoch when `number` is its last block: pays rewards and asks who votes next.
    fn end_epoch(
        &mut self,
        params: &ChainParams,
        parent: &Executed,
        number: u64,
    ) -> Result<(Vec<Withdrawal>, B256, Arc<ValidatorSet>), LedgerError> {
        let now = parent.validators();
        if number % params.epoch_blocks != params.epoch_blocks - 1 {
            return Ok((vec![], EMPTY_REQUESTS_HASH, now.clone()));
        }
        let end = system::end_epoch(&mut self.evm, params, number)?;
        for reward in &end.rewards {
            let account = self.evm.ctx.journaled_state.database.load_account(reward.address)?;
            account.info.balance = account.info.balance.saturating_add(reward.amount_wei());
            if account.account_state != AccountState::StorageCleared {
                account.account_state = AccountState::Touched;
            }
        }
        let members = end.next.map_or_else(|| now.members.clone(), |set| set.members);
        let next = ValidatorSet { epoch: number / params.epoch_blocks + 1, members };
        let requests_hash = next.requests_hash();
        // A set that goes on keeps its first epoch: only changes have to be proved.
        let validators = if next.members == now.members { now.clone() } else { Arc::new(next) };
        Ok((end.rewards, requests_hash, validators))
    }

    fn finish(self) -> Result<(Results, Changes, u64), LedgerError> {
        Ok((self.results, collect(self.evm.ctx.journaled_state.database)?, self.gas_used))
    }
}

/// Reads the changes out of revm's cache, in order of address.
pub(crate) fn collect(db: CacheDB<StateView>) -> Result<Changes, LedgerError> {
    let mut changes = Changes::default();
    let state: &State = &db.db.state;
    for (address, account) in db.cache.accounts {
        let gone = match account.account_state {
            AccountState::None => continue,
            AccountState::NotExisting => true,
            // EIP-161: touched and empty means removed.
            AccountState::Touched | AccountState::StorageCleared => account.info.is_empty(),
        };
        let before = state.account(&address)?;
        if gone && before.is_none() {
            continue;
        }
        let info = (!gone).then_some((account.info.nonce, account.info.balance, account.info.code_hash));
        let cleared = account.account_state == AccountState::StorageCleared;
        // The cache also holds slots that were only read.
        let mut storage = std::collections::BTreeMap::new();
        for (slot, value) in account.storage {
            let old = match &before {
                Some(before) if !cleared => state.slot(before, slot)?,
                _ => U256::ZERO,
            };
            if old != value {
                storage.insert(slot, value);
            }
        }
        let same = before.as_ref().map(|a| (a.nonce, a.balance, a.code_hash)) == info;
        if same && !cleared && storage.is_empty() {
            continue;
        }
        changes.accounts.insert(address, AccountChange { info, cleared, storage });
    }
    for (hash, code) in db.cache.contracts {
        if !code.is_empty() && state.code_by_hash(&hash)?.is_none() {
            changes.codes.insert(hash, code.original_bytes());
        }
    }
    Ok(changes)
}

pub(crate) fn envelope(kind: TxType, receipt: ReceiptWithBloom<Receipt>) -> ReceiptEnvelope {
    match kind {
        TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
        TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
        TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
        TxType::Eip4844 => ReceiptEnvelope::Eip4844(receipt),
        TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
    }
}
