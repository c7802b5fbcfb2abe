//! Calls that nobody pays for end: by gas whatever the overrides say, and when nobody waits for them any more.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod wallet;

use alloy_primitives::{Address, Bytes, U256, hex};
use alloy_rpc_types_eth::{
    BlockOverrides, TransactionRequest,
    simulate::{SimBlock, SimulatePayload},
    state::{AccountOverride, StateOverride},
};
use alloy_rpc_types_trace::geth::{
    GethDebugBuiltInTracerType, GethDebugTracerType, GethDebugTracingCallOptions, GethDebugTracingOptions,
};
use ledger::{CallOutcome, Executed, Ledger, LedgerError, Overrides, QUERY_GAS_MAX};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const CONTRACT: Address = Address::repeat_byte(0xaa);

/// JUMPDEST PUSH1 0 JUMP.
const LOOP: &[u8] = &hex!("5b600056");
/// For ever: keccak-256 of 2 MiB.
const HASHES: &[u8] = &hex!("5b622000005f2050600056");
/// For ever: the identity (address 4) of 1 MiB.
const COPIES: &[u8] = &hex!("5b5f5f621000005f600462fffffffa50600056");
fn start() -> (Ledger, Executed) {
    wallet::start(U256::from(10u128.pow(24)))
}

fn code(code: &[u8]) -> StateOverride {
    let account = AccountOverride { code: Some(Bytes::copy_from_slice(code)), ..Default::default() };
    [(CONTRACT, account)].into_iter().collect()
}

/// All the gas that anybody can ask for.
fn greedy() -> (TransactionRequest, BlockOverrides) {
    let request = TransactionRequest::default().to(CONTRACT).gas_limit(u64::MAX);
    (request, BlockOverrides { gas_limit: Some(u64::MAX), ..Default::default() })
}

fn overrides(program: &[u8]) -> Overrides {
    Overrides { state: Some(code(program)), block: Some(Box::new(greedy().1)) }
}

fn payload(program: &[u8], blocks: usize) -> SimulatePayload {
    let block = SimBlock {
        block_overrides: Some(greedy().1),
        state_overrides: Some(code(program)),
        // Each takes what is left.
        calls: vec![TransactionRequest::default().to(CONTRACT); 3],
    };
    SimulatePayload { block_state_calls: vec![block; blocks], ..Default::default() }
}

fn options(program: &[u8], tracer: Option<GethDebugBuiltInTracerType>) -> GethDebugTracingCallOptions {
    GethDebugTracingCallOptions {
        state_overrides: Some(code(program)),
        block_overrides: Some(greedy().1),
        tracing_options: GethDebugTracingOptions {
            tracer: tracer.map(GethDebugTracerType::BuiltInTracer),
            ..Default::default()
        },
        ..Default::default()
    }
}

#[test]
fn no_override_buys_more_gas_than_a_query_may_use() {
    let (ledger, at) = start();
    let never = AtomicBool::new(false);
    let queries = ledger.queries(&never);
    let CallOutcome::Halt { reason, gas_used } = queries.call(&at, &greedy().0, &overrides(LOOP)).unwrap()
    else {
        panic!("an endless loop ended")
    };
    assert_eq!((reason.as_str(), gas_used), ("out of gas", QUERY_GAS_MAX));
    // The gas of all calls of a simulation together: the first takes everything.
    let Err(LedgerError::Simulation { message, .. }) = queries.simulate(&at, &payload(LOOP, 2)) else {
        panic!("more gas than one query may use")
    };
    assert!(message.contains("gas in all"), "{message}");
    // Contracts still read the gas limit that they are told: GASLIMIT PUSH0 MSTORE MSIZE PUSH0 RETURN.
    let told = queries.call(&at, &greedy().0, &overrides(&hex!("455f52595ff3"))).unwrap();
    let word = Bytes::from(U256::from(u64::MAX).to_be_bytes_vec());
    assert!(matches!(told, CallOutcome::Success { output, .. } if output == word));
}

