//! [`api::ports::Chain`] over a validator's [`consensus::Chain`].

use crate::chain_proof;
use alloy_consensus::{Header, ReceiptEnvelope, transaction::SignerRecoverable as _};
use alloy_rpc_types_eth::{TransactionRequest, simulate::SimulatePayload};
use alloy_rpc_types_trace::geth::{GethDebugTracingCallOptions, GethDebugTracingOptions};
use api::ports::{
    AccessListData, AccountProofData, BlockData, BlockRef, CallOverrides, Chain, ChainEvent, ChainFault,
    Pooled, SimulatedData, Stop,
};
use client::contracts::{dispute_slots, posted_slot, receipt_log_slot, right_slot};
use consensus::ConsensusError;
use ledger::{Block, CallOutcome, Executed, LedgerError, Overrides, Replay, Standing};
use quick_cache::sync::Cache;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast;
use types::{Address, AuditProof, B256, Bytes, LedgerProof, U256, hex};

/// Events that a slow subscriber may be behind.
/// How far a claim's time may be ahead of its log's (`Disputes.MAX_AHEAD_SECONDS`).
const CLAIM_AHEAD_SECONDS: u64 = 600;
const EVENTS: usize = 8192;
/// Old blocks whose senders are remembered.
const BLOCKS_CACHED: usize = 256;

/// A validator's chain as the JSON-RPC server sees it.
pub(crate) struct ChainPort {
    chain: Arc<consensus::Chain>,
    events: broadcast::Sender<ChainEvent>,
    /// Blocks from disk, with senders.
    blocks: Cache<u64, Arc<BlockData>>,
}

fn internal(e: impl std::fmt::Display) -> ChainFault {
    ChainFault::Internal(e.to_string())
}

/// A fault of the disk is ours; a missing part of the state is a question of age; everything else is the caller's.
fn rejected(e: LedgerError) -> ChainFault {
    match e {
        LedgerError::Store(_) | LedgerError::Damaged { .. } => internal(e),
        LedgerError::Simulation { code, message } => ChainFault::Coded { code, message },
        LedgerError::Interrupted => ChainFault::Interrupted,
        other => ChainFault::Rejected(other.to_string()),
    }
}

fn overrides(o: CallOverrides) -> Overrides {
    Overrides { state: o.state, block: o.block }
}

fn output(outcome: CallOutcome) -> Result<Bytes, ChainFault> {
    match outcome {
        CallOutcome::Success { output, .. } => Ok(output),
        CallOutcome::Revert { output, .. } => Err(ChainFault::Reverted(output)),
        CallOutcome::Halt { reason, .. } => Err(ChainFault::Rejected(reason)),
    }
}

fn with_senders(hash: B256, block: &Block, senders: impl Iterator<Item = Address>) -> BlockData {
    BlockData {
        hash,
        header: block.header.clone(),
        transactions: block.transactions.iter().cloned().zip(senders).collect(),
        withdrawals: block.withdrawals.clone(),
        size: block.encoded_len(),
    }
}

fn recover(block: &Block) -> Result<Vec<Address>, ChainFault> {
    block.transactions.par_iter().map(|tx| tx.recover_signer().map_err(internal)).collect()
}

/// An executed block; who was executed here needs no signature check.
fn of_executed(executed: &Executed) -> Result<BlockData, ChainFault> {
    let block = executed.block();
    let senders = match executed.outcomes().len() == block.transactions.len() {
        true => executed.outcomes().iter().map(|o| o.sender).collect(),
        false => recover(block)?,
    };
    Ok(with_senders(executed.hash(), block, senders.into_iter()))
}

