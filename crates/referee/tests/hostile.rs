//! Whatever bytes a contract is given as state and move: an error or a result, never a panic.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use referee::{Game, Move, Opening, Outcome, Phase, Witness};
use types::{ARITHMETIC_EXACT, Address, B256, Claim, Sampling};

fn game() -> Game {
    let zero = B256::ZERO;
    let claim = Claim {
        chain_id: 7,
        genesis: zero,
        node: Address::ZERO,
        model: zero,
        request_hash: zero,
        response_hash: zero,
        prompt_hash: zero,
        output_hash: zero,
        prompt_tokens: 300,
        completion_tokens: 20,
        max_tokens: 40,
        choices: 1,
        sampling: Sampling::GREEDY,
        options: zero,
        trace_root: zero,
        price_input: 0,
        price_output: 0,
        price: 0,
        payer: Address::ZERO,
        anchor_number: 0,
        anchor_hash: zero,
        time_ms: 0,
        arithmetic_class: ARITHMETIC_EXACT,
        arithmetic_version: 3,
        rung_requested: 4,
        rung_achieved: 4,
    };
    match Game::start(claim, &Opening::Trace).unwrap() {
        Outcome::Next(game) => *game,
        Outcome::Won(party) => panic!("{party:?} has won at once"),
    }
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![
        Phase::Positions,
        Phase::PickPositions,
        Phase::Leaf,
        Phase::PickRow,
        Phase::Table,
        Phase::PickVector,
        Phase::Cells,
        Phase::PickCells,
        Phase::Chunk,
        Phase::Prove,
        Phase::OutputToken,
        Phase::PickToken,
    ])
}

fn any_move() -> impl Strategy<Value = Move> {
    let hashes = prop::collection::vec(any::<[u8; 32]>().prop_map(B256::from), 0..70);
    let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(types::Bytes::from);
    prop_oneof![
        hashes.clone().prop_map(Move::Nodes),
        any::<u64>().prop_map(Move::Pick),
        (0u64..80).prop_map(Move::Pick),
        bytes().prop_map(Move::Leaf),
        (any::<u64>(), any::<bool>()).prop_map(|(layer, output)| Move::Row { layer, output }),
        Just(Move::Chosen),
        (bytes(), hashes).prop_map(|(manifest, roots)| Move::Table { manifest, roots }),
        bytes().prop_map(Move::Chunk),
        (bytes(), any::<u64>(), any::<u32>()).prop_map(|(manifest, cell, hint)| Move::Prove {
            manifest,
            cell,
            hint,
            witness: Box::new(Witness::default()),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_state_and_any_move(
        phase in any_phase(), by in any_move(), (first, size, vector) in any::<(u64, u64, u64)>(),
        lengths in prop::collection::vec(any::<u64>(), 0..4), counts in any::<(u32, u32)>(), position in any::<u64>(), small in any::<bool>(),
    ) {
        let mut game = game();
        let cut = |n: u64| if small { n % 70 } else { n };
        game.phase = phase;
        (game.first, game.size, game.vector) = (cut(first), cut(size), cut(vector) % 5);
        game.roots = vec![B256::ZERO; lengths.len()];
        game.lengths = lengths.into_iter().map(cut).collect();
        game.target.position = cut(position);
        if !small {
            (game.claim.prompt_tokens, game.claim.completion_tokens) = counts;
        }
        if let Ok(game) = Game::decode(&game.encode()) {
            let _ = game.play(Move::decode(&by.encode()).unwrap());
        }
    }

    #[test]
    fn any_bytes(mut state in Just(game().encode()), at in any::<prop::sample::Index>(), byte in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let at = at.index(state.len());
        state[at] = byte;
        for state in [&state, &noise] {
            if let (Ok(game), Ok(by)) = (Game::decode(state), Move::decode(&noise)) {
                let _ = game.play(by);
            }
        }
        let _ = Opening::decode(&noise);
    }
}