/// What puts `words` into memory, from the start.
fn stored(words: &[&str]) -> Vec<u8> {
    let mut code = vec![];
    for (i, word) in words.iter().enumerate() {
        code.push(0x7f);
        code.extend(hex::decode(format!("{word:0>64}")).unwrap());
        code.push(0x61);
        code.extend((32 * i as u16).to_be_bytes());
        code.push(0x52);
    }
    code
}

/// Calls the precompile again and again with the first `size` bytes of memory; the answer goes nowhere.
fn for_ever(mut code: Vec<u8>, precompile: u8, size: u16) -> Vec<u8> {
    let start = (code.len() as u16).to_be_bytes();
    let [high, low] = size.to_be_bytes();
    code.extend([
        0x5b, 0x5f, 0x5f, 0x61, high, low, 0x5f, 0x60, precompile, 0x62, 0xff, 0xff, 0xff, 0xfa, 0x50,
    ]);
    code.extend([0x61, start[0], start[1], 0x56]);
    code
}

/// The pairing of the two generators of BN254.
fn pairings() -> Vec<u8> {
    let words = [
        "1",
        "2",
        "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2",
        "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed",
        "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b",
        "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa",
    ];
    for_ever(stored(&words), 8, 192)
}

/// A power of numbers of 512 bytes, with an exponent of 32.
fn powers() -> Vec<u8> {
    let ones = "f".repeat(64);
    let mut words = vec!["200", "20", "200"];
    words.extend(std::iter::repeat_n(ones.as_str(), 33));
    for_ever(stored(&words), 5, 96 + 512 + 32 + 512)
}

/// Raises the flag while `query` runs; it must see it.
fn interrupted<T: std::fmt::Debug>(
    what: &str,
    query: impl FnOnce(&Ledger, &Executed, &AtomicBool) -> Result<T, LedgerError>,
) {
    let (ledger, at) = start();
    let stop = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(5));
            stop.store(true, Ordering::Relaxed);
        });
        query(&ledger, &at, &stop)
    });
    assert_eq!(ended.map(|_| ()), Err(LedgerError::Interrupted), "{what}");
}

#[test]
fn every_kind_of_query_ends_when_it_is_told_to() {
    // Each of these takes far longer than it takes to raise the flag.
    for (name, program) in
        [("loop", LOOP), ("pairings", &pairings()), ("powers", &powers()), ("hashes", HASHES)]
    {
        let what = |query: &str| format!("{query} of {name}");
        interrupted(&what("call"), |l, at, stop| l.queries(stop).call(at, &greedy().0, &overrides(program)));
        interrupted(&what("access list"), |l, at, stop| {
            l.queries(stop).create_access_list(at, &greedy().0, &overrides(program))
        });
        interrupted(&what("simulation"), |l, at, stop| l.queries(stop).simulate(at, &payload(program, 1)));
        interrupted(&what("trace"), |l, at, stop| {
            let options = options(program, Some(GethDebugBuiltInTracerType::NoopTracer));
            l.queries(stop).trace_call(at, &greedy().0, &options)
        });
    }
    // A binary search tries again and again; what it is told ends all of it.
    interrupted("estimate", |l, at, stop| {
        stop.store(true, Ordering::Relaxed);
        l.queries(stop).estimate_gas(at, &greedy().0, &overrides(LOOP))
    });
}

#[test]
fn a_trace_does_not_eat_the_memory() {
    let (ledger, at) = start();
    let never = AtomicBool::new(false);
    let trace =
        |program, tracer| ledger.queries(&never).trace_call(&at, &greedy().0, &options(program, tracer));
    // Every step, and every call with its megabyte of input, is kept.
    for (program, tracer) in [(LOOP, None), (COPIES, Some(GethDebugBuiltInTracerType::CallTracer))] {
        let Err(LedgerError::TraceTooLarge { .. }) = trace(program, tracer) else {
            panic!("a trace of {program:x?} has no bound")
        };
    }
}