impl ChainPort {
    /// What the state says about one answer.
    fn audit_proof(
        &self,
        executed: &ledger::Executed,
        (node, size): (Address, u64),
        receipt: B256,
        index: u64,
    ) -> Result<AuditProof, ChainFault> {
        let contracts = self.chain.network().contracts;
        let number = |slot: B256| U256::from_be_bytes(slot.0);
        let (lost, disputed) = dispute_slots(node, receipt);
        let slots = [number(lost), number(disputed)];
        let mut disputes = executed.state().proof(contracts.disputes, &slots).map_err(rejected)?;
        let mut audits =
            executed.state().proof(contracts.audits, &[number(right_slot(node, index))]).map_err(rejected)?;
        let slot = number(posted_slot(node, size));
        let mut log = executed.state().proof(contracts.receipt_log, &[slot]).map_err(rejected)?;
        let missing = || ChainFault::Internal("a proof without its slots".into());
        let disputed = disputes.storage.pop().ok_or_else(missing)?;
        let lost = disputes.storage.pop().ok_or_else(missing)?;
        let right = audits.storage.pop().ok_or_else(missing)?;
        let posted = log.storage.pop().ok_or_else(missing)?;
        Ok(AuditProof {
            posted: posted.value,
            posted_proof: posted.proof,
            lost: lost.value,
            disputed_at: disputed.value,
            right: right.value,
            disputes_proof: disputes.proof,
            lost_proof: lost.proof,
            disputed_proof: disputed.proof,
            audits_proof: audits.proof,
            right_proof: right.proof,
        })
    }

    /// The state after block `number`, when it is kept here and says all that the proof of an answer needs: the root of the log, and that
    /// the time for disputes about `answer` is over.
    fn settled_at(
        &self,
        number: u64,
        (node, size): (Address, u64),
        answer: Option<(B256, u64)>,
    ) -> Result<Option<ledger::Executed>, ChainFault> {
        let network = self.chain.network();
        let Some(executed) = self.chain.with_state(number).map_err(internal)? else { return Ok(None) };
        let slot = U256::from_be_bytes(posted_slot(node, size).0);
        let posted = executed.state().storage(network.contracts.receipt_log, slot).map_err(rejected)?;
        let time = (posted >> 128usize).as_limbs()[0];
        let needed = match answer {
            Some(_) => time + network.window_seconds + network.game_seconds + CLAIM_AHEAD_SECONDS,
            None => 0,
        };
        Ok((time > 0 && executed.header().timestamp > needed).then_some(executed))
    }

    pub(crate) fn new(chain: Arc<consensus::Chain>) -> Self {
        let events = broadcast::Sender::new(EVENTS);
        let blocks = events.clone();
        chain.on_commit(move |executed| {
            if blocks.receiver_count() > 0
                && let Ok(data) = of_executed(executed)
            {
                let receipts = Arc::new(executed.receipts().to_vec());
                let _ = blocks.send(ChainEvent::Block(Arc::new(data), receipts));
            }
        });
        let transactions = events.clone();
        chain.on_transaction(move |tx| {
            if transactions.receiver_count() > 0 {
                let _ = transactions.send(ChainEvent::Transaction(Arc::new((tx.tx().clone(), tx.sender()))));
            }
        });
        Self { chain, events, blocks: Cache::new(BLOCKS_CACHED) }
    }

    fn queries<'a>(&'a self, stop: &'a Stop) -> ledger::Queries<'a> {
        self.chain.ledger().queries(stop.flag())
    }

    fn number(&self, at: BlockRef) -> Result<Option<u64>, ChainFault> {
        let head = self.chain.head().number();
        Ok(match at {
            BlockRef::Latest => Some(head),
            BlockRef::Number(n) => (n <= head).then_some(n),
            BlockRef::Hash(hash) => self.chain.store().number(&hash).map_err(internal)?,
        })
    }

    /// The block with its state; only the newest blocks have one, unless this is an archive.
    fn state(&self, at: BlockRef) -> Result<Executed, ChainFault> {
        if at == BlockRef::Latest {
            return Ok(self.chain.head());
        }
        let number = self.number(at)?.ok_or(ChainFault::UnknownBlock)?;
        let found = self.chain.with_state(number).map_err(internal)?;
        found.ok_or(ChainFault::StateUnavailable(number))
    }
}

impl Chain for ChainPort {
    fn chain_id(&self) -> u64 {
        self.chain.network().chain_id
    }

    fn head(&self) -> u64 {
        self.chain.head().number()
    }

    fn peers(&self) -> usize {
        self.chain.head().validators().members.len().saturating_sub(1)
    }

