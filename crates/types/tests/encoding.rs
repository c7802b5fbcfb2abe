//! Canonical encodings: round trips, golden vectors, rejection of every second spelling.
#![allow(clippy::unwrap_used, missing_docs)]

use alloy_primitives::{Address, B256, Bytes, FixedBytes, b256, hex};
use proptest::prelude::*;
use types::*;

fn claim() -> Claim {
    Claim {
        chain_id: 10_744,
        genesis: B256::repeat_byte(1),
        node: signing::address_of(&secret()).unwrap(),
        model: B256::repeat_byte(3),
        request_hash: B256::repeat_byte(4),
        response_hash: B256::repeat_byte(5),
        prompt_hash: B256::repeat_byte(6),
        output_hash: B256::repeat_byte(7),
        prompt_tokens: 9,
        completion_tokens: 30,
        max_tokens: 64,
        choices: 1,
        sampling: Sampling { temperature: 0.7, seed: 42, ..Sampling::GREEDY },
        options: B256::ZERO,
        trace_root: B256::repeat_byte(8),
        price_input: 100,
        price_output: 300,
        price: 9_900,
        payer: Address::ZERO,
        anchor_number: 17,
        anchor_hash: B256::repeat_byte(9),
        time_ms: 1_795_000_000_000,
        arithmetic_class: ARITHMETIC_EXACT,
        arithmetic_version: 1,
        rung_requested: 1,
        rung_achieved: 1,
    }
}

fn secret() -> B256 {
    B256::repeat_byte(0x11)
}

fn receipt() -> Receipt {
    let claim = claim();
    let body = signing::sign(&secret(), claim.digest()).unwrap();
    Receipt {
        claim,
        evidence: vec![Evidence { mode: Rung::Signed.mode(), body: Bytes::from(body.to_vec()) }],
    }
}

pub fn manifest() -> ModelManifest {
    ModelManifest {
        version: 1,
        name: "tiny".into(),
        architecture: "llama".into(),
        arithmetic_version: 1,
        context_length: 512,
        vocab_size: 2048,
        parameters: 4_951_296,
        hyperparameters: vec![
            HyperParameter { name: "block_count".into(), value: "6".into() },
            HyperParameter { name: "rope_theta".into(), value: "0x461c4000".into() },
        ],
        weights_root: B256::repeat_byte(1),
        tokenizer_hash: B256::repeat_byte(2),
        template_hash: B256::repeat_byte(3),
        licence: "CC-BY-4.0".into(),
    }
}

fn proof() -> ProofFile {
    let key = |i: u8| ValidatorKey {
        peer: B256::repeat_byte(i),
        vote: FixedBytes::repeat_byte(i),
        possession: FixedBytes::repeat_byte(i),
    };
    ProofFile {
        format: PROOF_FORMAT.into(),
        receipt: receipt(),
        disclosure: Disclosure {
            nonce: B256::repeat_byte(9),
            request: "{\"model\":\"tiny\"}".into(),
            response: "data: {\"x\":\"é\\n\"}\n\ndata: [DONE]\n\n".into(),
            prompt_tokens: vec![1, 2],
            output_tokens: vec![3],
        },
        manifest: manifest(),
        log: LogProof { index: 1, size: 2, path: vec![B256::repeat_byte(2)] },
        ledger: LedgerProof {
            checkpoint: None,
            header: Bytes::from_static(&[1, 2]),
            handovers: vec![Handover {
                header: Bytes::from_static(&[9]),
                certificate: certificate(239),
                next: set(),
            }],
            certificate: Some(certificate(299)),
            account_proof: vec![Bytes::from_static(&[3])],
            storage_proof: vec![Bytes::from_static(&[4])],
            audit: None,
        },
        validators_root: None,
        network: NetworkConfig {
            version: types::NETWORK_VERSION,
            chain_id: 10_744,
            block_time_ms: 250,
            epoch_blocks: 240,
            window_seconds: 90,
            game_seconds: 600,
            unbonding_seconds: 7 * 24 * 3600,
            contracts: SystemContracts {
                model_registry: Address::repeat_byte(1),
                node_registry: Address::repeat_byte(2),
                receipt_log: Address::repeat_byte(3),
                wrapped_native: Address::repeat_byte(4),
                staking: Address::repeat_byte(5),
                ..SystemContracts::none()
            },
            validators: vec![key(1), key(2)],
        },
        genesis_header: Bytes::from_static(&[8]),
    }
}

