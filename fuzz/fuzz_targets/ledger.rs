//! What peers and servers send besides blocks: parts of a state, evidence, certificates, validator sets.
#![no_main]

use types::{Equivocation, FinalityCertificate, NetworkConfig, ValidatorSet};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(part) = ledger::Part::decode(bytes) {
        assert_eq!(part.encode(), bytes);
    }
    if let Ok(evidence) = Equivocation::decode(bytes) {
        assert_eq!(evidence.encode(), bytes);
        let _ = verify::finality::check_equivocation(Default::default(), &evidence);
    }
    if let Ok(set) = ValidatorSet::decode(bytes) {
        assert_eq!(set.encode(), bytes);
    }
    if let Ok(certificate) = FinalityCertificate::decode(bytes) {
        assert_eq!(certificate.encode(), bytes);
    }
    let _ = NetworkConfig::decode(bytes);
});