    fn events(&self) -> broadcast::Receiver<ChainEvent> {
        self.events.subscribe()
    }

    fn header(&self, number: u64) -> Result<Option<(B256, Header)>, ChainFault> {
        if let Some(executed) = self.chain.recent(number) {
            return Ok(Some((executed.hash(), executed.header().clone())));
        }
        let store = self.chain.store();
        let header = store.header(number).map_err(internal)?;
        Ok(store.block_hash(number).map_err(internal)?.zip(header))
    }

    fn block(&self, at: BlockRef) -> Result<Option<Arc<BlockData>>, ChainFault> {
        let Some(number) = self.number(at)? else { return Ok(None) };
        if let Some(known) = self.blocks.get(&number) {
            return Ok(Some(known));
        }
        let data = match self.chain.recent(number) {
            Some(executed) => of_executed(&executed)?,
            None => match self.chain.store().block(number).map_err(internal)? {
                Some(block) => with_senders(block.hash(), &block, recover(&block)?.into_iter()),
                None => return Ok(None),
            },
        };
        let data = Arc::new(data);
        self.blocks.insert(number, data.clone());
        Ok(Some(data))
    }

    fn raw_block(&self, at: BlockRef) -> Result<Option<Bytes>, ChainFault> {
        let Some(number) = self.number(at)? else { return Ok(None) };
        Ok(self.chain.store().block(number).map_err(internal)?.map(|b| b.encode().into()))
    }

    fn receipts(&self, number: u64) -> Result<Option<Arc<Vec<ReceiptEnvelope>>>, ChainFault> {
        match self.chain.recent(number) {
            Some(executed) => Ok(Some(Arc::new(executed.receipts().to_vec()))),
            None => Ok(self.chain.store().receipts(number).map_err(internal)?.map(Arc::new)),
        }
    }

    fn transaction(&self, hash: B256) -> Result<Option<(u64, u32)>, ChainFault> {
        self.chain.store().transaction(&hash).map_err(internal)
    }

    fn pooled(&self, hash: B256) -> Option<Pooled> {
        let tx = self.chain.pooled(&hash)?;
        Some(Pooled { tx: tx.tx().clone(), sender: tx.sender(), pending: true })
    }

    fn pool(&self) -> Result<Vec<Pooled>, ChainFault> {
        let all = self.chain.pool().map_err(internal)?.into_iter();
        let pooled = all.map(|(standing, tx)| Pooled {
            tx: tx.tx().clone(),
            sender: tx.sender(),
            pending: standing == Standing::Pending,
        });
        Ok(pooled.collect())
    }

    fn balance(&self, at: BlockRef, address: Address) -> Result<U256, ChainFault> {
        self.state(at)?.state().balance(address).map_err(rejected)
    }

    fn nonce(&self, at: Option<BlockRef>, address: Address) -> Result<u64, ChainFault> {
        match at {
            None => self.chain.pending_nonce(address).map_err(internal),
            Some(at) => self.state(at)?.state().nonce(address).map_err(rejected),
        }
    }

    fn code(&self, at: BlockRef, address: Address) -> Result<Bytes, ChainFault> {
        self.state(at)?.state().code(address).map_err(rejected)
    }

    fn storage(&self, at: BlockRef, address: Address, slot: U256) -> Result<U256, ChainFault> {
        self.state(at)?.state().storage(address, slot).map_err(rejected)
    }

    fn proof(&self, at: BlockRef, address: Address, slots: &[U256]) -> Result<AccountProofData, ChainFault> {
        let proof = self.state(at)?.state().proof(address, slots).map_err(rejected)?;
        Ok(AccountProofData {
            nonce: proof.account.nonce,
            balance: proof.account.balance,
            code_hash: proof.account.code_hash,
            storage_root: proof.account.storage_root(),
            account_proof: proof.proof,
            storage: proof.storage.into_iter().map(|s| (s.slot, s.value, s.proof)).collect(),
        })
    }

    fn call(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        o: CallOverrides,
        stop: &Stop,
    ) -> Result<Bytes, ChainFault> {
        output(self.queries(stop).call(&self.state(at)?, &call, &overrides(o)).map_err(rejected)?)
    }