fn certificate(parent_view: u64) -> FinalityCertificate {
    FinalityCertificate {
        epoch: 0,
        view: parent_view + 1,
        parent_view,
        block_hash: B256::repeat_byte(5),
        signers: Bytes::from_static(&[7]),
        signature: FixedBytes::repeat_byte(6),
    }
}

fn set() -> ValidatorSet {
    let member = |byte| Validator { peer: B256::repeat_byte(byte), vote: FixedBytes::repeat_byte(byte + 1) };
    ValidatorSet { epoch: 1, members: vec![member(1), member(3)] }
}

fn equivocation() -> Equivocation {
    let vote = |kind, byte| Vote {
        kind,
        parent_view: 6,
        block_hash: B256::repeat_byte(byte),
        signature: FixedBytes::repeat_byte(byte),
    };
    let vote_key = FixedBytes::repeat_byte(8);
    Equivocation { vote_key, epoch: 3, view: 7, first: vote(NOTARIZE, 1), second: vote(NOTARIZE, 2) }
}

#[test]
fn validator_sets_have_one_encoding_and_one_order() {
    let good = set();
    assert_eq!(ValidatorSet::decode(&good.encode()).unwrap(), good);
    let mut unsorted = good.clone();
    unsorted.members.reverse();
    assert!(ValidatorSet::decode(&unsorted.encode()).is_err());
    let mut empty = good.clone();
    empty.members.clear();
    assert!(ValidatorSet::decode(&empty.encode()).is_err());
    let mut longer = good.encode();
    longer.push(0);
    assert!(ValidatorSet::decode(&longer).is_err());
    // The commitment is to the members alone, the request to the epoch too.
    let later = ValidatorSet { epoch: 2, ..good.clone() };
    assert_eq!(later.commitment(), good.commitment());
    assert_ne!(later.requests_hash(), good.requests_hash());
}

#[test]
fn only_votes_that_contradict_each_other_are_evidence() {
    let good = equivocation();
    assert_eq!(Equivocation::decode(&good.encode()).unwrap(), good);
    assert!(good.contradicts());
    let with = |change: fn(&mut Equivocation)| {
        let mut e = equivocation();
        change(&mut e);
        e.contradicts()
    };
    assert!(!with(|e| e.second = e.first.clone()), "one vote, sent twice");
    assert!(
        !with(|e| e.second.kind = FINALIZE),
        "notarize and finalize of different blocks is no offence by itself"
    );
    assert!(with(|e| (e.first.kind, e.second.kind) = (FINALIZE, FINALIZE)));
    let nullify = |e: &mut Equivocation| {
        e.first = Vote { kind: NULLIFY, parent_view: 0, block_hash: B256::ZERO, ..e.first.clone() };
    };
    assert!(!with(|e| e.first.kind = NULLIFY), "a nullify vote names no block");
    let mut e = equivocation();
    nullify(&mut e);
    e.second.kind = FINALIZE;
    assert!(e.contradicts());
    e.second.kind = NOTARIZE;
    assert!(!e.contradicts(), "nullify after notarize is what honest validators do");
    e.second.kind = 9;
    assert!(!e.contradicts() && e.message(&e.second, b"ns").is_none());
}

