//! Blocks and transactions from peers and clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(block) = ledger::Block::decode(bytes) {
        assert_eq!(block.encode(), bytes);
    }
    let _ = ledger::RecoveredTx::decode(bytes, 1);
});
