//! The precompile that referees disputes: Solidity's view of the crate `referee`.

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::{SolCall, SolInterface as _, SolValue as _, sol};
use referee::{Game, Move, Opening, Outcome, Party};
use types::{Claim, Evidence, Receipt, Rung, TypesError};

sol! {
    /// What contracts need to know of a claim.
    struct ClaimInfo {
        address node;
        bytes32 digest;
        bytes32 receiptId;
        address payer;
        uint128 price;
        uint64 timeMs;
        bytes32 model;
        uint8 rung;
    }
    /// The precompile. `turn`: 0 the challenger moves next, 1 the node, 2 the challenger has won, 3 the node has won.
    interface IReferee {
        function claim(bytes claim, bytes signature) returns (ClaimInfo info);
        function start(bytes claim, bytes signature, bytes opening) returns (ClaimInfo info, bytes state, uint8 turn);
        function play(bytes state, bytes move) returns (bytes state, uint8 turn);
    }
    /// What a refused call reverts with.
    error Refused(string reason);
}

/// Gas of a call: about what its work costs at the EVM's own prices (recovering a key, hashing the input some times, one element).
pub(crate) fn gas(input: &[u8]) -> u64 {
    20_000 + 6 * input.len() as u64
}

/// Answers a call: its result, or what it reverts with.
pub(crate) fn call(chain_id: u64, genesis: B256, input: &[u8]) -> Result<Bytes, Bytes> {
    run(chain_id, genesis, input)
        .map_err(|reason| alloy_sol_types::SolError::abi_encode(&Refused { reason }).into())
}

fn run(chain_id: u64, genesis: B256, input: &[u8]) -> Result<Bytes, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let output = match IReferee::IRefereeCalls::abi_decode(input).map_err(|e| words(&e))? {
        IReferee::IRefereeCalls::claim(c) => {
            let claim = signed_claim(chain_id, genesis, &c.claim, &c.signature).map_err(|e| words(&e))?;
            info(&claim).abi_encode()
        }
        IReferee::IRefereeCalls::start(c) => {
            let claim = signed_claim(chain_id, genesis, &c.claim, &c.signature).map_err(|e| words(&e))?;
            let opening = Opening::decode(&c.opening).map_err(|e| words(&e))?;
            let info = info(&claim);
            let (state, turn) = told(Game::start(claim, &opening).map_err(|e| words(&e))?);
            IReferee::startCall::abi_encode_returns(&IReferee::startReturn { info, state, turn })
        }
        IReferee::IRefereeCalls::play(c) => {
            let game = Game::decode(&c.state).map_err(|e| words(&e))?;
            let by = Move::decode(&c.r#move).map_err(|e| words(&e))?;
            let (state, turn) = told(game.play(by).map_err(|e| words(&e))?);
            IReferee::playCall::abi_encode_returns(&IReferee::playReturn { state, turn })
        }
    };
    Ok(output.into())
}

fn told(outcome: Outcome) -> (Bytes, u8) {
    match outcome {
        Outcome::Next(game) => (game.encode().into(), if game.turn() == Party::Challenger { 0 } else { 1 }),
        Outcome::Won(Party::Challenger) => (Bytes::new(), 2),
        Outcome::Won(Party::Node) => (Bytes::new(), 3),
    }
}

fn signed_claim(chain_id: u64, genesis: B256, claim: &[u8], signature: &[u8]) -> Result<Claim, TypesError> {
    let fault = |detail: &str| TypesError::Encoding { what: "claim", detail: detail.into() };
    let claim: Claim = alloy_rlp::decode_exact(claim).map_err(|e| fault(&e.to_string()))?;
    if (claim.chain_id, claim.genesis) != (chain_id, genesis) {
        return Err(fault("it is for another network"));
    }
    let evidence = vec![Evidence { mode: Rung::Signed.mode(), body: Bytes::copy_from_slice(signature) }];
    let receipt = Receipt { claim, evidence };
    match receipt.signer()? == receipt.claim.node {
        true => Ok(receipt.claim),
        false => Err(TypesError::BadSignature),
    }
}

fn info(claim: &Claim) -> ClaimInfo {
    ClaimInfo {
        node: claim.node,
        digest: claim.digest(),
        receiptId: claim.receipt_id().0,
        payer: claim.payer,
        price: claim.price,
        timeMs: claim.time_ms,
        model: claim.model,
        rung: claim.rung_achieved,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::{ARITHMETIC_EXACT, Address, Sampling, signing};

    fn claim(secret: &B256) -> (Claim, Bytes) {
        let zero = B256::ZERO;
        let claim = Claim {
            chain_id: 7,
            genesis: B256::repeat_byte(1),
            node: signing::address_of(secret).unwrap(),
            model: zero,
            request_hash: zero,
            response_hash: zero,
            prompt_hash: zero,
            output_hash: zero,
            prompt_tokens: 3,
            completion_tokens: 2,
            max_tokens: 4,
            choices: 1,
            sampling: Sampling::GREEDY,
            options: zero,
            trace_root: zero,
            price_input: 1,
            price_output: 1,
            price: 5,
            payer: Address::ZERO,
            anchor_number: 0,
            anchor_hash: zero,
            time_ms: 9,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: 3,
            rung_requested: 1,
            rung_achieved: 1,
        };
        let signature = signing::sign(secret, claim.digest()).unwrap().to_vec().into();
        (claim, signature)
    }

    #[test]
    fn claims_are_read_and_games_start() {
        let secret = B256::repeat_byte(5);
        let genesis = B256::repeat_byte(1);
        let (good, signature) = claim(&secret);
        let encoded = Bytes::from(alloy_rlp::encode(&good));
        let ask = |claim: &Bytes, signature: &Bytes, opening: Opening| {
            let opening = opening.encode().into();
            let call_data =
                IReferee::startCall { claim: claim.clone(), signature: signature.clone(), opening }
                    .abi_encode();
            call(7, genesis, &call_data)
        };
        let started =
            IReferee::startCall::abi_decode_returns(&ask(&encoded, &signature, Opening::Trace).unwrap());
        let started = started.unwrap();
        assert_eq!((started.turn, started.info.node, started.info.price), (1, good.node, 5));
        assert_eq!(Game::decode(&started.state).unwrap().claim, good);
        // A claim that contradicts itself is lost at once.
        let wrong = Claim { price: 6, ..good.clone() };
        let wrong_signature = Bytes::from(signing::sign(&secret, wrong.digest()).unwrap().to_vec());
        let lost = ask(&alloy_rlp::encode(&wrong).into(), &wrong_signature, Opening::Trace).unwrap();
        assert_eq!(IReferee::startCall::abi_decode_returns(&lost).unwrap().turn, 2);
        // Somebody else's signature, another network, more bytes, a move that is none.
        assert!(ask(&alloy_rlp::encode(&wrong).into(), &signature, Opening::Trace).is_err());
        let foreign = Claim { chain_id: 8, ..good.clone() };
        let foreign_signature = Bytes::from(signing::sign(&secret, foreign.digest()).unwrap().to_vec());
        assert!(ask(&alloy_rlp::encode(&foreign).into(), &foreign_signature, Opening::Trace).is_err());
        assert!(ask(&[encoded.as_ref(), &[0]].concat().into(), &signature, Opening::Trace).is_err());
        let no_move = IReferee::playCall { state: started.state, r#move: vec![1, 2].into() }.abi_encode();
        assert!(call(7, genesis, &no_move).is_err());
        assert!(call(7, genesis, &[]).is_err());
    }
}
