//! Proof files of the format before are still checked, and no better: what was refused then is refused now.
#![allow(missing_docs, clippy::unwrap_used)]

use alloy_primitives::B256;
use client::{proof::check_proof, registry, trust::Trust};
use std::{fs, path::PathBuf};
use types::ProofFile;

fn vectors() -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/vectors/v3");
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 8, "all kinds of answers");
    all
}

fn holds(bytes: &[u8], network: Option<B256>) -> Result<(), String> {
    let report = check_proof(bytes, &Trust { network, ..Trust::default() }, &registry());
    match report.checks.first_failure() {
        None => Ok(()),
        Some(failure) => Err(format!("{}: {}", failure.name, failure.detail)),
    }
}

#[test]
fn every_old_file_still_holds() {
    for (name, bytes) in vectors() {
        let network = ProofFile::decode(&bytes).unwrap().receipt.claim.genesis;
        holds(&bytes, Some(network)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_changed_old_file_does_not() {
    for (name, bytes) in vectors() {
        let text = String::from_utf8(bytes).unwrap();
        let refused = |what: &str, changed: String| {
            assert_ne!(changed, text, "{name}: {what} changes nothing");
            assert!(holds(changed.as_bytes(), None).is_err(), "{name}: {what}");
        };
        refused("said to be of today's format", text.replace("og-proof/3", "og-proof/4"));
        refused("another space", text.replacen(": ", ":  ", 1));
        refused(
            "a network of another version",
            text.replacen("\"version\": 3,\n    \"chain_id\"", "\"version\": 4,\n    \"chain_id\"", 1),
        );
        refused("a longer window", text.replacen("\"window_seconds\": ", "\"window_seconds\": 1", 1));
        refused("a contract elsewhere", text.replacen("\"receipt_log\": \"0x", "\"receipt_log\": \"0x1", 1));
        refused("another view", text.replacen("\"view\": ", "\"view\": 1", 1));
        let refuses_field =
            text.replacen("\"game_seconds\"", "\"unbonding_seconds\": 1,\n    \"game_seconds\"", 1);
        refused("a field of today", refuses_field);
    }
}
