//! Receipts, manifests, certificates and configurations: an error, or bytes that encode to themselves.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = types::Receipt::decode(bytes) {
        assert_eq!(receipt.encode(), bytes);
        let _ = receipt.signer();
    }
    if let Ok(manifest) = types::ModelManifest::decode(bytes) {
        assert_eq!(manifest.encode(), bytes);
    }
    if let Ok(certificate) = types::FinalityCertificate::decode(bytes) {
        assert_eq!(certificate.encode(), bytes);
        let _ = certificate.signer_indices(4);
    }
    let _ = types::NetworkConfig::decode(bytes);
});
