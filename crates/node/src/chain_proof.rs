//! Makes chain proofs (see [`types::ChainProof`]).

use alloy_consensus::{Header, ReceiptEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_rlp::Decodable as _;
use alloy_trie::{HashBuilder, Nibbles, proof::ProofRetainer};
use api::ports::ChainFault;
use consensus::Chain;
use types::{
    AccountFact, Address, B256, Bytes, CHAIN_PROOF_FORMAT, ChainProof, CheckpointProof, Handover, ItemFact,
    ItemKind, SlotFact, U256,
};

/// Blocks after the one in question that are searched for a certificate.
const DESCENDANTS: u64 = 1024;

fn internal(e: impl std::fmt::Display) -> ChainFault {
    ChainFault::Internal(e.to_string())
}

/// Nodes from the root of a block's list towards item `index` (Yellow Paper, section 4.3: keys are RLP of the index).
fn item_proof(items: &[Vec<u8>], index: usize) -> Vec<Bytes> {
    let key = |i: usize| Nibbles::unpack(alloy_rlp::encode(i));
    let mut leaves: Vec<_> = items.iter().enumerate().map(|(i, item)| (key(i), item)).collect();
    leaves.sort_unstable_by_key(|(key, _)| *key);
    let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::new(vec![key(index)]));
    for (key, item) in leaves {
        builder.add_leaf(key, item);
    }
    builder.root();
    builder.take_proof_nodes().into_nodes_sorted().into_iter().map(|(_, node)| node).collect()
}

/// A checkpoint in whose own state something is proved.
pub(crate) fn own_start(executed: &ledger::Executed) -> CheckpointProof {
    CheckpointProof { header: alloy_rlp::encode(executed.header()).into(), members: vec![] }
}

/// The block `number` as a checkpoint from which handovers go on.
pub(crate) fn start(chain: &Chain, number: u64) -> Result<CheckpointProof, ChainFault> {
    let store = chain.store();
    let header = store.header(number).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
    let set = store.validators(chain.network().epoch_of(number)).map_err(internal)?;
    let members = set.ok_or(ChainFault::UnknownBlock)?.members;
    Ok(CheckpointProof { header: alloy_rlp::encode(header).into(), members })
}

/// Changes of the validator set from genesis, or after the checkpoint, up to `epoch`.
pub(crate) fn handovers(
    chain: &Chain,
    checkpoint: Option<&CheckpointProof>,
    epoch: u64,
) -> Result<Vec<Handover>, ChainFault> {
    let first = match checkpoint {
        None => 0,
        Some(start) => {
            let header = Header::decode(&mut start.header.as_ref()).map_err(internal)?;
            chain.network().epoch_of(header.number)
        }
    };
    let all = chain.handovers(epoch).map_err(internal)?;
    Ok(all.into_iter().filter(|h| h.next.epoch > first).collect())
}

/// Proves an account in the newest certified state, or a transaction with its receipt.
pub(crate) fn make(
    chain: &Chain,
    account: Option<(Address, Vec<B256>)>,
    transaction: Option<B256>,
    checkpoint: Option<u64>,
) -> Result<ChainProof, ChainFault> {
    let store = chain.store();
    let mut items = vec![];
    let number = match (transaction, &account) {
        (Some(_), Some(_)) => {
            return Err(ChainFault::Rejected(
                "ask for an account or for a transaction, not for both at once".into(),
            ));
        }
        (Some(hash), None) => {
            let (number, index) =
                store.transaction(&hash).map_err(internal)?.ok_or(ChainFault::UnknownTransaction)?;
            let block = store.block(number).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
            let receipts = store.receipts(number).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
            let lists = [
                (
                    ItemKind::Transaction,
                    block.transactions.iter().map(|t| t.encoded_2718()).collect::<Vec<_>>(),
                ),
                (ItemKind::Receipt, receipts.iter().map(ReceiptEnvelope::encoded_2718).collect()),
            ];
            for (kind, list) in lists {
                let bytes = list.get(index as usize).cloned().ok_or(ChainFault::UnknownTransaction)?;
                let proof = item_proof(&list, index as usize);
                items.push(ItemFact { kind, index: index.into(), bytes: bytes.into(), proof });
            }
            number
        }
        (None, _) => {
            let certified = chain.certified().map_err(internal)?;
            certified
                .ok_or_else(|| ChainFault::NotFinalised("no block has a certificate yet".into()))?
                .0
                .number()
        }
    };
    // A block can be final through its descendants; then the first certified one vouches for it.
    let mut headers: Vec<Bytes> = vec![];
    let mut certificate = None;
    for n in number..=chain.head().number().min(number + DESCENDANTS) {
        let header = store.header(n).map_err(internal)?.ok_or(ChainFault::UnknownBlock)?;
        headers.push(alloy_rlp::encode(header).into());
        certificate = store.certificate(n).map_err(internal)?;
        if certificate.is_some() {
            break;
        }
    }
    let certificate = certificate
        .ok_or_else(|| ChainFault::NotFinalised(format!("no certificate for block {number} yet")))?;
    let account = match account {
        None => None,
        Some((address, slots)) => {
            let executed =
                chain.with_state(number).map_err(internal)?.ok_or(ChainFault::StateUnavailable(number))?;
            let slots: Vec<U256> = slots.iter().map(|s| U256::from_be_bytes(s.0)).collect();
            let proof = executed.state().proof(address, &slots).map_err(internal)?;
            let fact = |s: ledger::StorageProof| SlotFact {
                slot: s.slot.into(),
                value: s.value.into(),
                proof: s.proof,
            };
            let exists = executed.state().account(&address).map_err(internal)?.is_some();
            Some(AccountFact {
                address,
                nonce: proof.account.nonce,
                balance: proof.account.balance,
                // An account that does not exist has the values of the empty one.
                code_hash: if exists { proof.account.code_hash } else { alloy_primitives::KECCAK256_EMPTY },
                proof: proof.proof,
                slots: proof.storage.into_iter().map(fact).collect(),
            })
        }
    };
    let checkpoint = checkpoint.map(|number| start(chain, number)).transpose()?;
    Ok(ChainProof {
        format: CHAIN_PROOF_FORMAT.into(),
        network: chain.network().clone(),
        genesis_header: alloy_rlp::encode(chain.genesis().header()).into(),
        handovers: handovers(chain, checkpoint.as_ref(), certificate.epoch)?,
        checkpoint,
        headers,
        certificate,
        account,
        items,
    })
}
