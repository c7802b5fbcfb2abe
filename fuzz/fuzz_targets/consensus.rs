//! Consensus blocks as peers send them, and gossiped transactions.
#![no_main]

use commonware_codec::{Encode as _, Read as _};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let config = (..=ledger::MAX_BLOCK_BYTES).into();
    if let Ok(block) = consensus::Block::read_cfg(&mut bytes::Bytes::copy_from_slice(bytes), &config) {
        let encoded = block.encode();
        assert!(bytes.starts_with(encoded.as_ref()));
    }
    if let Ok(batch) = alloy_rlp::decode_exact::<Vec<alloy_primitives::Bytes>>(bytes) {
        for raw in batch.iter().take(64) {
            let _ = ledger::RecoveredTx::decode(raw, 1);
        }
    }
});
