//! Parameters of JSON-RPC calls, as clients send them.
#![no_main]

use alloy_rpc_types_eth::{Filter, TransactionRequest, simulate::SimulatePayload, state::StateOverride};
use alloy_rpc_types_trace::geth::GethDebugTracingCallOptions;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let _ = serde_json::from_value::<Filter>(value.clone());
    let _ = serde_json::from_value::<TransactionRequest>(value.clone());
    let _ = serde_json::from_value::<StateOverride>(value.clone());
    let _ = serde_json::from_value::<SimulatePayload>(value.clone());
    let _ = serde_json::from_value::<GethDebugTracingCallOptions>(value);
});
