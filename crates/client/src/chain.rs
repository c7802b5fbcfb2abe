//! Checks chain proofs with no network.

use crate::{
    check::Checks,
    light::{self, Trusted},
    trust::Trust,
};
use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes, U256};
use types::{ChainProof, ItemKind};

/// Checks the bytes of a chain proof.
pub fn check_chain(bytes: &[u8], trust: &Trust) -> Checks {
    let mut checks = Checks::default();
    let proof = match ChainProof::decode(bytes) {
        Ok(proof) => proof,
        Err(e) => {
            checks.record("file", Err(e.to_string()));
            return checks;
        }
    };
    let name = alloy_primitives::keccak256(&proof.genesis_header);
    let header = final_header(&proof, trust, name);
    let state_root = header.as_ref().map_or(B256::ZERO, |(h, _)| h.state_root);
    let roots =
        header.as_ref().map_or((B256::ZERO, B256::ZERO), |(h, _)| (h.transactions_root, h.receipts_root));
    checks.record(
        "finality",
        header.map(|(h, signers)| format!("block {} is final: {signers} validators signed", h.number)),
    );
    if let Some(account) = &proof.account {
        let checked = light::check_account(state_root, account.address, &account.proof).and_then(|found| {
            let found_or_empty = found.unwrap_or_default();
            let said = (account.nonce, account.balance, account.code_hash);
            if said != (found_or_empty.nonce, found_or_empty.balance, found_or_empty.code_hash) {
                return Err("the account has other values".into());
            }
            for s in &account.slots {
                let value = U256::from_be_bytes(s.value.0);
                light::check_slot(found_or_empty.storage_root, s.slot, value, &s.proof)
                    .map_err(|e| format!("slot {}: {e}", s.slot))?;
            }
            let (balance, nonce, slots) = (account.balance, account.nonce, account.slots.len());
            Ok(format!("{} has {balance} wei, nonce {nonce}; {slots} slots", account.address))
        });
        checks.record("account", checked);
    }
    for item in &proof.items {
        let (name, root) = match item.kind {
            ItemKind::Transaction => ("transaction", roots.0),
            ItemKind::Receipt => ("receipt", roots.1),
        };
        let checked = light::check_item(root, item.index, &item.bytes, &item.proof);
        checks.record(
            name,
            checked.map(|()| format!("number {} of the block, {} bytes", item.index, item.bytes.len())),
        );
    }
    trust.record_pin(&mut checks, name);
    checks
}

/// The header in question: follows validator sets to the certified header, and parents down from it.
fn final_header(proof: &ChainProof, trust: &Trust, name: B256) -> Result<(Header, usize), String> {
    let mut trusted = match (&proof.checkpoint, trust.checkpoint) {
        (None, None) => Trusted::genesis(&proof.network, &proof.genesis_header, name)?,
        (Some(start), Some(checkpoint)) => {
            light::check_rules(&proof.network, None, &proof.genesis_header, name)?;
            let header = light::checkpoint_header(checkpoint, &start.header)?;
            Trusted::checkpoint(&proof.network, name, &header, &start.members)?
        }
        (None, Some(checkpoint)) => {
            return Err(format!(
                "this proof starts at genesis; get it with `og prove --checkpoint {checkpoint}`"
            ));
        }
        (Some(_), None) => {
            return Err("this proof is for readers who trust a checkpoint; name it with --checkpoint".into());
        }
    };
    let mut handovers = proof.handovers.iter();
    handovers.try_for_each(|handover| trusted.follow(handover))?;
    let (last, before): (&Bytes, &[Bytes]) = proof.headers.split_last().ok_or("there is no header")?;
    let (mut header, signers) = trusted.final_header(last, &proof.certificate)?;
    for bytes in before.iter().rev() {
        let (parent, hash) = light::header(bytes)?;
        if hash != header.parent_hash {
            return Err(format!("block {} is not the parent of block {}", parent.number, header.number));
        }
        header = parent;
    }
    Ok((header, signers))
}