    fn estimate_gas(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        o: CallOverrides,
        stop: &Stop,
    ) -> Result<u64, ChainFault> {
        match self.queries(stop).estimate_gas(&self.state(at)?, &call, &overrides(o)).map_err(rejected)? {
            Ok(gas) => Ok(gas),
            Err(outcome) => output(outcome).map(|_| 0),
        }
    }

    fn create_access_list(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        o: CallOverrides,
        stop: &Stop,
    ) -> Result<AccessListData, ChainFault> {
        let made = self.queries(stop).create_access_list(&self.state(at)?, &call, &overrides(o));
        let (list, outcome) = made.map_err(rejected)?;
        let (gas_used, error) = match outcome {
            CallOutcome::Success { gas_used, .. } => (gas_used, None),
            CallOutcome::Revert { gas_used, .. } => (gas_used, Some("execution reverted".into())),
            CallOutcome::Halt { gas_used, reason } => (gas_used, Some(reason)),
        };
        Ok(AccessListData { list, gas_used, error })
    }

    fn simulate(
        &self,
        at: BlockRef,
        payload: SimulatePayload,
        stop: &Stop,
    ) -> Result<Vec<SimulatedData>, ChainFault> {
        let blocks = self.queries(stop).simulate(&self.state(at)?, &payload).map_err(rejected)?;
        let data = |s: ledger::Simulated| SimulatedData {
            block: with_senders(s.block.hash(), &s.block, s.senders.into_iter()),
            calls: s.calls,
        };
        Ok(blocks.into_iter().map(data).collect())
    }

    fn trace_call(
        &self,
        at: BlockRef,
        call: TransactionRequest,
        options: GethDebugTracingCallOptions,
        stop: &Stop,
    ) -> Result<Value, ChainFault> {
        let trace = self.queries(stop).trace_call(&self.state(at)?, &call, &options).map_err(rejected)?;
        serde_json::to_value(trace).map_err(internal)
    }

    fn trace_block(
        &self,
        at: BlockRef,
        only: Option<usize>,
        options: GethDebugTracingOptions,
        stop: &Stop,
    ) -> Result<Vec<(B256, Value)>, ChainFault> {
        let number = self.number(at)?.ok_or(ChainFault::UnknownBlock)?;
        let before =
            number.checked_sub(1).ok_or_else(|| ChainFault::Rejected("genesis is not traceable".into()))?;
        let parent = self.state(BlockRef::Number(before))?;
        let store = self.chain.store();
        let block = store.block(number).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
        let turn = store.turn(number).map_err(internal)?.unwrap_or_default();
        let replay = Replay { parent: &parent, block: &block, turn: &turn };
        let traces = self.queries(stop).trace_block(replay, only, &options).map_err(rejected)?;
        traces.into_iter().map(|(hash, t)| Ok((hash, serde_json::to_value(t).map_err(internal)?))).collect()
    }

    fn submit(&self, raw: Bytes) -> Result<B256, ChainFault> {
        self.chain.submit(raw).map_err(|e| match e {
            ConsensusError::Transaction(message) => ChainFault::Rejected(message),
            other => internal(other),
        })
    }

    fn next_base_fee(&self) -> u64 {
        self.chain.head().next_base_fee()
    }

    fn network(&self) -> Value {
        let header = Bytes::from(alloy_rlp::encode(self.chain.genesis().header()));
        json!({"network": self.chain.network(), "genesisHeader": header})
    }

    fn finalized(&self) -> Result<Value, ChainFault> {
        let certified = self.chain.certified().map_err(internal)?;
        let (executed, certificate) =
            certified.ok_or_else(|| ChainFault::NotFinalised("no block has a certificate yet".into()))?;
        let header = Bytes::from(alloy_rlp::encode(executed.header()));
        Ok(
            json!({"number": executed.number(), "hash": executed.hash(), "certificate": certificate, "header": header}),
        )
    }

    fn handovers(&self, epoch: Option<u64>) -> Result<Value, ChainFault> {
        let epoch = epoch.unwrap_or_else(|| self.chain.head().validators().epoch);
        Ok(json!({"handovers": self.chain.handovers(epoch).map_err(internal)?}))
    }

