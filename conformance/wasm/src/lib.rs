//! The light client and the proof checker as a WebAssembly module without imports.
//!
//! **Problem.** A browser or a script must be able to check a proof with the same code as the command line, and with no server.
//!
//! **Design.** Three functions and two buffers. JavaScript asks for a buffer with `input(length)`, writes a JSON request into it, calls
//! `run()`, and reads the JSON answer at `output()`, whose length `run` gave. No glue code is generated, so there is nothing else to trust.
//!
//! Requests: `{"proof": TEXT, "network": HASH?}` checks a proof file (of an answer, or of what the chain says). `{"network": CONFIG, "genesis_header": HEX, "name": HASH, "handovers": [...],
//! "header": HEX, "certificate": {...}, "account": {"address": ADDRESS, "proof": [...]}?}` follows validator sets to a final header, and
//! looks at an account in its state.

use client::light::{Trusted, check_account};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use types::{Address, B256, Bytes, FinalityCertificate, Handover, NetworkConfig};

/// There is no randomness here: checking a proof needs none.
fn no_randomness(_: &mut [u8]) -> Result<(), getrandom::Error> {
    Err(getrandom::Error::UNSUPPORTED)
}
getrandom::register_custom_getrandom!(no_randomness);

/// Longest request in bytes.
const REQUEST_BYTES_MAX: usize = 32 << 20;

static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static OUTPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofRequest {
    proof: String,
    network: Option<B256>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LightRequest {
    network: NetworkConfig,
    genesis_header: Bytes,
    name: B256,
    handovers: Vec<Handover>,
    header: Bytes,
    certificate: FinalityCertificate,
    account: Option<AccountRequest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountRequest {
    address: Address,
    proof: Vec<Bytes>,
}

/// Makes room for a request of `length` bytes and says where; null when that is too much.
#[unsafe(no_mangle)]
pub extern "C" fn input(length: usize) -> *mut u8 {
    if length > REQUEST_BYTES_MAX {
        return std::ptr::null_mut();
    }
    let mut buffer = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    *buffer = vec![0; length];
    buffer.as_mut_ptr()
}

/// Answers the request in the input buffer; gives the length of the answer.
#[unsafe(no_mangle)]
pub extern "C" fn run() -> usize {
    let request = std::mem::take(&mut *INPUT.lock().unwrap_or_else(PoisonError::into_inner));
    let answer = answer(&request).unwrap_or_else(|error| json!({"ok": false, "error": error}));
    let mut output = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    *output = answer.to_string().into_bytes();
    output.len()
}

/// Where the answer is.
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner).as_ptr()
}

fn answer(request: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(request).map_err(|e| format!("not JSON: {e}"))?;
    if value.get("proof").is_some() {
        let request: ProofRequest = serde_json::from_value(value).map_err(|e| e.to_string())?;
        let trust = client::trust::Trust { network: request.network, ..Default::default() };
        if request.proof.contains("\"og-chain/") {
            let checks = client::chain::check_chain(request.proof.as_bytes(), &trust);
            return Ok(json!({"ok": checks.ok(), "checks": checks}));
        }
        let report = client::proof::check_proof(request.proof.as_bytes(), &trust, &client::registry());
        return serde_json::to_value(report).map_err(|e| e.to_string());
    }
    let request: LightRequest = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let mut trusted = Trusted::genesis(&request.network, &request.genesis_header, request.name)?;
    for handover in &request.handovers {
        trusted.follow(handover)?;
    }
    let (header, signers) = trusted.final_header(&request.header, &request.certificate)?;
    let account = match request.account {
        None => Value::Null,
        Some(asked) => match check_account(header.state_root, asked.address, &asked.proof)? {
            None => json!({"exists": false}),
            Some(a) => json!({"exists": true, "nonce": a.nonce, "balance": a.balance.to_string()}),
        },
    };
    Ok(json!({
        "ok": true, "number": header.number, "state_root": header.state_root, "signers": signers,
        "validators": trusted.set().members.len(), "account": account,
    }))
}