#[test]
fn golden_vectors() {
    // Another implementation that gets these values has the encoding right. Set OG_BLESS=1 to write them anew
    // after a change that is meant to break every older receipt.
    golden("claim_digest.hex", &format!("{}\n", claim().digest()));
    golden("receipt_id.hex", &format!("{}\n", claim().receipt_id()));
    golden("model_id.hex", &format!("{}\n", manifest().id()));
    golden("receipt.rlp.hex", &format!("{}\n", hex::encode(receipt().encode())));
    golden("validator_set.hex", &format!("{} {}\n", hex::encode(set().request()), set().requests_hash()));
    golden("equivocation.rlp.hex", &format!("{}\n", hex::encode(equivocation().encode())));
    golden("proof.json", std::str::from_utf8(&proof().encode().unwrap()).unwrap());
}

fn golden(name: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    if std::env::var_os("OG_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&path).unwrap(), "{name}");
}

#[test]
fn commitments_are_salted_and_domain_separated() {
    let (n1, n2) = (B256::repeat_byte(1), B256::repeat_byte(2));
    let (request, response) = commit_bytes(&n1, b"same", b"same");
    assert_ne!(request, response);
    assert_ne!(request, commit_bytes(&n2, b"same", b"same").0);
    assert_eq!(request, Claim::request_commitment(&n1, b"same"));
    let (tokens, which) = ([7, 8, 7], Tokens::Prompt);
    let commitment = commit_tokens(&n1, which, &tokens);
    assert_ne!(commitment, commit_tokens(&n1, which, &[8, 7, 7]));
    assert_ne!(commitment, commit_tokens(&n2, which, &tokens));
    assert_ne!(commitment, commit_tokens(&n1, Tokens::Output, &tokens));
    for index in 0..3 {
        let opening = which.open(&n1, &tokens, index);
        assert_eq!(opening.token, tokens[index]);
        assert_eq!(opening.commitment(index as u64, 3).unwrap(), commitment);
        assert_ne!(
            TokenOpening { token: 9, ..opening.clone() }.commitment(index as u64, 3).unwrap(),
            commitment
        );
        assert_ne!(opening.commitment((index as u64 + 1) % 3, 3).ok(), Some(commitment));
    }
}

#[test]
fn the_signature_names_the_node_and_nothing_else_fits() {
    let r = receipt();
    assert_eq!(r.signer().unwrap(), r.claim.node);
    let mut other = r.clone();
    other.claim.price += 1;
    assert_ne!(other.signer().ok(), Some(r.claim.node));
    // A high-s twin of a valid signature is rejected, so a signature has one spelling.
    let mut bytes = r.signature().unwrap();
    let n = b256!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
    let s = U256::from_be_slice(&bytes[32..64]);
    bytes[32..64].copy_from_slice(&(U256::from_be_bytes(n.0) - s).to_be_bytes::<32>());
    bytes[64] = if bytes[64] == 27 { 28 } else { 27 };
    assert_eq!(signing::recover(r.claim.digest(), &bytes), Err(TypesError::BadSignature));
}

#[test]
fn receipts_without_a_signature_or_with_too_much_evidence_are_rejected() {
    let mut r = receipt();
    let signature = r.evidence[0].clone();
    r.evidence.clear();
    assert!(Receipt::decode(&r.encode()).is_err());
    r.evidence = vec![signature; limits::EVIDENCE_COUNT_MAX + 1];
    assert!(matches!(Receipt::decode(&r.encode()), Err(TypesError::TooLarge { .. })));
}

#[test]
fn manifests_with_unsorted_hyperparameters_are_rejected() {
    let mut m = manifest();
    m.hyperparameters.reverse();
    assert!(ModelManifest::decode(&m.encode()).is_err());
    m.hyperparameters = vec![m.hyperparameters[0].clone(); 2];
    assert!(ModelManifest::decode(&m.encode()).is_err());
}

#[test]
fn validator_sets_must_be_sorted_distinct_and_not_empty() {
    let mut n = proof().network;
    assert_eq!(NetworkConfig::decode(&n.encode()).unwrap(), n);
    n.validators.reverse();
    assert!(NetworkConfig::decode(&n.encode()).is_err());
    n.validators = vec![n.validators[0].clone(); 2];
    assert!(NetworkConfig::decode(&n.encode()).is_err());
    n.validators.clear();
    assert!(NetworkConfig::decode(&n.encode()).is_err());
}

#[test]
fn every_changed_byte_of_a_proof_file_is_seen() {
    let good = proof();
    let bytes = good.encode().unwrap();
    assert_eq!(ProofFile::decode(&bytes).unwrap(), good);
    for i in 0..bytes.len() {
        for replacement in [b' ', b'0', b'"', bytes[i] ^ 1, bytes[i] ^ 0x20] {
            let mut changed = bytes.clone();
            changed[i] = replacement;
            if changed != bytes {
                // Either it no longer decodes, or it says something else (which the checks then judge).
                assert!(ProofFile::decode(&changed).map_or(true, |p| p != good), "byte {i}");
            }
        }
        let mut shorter = bytes.clone();
        shorter.remove(i);
        assert!(ProofFile::decode(&shorter).map_or(true, |p| p != good), "removed byte {i}");
    }
    let mut longer = bytes.clone();
    longer.push(b'\n');
    assert!(matches!(ProofFile::decode(&longer), Err(TypesError::NotCanonical { .. })));
}

proptest! {
    #[test]
    fn receipts_round_trip(seed: u64, price: u128, temperature in 0f32..2.0, evidence in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut r = receipt();
        r.claim.sampling.seed = seed;
        r.claim.sampling.temperature = temperature;
        r.claim.price = price;
        r.evidence.push(Evidence { mode: ModeId(4), body: evidence.into() });
        prop_assert_eq!(Receipt::decode(&r.encode()).unwrap(), r);
    }

    #[test]
    fn any_bytes_decode_to_an_error_or_to_their_own_canonical_form(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(r) = Receipt::decode(&bytes) { prop_assert_eq!(r.encode(), bytes.clone()); }
        if let Ok(m) = ModelManifest::decode(&bytes) { prop_assert_eq!(m.encode(), bytes.clone()); }
        if let Ok(c) = FinalityCertificate::decode(&bytes) { prop_assert_eq!(c.encode(), bytes.clone()); }
        let _ = NetworkConfig::decode(&bytes);
        let _ = ProofFile::decode(&bytes);
    }

    #[test]
    fn mutated_receipts_never_keep_their_meaning(i in 0usize..600, bit in 0u8..8) {
        let good = receipt();
        let mut bytes = good.encode();
        let i = i % bytes.len();
        bytes[i] ^= 1 << bit;
        if let Ok(changed) = Receipt::decode(&bytes) {
            prop_assert!(changed != good);
            prop_assert_ne!(changed.signer().ok(), Some(good.claim.node));
        }
    }
}

/// Digests of another implementation (ethers 6, `TypedDataEncoder`).
#[test]
fn what_clients_sign_is_typed_data_of_this_network() {
    use types::{Address, Authorisation, B256, EscrowDomain, U256, Voucher};
    let (client, node) = (Address::repeat_byte(1), Address::repeat_byte(2));
    let domain = EscrowDomain {
        chain_id: 10_744,
        genesis: B256::repeat_byte(0xab),
        escrow: Address::repeat_byte(0x0e),
    };
    let voucher = Voucher { client, node, total: U256::from(5), sequence: 7 };
    let authorisation = Authorisation {
        client,
        node,
        receiptId: B256::repeat_byte(3),
        maxPrice: U256::from(5),
        sequence: 7,
        expiry: 9,
    };
    let golden = [
        "0x4d4bfab07e9bcf6eac11bf01df937e2cb9618755e4fb57498b7e014eb2cea86f",
        "0x87b3b775397918fb23b91c3c8ac48a674b8a21ca26bb2bc7f24182f2cd08bbb4",
    ];
    assert_eq!([domain.digest(&voucher), domain.digest(&authorisation)].map(|d| d.to_string()), golden);
    let elsewhere = EscrowDomain { genesis: B256::repeat_byte(0xac), ..domain };
    assert_ne!(elsewhere.digest(&voucher), domain.digest(&voucher));
}