    fn validators(&self, epoch: Option<u64>) -> Result<Value, ChainFault> {
        let head = self.chain.head();
        let newest = self.chain.network().epoch_of(head.number() + 1);
        let epoch = epoch.unwrap_or(newest);
        if epoch > newest {
            return Err(ChainFault::NotFinalised(format!("epoch {epoch}; the newest is {newest}")));
        }
        let set = self.chain.store().validators(epoch).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
        Ok(
            json!({"epoch": epoch, "since": set.epoch, "members": set.members, "commitment": set.commitment()}),
        )
    }

    fn final_header(&self, number: u64) -> Result<Value, ChainFault> {
        let (hash, header) = self.header(number)?.ok_or(ChainFault::UnknownBlock)?;
        let certificate = self.chain.store().certificate(number).map_err(internal)?;
        let header = Bytes::from(alloy_rlp::encode(header));
        Ok(json!({"number": number, "hash": hash, "header": header, "certificate": certificate}))
    }

    fn receipt_log_proof(
        &self,
        node: Address,
        size: u64,
        answer: Option<(B256, u64)>,
        checkpoint: Option<u64>,
    ) -> Result<Value, ChainFault> {
        let not_yet = || ChainFault::NotFinalised(format!("no root of {size} receipts of {node}"));
        let contract = self.chain.network().contracts.receipt_log;
        let slot = U256::from_be_bytes(receipt_log_slot(node, size).0);
        let own = match checkpoint {
            Some(number) => self.settled_at(number, (node, size), answer)?,
            None => None,
        };
        let (executed, checkpoint, certificate) = match own {
            // The shortest proof: the checkpoint's own state says it, and nobody's votes are needed.
            Some(executed) => {
                let start = chain_proof::own_start(&executed);
                (executed, Some(start), None)
            }
            None => {
                let certified = self.chain.certified().map_err(internal)?;
                let (executed, certificate) = certified.ok_or_else(not_yet)?;
                let start = checkpoint.map(|number| chain_proof::start(&self.chain, number)).transpose()?;
                (executed, start, Some(certificate))
            }
        };
        if executed.state().storage(contract, slot).map_err(rejected)?.is_zero() {
            return Err(not_yet());
        }
        let proof = executed.state().proof(contract, &[slot]).map_err(rejected)?;
        let storage_proof = proof.storage.into_iter().next().map(|s| s.proof).unwrap_or_default();
        serde_json::to_value(LedgerProof {
            header: alloy_rlp::encode(executed.header()).into(),
            handovers: match &certificate {
                Some(certificate) => {
                    chain_proof::handovers(&self.chain, checkpoint.as_ref(), certificate.epoch)?
                }
                None => vec![],
            },
            checkpoint,
            certificate,
            account_proof: proof.proof,
            storage_proof,
            audit: answer
                .map(|(receipt, index)| self.audit_proof(&executed, (node, size), receipt, index))
                .transpose()?,
        })
        .map_err(internal)
    }

    fn chain_proof(
        &self,
        account: Option<(Address, Vec<B256>)>,
        transaction: Option<B256>,
        checkpoint: Option<u64>,
    ) -> Result<Value, ChainFault> {
        let proof = chain_proof::make(&self.chain, account, transaction, checkpoint)?;
        serde_json::to_value(proof).map_err(internal)
    }

    fn sync_point(&self) -> Result<Value, ChainFault> {
        crate::sync::point(&self.chain)
    }

    fn sync_range(&self, number: u64, cursor: &str) -> Result<Value, ChainFault> {
        let cursor = crate::sync::cursor(cursor)?;
        let executed = self.chain.with_state(number).map_err(internal)?;
        let executed = executed.ok_or(ChainFault::StateUnavailable(number))?;
        let (part, next) = executed.state().part(cursor).map_err(rejected)?;
        let next = next.map(|c| hex::encode(alloy_rlp::encode(c)));
        Ok(json!({"part": Bytes::from(part.encode()), "next": next}))
    }
}
