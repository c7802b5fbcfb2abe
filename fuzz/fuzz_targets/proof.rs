//! Proof files: an error, or bytes that encode to themselves.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(proof) = types::ProofFile::decode(bytes) {
        assert_eq!(proof.encode().as_deref(), Ok(bytes));
    }
});
