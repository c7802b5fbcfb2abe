//! Disputes: the referee computes what the engine computes, the honest party always wins, and an honest node is never found guilty.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::{Choosing, Model, dispute::*, replay};
use proptest::prelude::*;
use referee::*;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};
use types::*;

const CASES: [&str; 10] = [
    "llama2",
    "llama-linear",
    "llama3-scaled",
    "mistral",
    "smollm",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
];

/// Models are read once.
fn model(case: &str) -> Arc<Model> {
    static MODELS: OnceLock<Mutex<BTreeMap<String, Arc<Model>>>> = OnceLock::new();
    let mut models = MODELS.get_or_init(Mutex::default).lock().unwrap();
    let open =
        || Model::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/fixtures").join(case));
    models.entry(case.into()).or_insert_with(|| open().unwrap()).clone()
}

/// A change of one element of one vector of one program.
#[derive(Clone, Copy, Debug)]
struct Fault {
    target: Target,
    vector: usize,
    cell: usize,
    byte: usize,
    bit: u8,
}

impl Fault {
    /// Changes the element. What cannot be computed from the change (an index that leads nowhere) becomes zeros.
    fn tamper(
        self,
        sizes: Vec<usize>,
    ) -> impl Fn(usize, usize, Result<Vec<u8>, RefereeError>) -> Result<Vec<u8>, RefereeError> {
        move |vector, cell, value| {
            let mut value = value.unwrap_or_else(|_| vec![0; sizes[vector]]);
            if (vector, cell) == (self.vector, self.cell) {
                let byte = self.byte % value.len();
                value[byte] ^= 1 << (self.bit % 8);
            }
            Ok(value)
        }
    }
}

fn sizes(program: &Program) -> Vec<usize> {
    program.ops.iter().map(|op| op.size).collect()
}

/// Rows by position, layer and kind.
type Rows = BTreeMap<(usize, usize, RowKind), Vec<u8>>;

/// A computation made element by element by the referee's own rules, which may have a fault.
#[derive(Clone, Default)]
struct Forged {
    fed: Vec<u32>,
    rows: Arc<Mutex<Rows>>,
    leaves: Vec<Vec<u8>>,
}

impl Trace for Forged {
    fn leaves(&self) -> &[Vec<u8>] {
        &self.leaves
    }
    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Vec<u8>, engine::EngineError> {
        Ok(self.rows.lock().unwrap()[&(position, layer, kind)].clone())
    }
    fn token(&self, position: usize) -> Option<u32> {
        self.fed.get(position).copied()
    }
}

struct Run {
    trace: Forged,
    output: Vec<u32>,
}

/// Computes `count` tokens. `fault` changes one element; `swap` replaces the token that is chosen, or a prompt token, in what is fed.
struct Cheat {
    fault: Option<Fault>,
    swap_prompt: Option<usize>,
    swap_output: Option<usize>,
}

const HONEST: Cheat = Cheat { fault: None, swap_prompt: None, swap_output: None };

fn run(
    model: &Model,
    weights: &TensorStore,
    claim: &Claim,
    prompt: &[u32],
    options: Option<&Options>,
    cheat: &Cheat,
) -> Run {
    let shape = Shape::new(model.manifest()).unwrap();
    let (layers, vocabulary) = (shape.layers.len(), shape.vocabulary as u32);
    let mut trace = Forged { fed: prompt.to_vec(), ..Forged::default() };
    if let Some(i) = cheat.swap_prompt {
        trace.fed[i] = (trace.fed[i] + 1) % vocabulary;
    }
    let mut output = Vec::new();
    let table = |trace: &Forged, target: Target| {
        let program = Program::new(shape.clone(), &target, prompt.len(), claim.sampling, options.is_some());
        let inputs = Inputs { model, weights, trace, options, mask: None };
        match cheat.fault.filter(|f| f.target == target) {
            Some(fault) => {
                let tamper = fault.tamper(sizes(&program));
                Table::build(inputs, program, &tamper).unwrap()
            }
            None => Table::build(inputs, program, UNTOUCHED).unwrap(),
        }
    };
    let mut position = 0;
    while output.len() < claim.completion_tokens as usize {
        let mut leaf = [(position as u32).to_be_bytes(), trace.fed[position].to_be_bytes()].concat();
        for layer in 0..layers {
            for (kind, row) in [(TargetKind::Kept, RowKind::Kept), (TargetKind::Output, RowKind::Output)] {
                let target = Target { kind, position: position as u64, layer: layer as u64, token: 0 };
                let mut table = table(&trace, target);
                leaf.extend_from_slice(&table.vectors.pop().unwrap());
                trace.rows.lock().unwrap().insert((position, layer, row), table.vectors.pop().unwrap());
            }
        }
        trace.leaves.push(leaf);
        position += 1;
        if position >= prompt.len() {
            let target =
                Target { kind: TargetKind::Token, position: position as u64 - 1, layer: 0, token: 0 };
            let chosen = table(&trace, target).vectors.pop().unwrap();
            let mut token = u32::from_le_bytes(chosen.try_into().unwrap());
            if cheat.swap_output == Some(output.len()) {
                token = (token + 1) % vocabulary;
            }
            output.push(token.min(vocabulary - 1));
            trace.fed.push(token.min(vocabulary - 1));
        }
    }
    trace.fed.pop();
    Run { trace, output }
}

struct Setting {
    model: Arc<Model>,
    claim: Claim,
    nonce: B256,
    prompt: Vec<u32>,
    options: Option<Options>,
}

fn setting(case: &str, prompt: &[u32], tokens: u32, sampling: Sampling, biases: &[(u32, f32)]) -> Setting {
    let model = model(case);
    let nonce = B256::repeat_byte(7);
    let options = Options::new(&nonce, biases, false);
    let claim = Claim {
        chain_id: 7,
        genesis: B256::ZERO,
        node: Address::ZERO,
        model: model.id().0,
        request_hash: B256::ZERO,
        response_hash: B256::ZERO,
        prompt_hash: commit_tokens(&nonce, Tokens::Prompt, prompt),
        output_hash: B256::ZERO,
        prompt_tokens: prompt.len() as u32,
        completion_tokens: tokens,
        max_tokens: 64,
        choices: 1,
        sampling,
        options: Options::commitment(options.as_ref()),
        trace_root: B256::ZERO,
        price_input: 1,
        price_output: 2,
        price: prompt.len() as u128 + 2 * u128::from(tokens),
        payer: Address::ZERO,
        anchor_number: 0,
        anchor_hash: B256::ZERO,
        time_ms: 0,
        arithmetic_class: ARITHMETIC_EXACT,
        arithmetic_version: 3,
        rung_requested: 4,
        rung_achieved: 4,
    };
    Setting { model, claim, nonce, prompt: prompt.to_vec(), options }
}

impl Setting {
    fn weights(&self) -> TensorStore {
        TensorStore::open(&self.model).unwrap()
    }

    fn run(&self, cheat: &Cheat) -> Run {
        run(&self.model, &self.weights(), &self.claim, &self.prompt, self.options.as_ref(), cheat)
    }

    /// The claim over a computation.
    fn claim(&self, run: &Run) -> Claim {
        let leaves: Vec<B256> = run.trace.leaves.iter().map(|l| merkle::leaf_hash(l)).collect();
        let output_hash = commit_tokens(&self.nonce, Tokens::Output, &run.output);
        Claim { trace_root: merkle::root(&leaves), output_hash, ..self.claim.clone() }
    }

    fn player(&self, claim: &Claim, output: &[u32], trace: Box<dyn Trace + Send>) -> Player {
        Player::new(Dispute {
            model: self.model.clone(),
            weights: self.weights(),
            claim: claim.clone(),
            nonce: self.nonce,
            prompt: self.prompt.clone(),
            output: output.to_vec(),
            options: self.options.clone(),
            masks: vec![],
            trace,
        })
    }

    /// What an auditor computes: the engine's own answer.
    fn auditor(&self, claim: &Claim, honest: &Run) -> Player {
        let trace = Replayed::new(self.model.clone(), &self.prompt, &honest.output).unwrap();
        self.player(claim, &honest.output, Box::new(trace))
    }
}

struct Played {
    winner: Party,
    moves: usize,
    bytes: usize,
    last: usize,
}

/// Plays to the end; every state and move goes through its encoding.
fn play(
    claim: &Claim,
    opening: &Opening,
    challenger: &mut dyn FnMut(&Game) -> Move,
    node: &mut dyn FnMut(&Game) -> Option<Move>,
) -> Played {
    let mut outcome = Game::start(claim.clone(), &Opening::decode(&opening.encode()).unwrap()).unwrap();
    let mut played = Played { winner: Party::Node, moves: 0, bytes: 0, last: 0 };
    loop {
        let game = match outcome {
            Outcome::Won(winner) => return Played { winner, ..played },
            Outcome::Next(game) => *game,
        };
        let state = game.encode();
        assert_eq!(Game::decode(&state).unwrap(), game);
        let by = match game.turn() {
            Party::Challenger => challenger(&game),
            // Who cannot move lets the time run out.
            Party::Node => match node(&game) {
                Some(by) => by,
                None => return Played { winner: Party::Challenger, ..played },
            },
        };
        let bytes = by.encode();
        assert_eq!(Move::decode(&bytes).unwrap(), by);
        played.moves += 1;
        played.last = state.len() + bytes.len();
        played.bytes += played.last;
        let turn = game.turn();
        outcome = match game.play(by) {
            Ok(outcome) => outcome,
            // The contract refuses; nothing better comes.
            Err(_) if turn == Party::Node => return Played { winner: Party::Challenger, ..played },
            Err(e) => panic!("the honest challenger's move is refused: {e}"),
        };
    }
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0f32), 0.3f32..1.8];
    let top_p = prop_oneof![Just(1f32), 0.3f32..1.0];
    let penalty = || prop_oneof![Just(0f32), -1f32..1.0];
    (temperature, top_p, prop_oneof![Just(0f32), 0f32..0.1], 0u32..60, penalty(), penalty(), any::<u32>())
        .prop_map(|(temperature, top_p, min_p, top_k, presence_penalty, frequency_penalty, seed)| Sampling {
            temperature,
            top_p,
            min_p,
            top_k,
            presence_penalty,
            frequency_penalty,
            seed: u64::from(seed),
        })
}

#[test]
fn element_by_element_is_what_the_engine_computes() {
    let sampling = Sampling {
        temperature: 0.9,
        top_p: 0.8,
        min_p: 0.01,
        top_k: 20,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        seed: 5,
    };
    for case in CASES {
        for sampling in [Sampling::GREEDY, sampling] {
            let s = setting(case, &[5, 9, 40, 41, 3], 5, sampling, &[]);
            let honest = s.run(&HONEST);
            let found = replay(&s.model, &s.prompt, &honest.output, Choosing::new(sampling)).unwrap();
            assert_eq!(found.first_difference, None, "{case}");
            assert_eq!(found.trace_root, s.claim(&honest).trace_root, "{case}");
            let claim = s.claim(&honest);
            assert_eq!(s.auditor(&claim, &honest).allegation(), None, "{case}");
        }
    }
}

/// Every vector of a program of a long sequence, beyond one step of each scan, is computed without reading outside it.
#[test]
fn programs_of_long_sequences_have_the_lengths_they_say() {
    let shape = Shape::new(model("gemma2").manifest()).unwrap();
    for position in [0u64, 15, 63, 64, 1023, 1024, 5000] {
        let target = Target { kind: TargetKind::Output, position, layer: 1, token: 0 };
        let program = Program::new(shape.clone(), &target, 1, Sampling::GREEDY, false);
        assert!(program.ops.iter().all(|op| op.cells > 0 && op.size > 0));
    }
}

/// Which programs an answer of `prompt` and `tokens` has.
fn targets(layers: u64, prompt: u64, tokens: u64) -> Vec<Target> {
    let mut all = Vec::new();
    for position in 0..prompt + tokens - 1 {
        for layer in 0..layers {
            for kind in [TargetKind::Kept, TargetKind::Output] {
                all.push(Target { kind, position, layer, token: 0 });
            }
        }
        if position + 1 >= prompt {
            all.push(Target { kind: TargetKind::Token, position, layer: 0, token: 0 });
        }
    }
    all
}

/// How many random games are played of each kind; `OG_CASES` plays more.
fn cases() -> u32 {
    std::env::var("OG_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// A random fault anywhere in a random computation: the auditor, who knows only its own computation, wins, in few bytes.
    #[test]
    fn whoever_computes_honestly_wins(
        case in 0..CASES.len(), sampling in any_sampling(), prompt in prop::collection::vec(3u32..200, 1..6), tokens in 1u32..5,
        (target, vector, cell, byte, bit) in (any::<u32>(), any::<u32>(), any::<u32>(), 0usize..64, any::<u8>()), biased: bool,
    ) {
        let biases: &[(u32, f32)] = if biased { &[(17, 4.0), (30, -2.5)] } else { &[] };
        let s = setting(CASES[case], &prompt, tokens, sampling, biases);
        let shape = Shape::new(s.model.manifest()).unwrap();
        let all = targets(shape.layers.len() as u64, prompt.len() as u64, u64::from(tokens));
        let target = all[target as usize % all.len()];
        let program = Program::new(shape, &target, prompt.len(), sampling, biased);
        let vector = vector as usize % (program.ops.len() - 1);
        let op = &program.ops[vector];
        let sizes = sizes(&program);
        let fault = Fault { target, vector, cell: cell as usize % op.cells, byte, bit };
        let (honest, forged) = (s.run(&HONEST), s.run(&Cheat { fault: Some(fault), ..HONEST }));
        let claim = s.claim(&forged);
        let mut auditor = s.auditor(&claim, &honest);
        let Some(opening) = auditor.allegation() else {
            // The fault did not reach anything that the claim says: then the claim is the honest one.
            prop_assert_eq!(claim, s.claim(&honest));
            return Ok(());
        };
        // The node defends itself as well as it can: it keeps to its fault.
        let mut node = s.player(&claim, &forged.output, Box::new(forged.trace));
        let played = play(
            &claim, &opening,
            &mut |game| auditor.respond(game).unwrap(),
            &mut |game| {
                let mine = Target { token: 0, ..game.target } == fault.target;
                if mine { node.respond_with(game, &fault.tamper(sizes.clone())).ok() } else { node.respond(game).ok() }
            },
        );
        prop_assert_eq!(played.winner, Party::Challenger, "{:?} {:?}", fault, op);
        prop_assert!(played.bytes < 64 << 10, "{} bytes", played.bytes);
    }

    /// Other tokens than the prompt's or the chosen ones, wherever they are: the auditor wins.
    #[test]
    fn other_tokens_lose(
        case in 0..CASES.len(), sampling in any_sampling(), prompt in prop::collection::vec(3u32..200, 1..5), tokens in 1u32..4,
        place: u32, of_prompt: bool,
    ) {
        let s = setting(CASES[case], &prompt, tokens, sampling, &[]);
        let cheat = match of_prompt {
            true => Cheat { swap_prompt: Some(place as usize % prompt.len()), ..HONEST },
            false => Cheat { swap_output: Some(place as usize % tokens as usize), ..HONEST },
        };
        let (honest, forged) = (s.run(&HONEST), s.run(&cheat));
        let claim = s.claim(&forged);
        let mut auditor = s.auditor(&claim, &honest);
        let opening = auditor.allegation().unwrap();
        let mut node = s.player(&claim, &forged.output, Box::new(forged.trace));
        let played = play(&claim, &opening, &mut |g| auditor.respond(g).unwrap(), &mut |g| node.respond(g).ok());
        prop_assert_eq!(played.winner, Party::Challenger);
    }

    /// Whatever a challenger picks and proves, an honest node wins.
    #[test]
    fn an_honest_node_is_never_found_guilty(
        case in 0..CASES.len(), sampling in any_sampling(), prompt in prop::collection::vec(3u32..200, 1..5), tokens in 1u32..5,
        picks in prop::collection::vec(any::<u32>(), 40), last: bool,
    ) {
        let s = setting(CASES[case], &prompt, tokens, sampling, &[]);
        let honest = s.run(&HONEST);
        let claim = s.claim(&honest);
        let mut challenger = s.auditor(&claim, &honest);
        let mut node = s.player(&claim, &honest.output, Box::new(honest.trace.clone()));
        let picks = RefCell::new(picks.into_iter());
        let pick = |n: usize| picks.borrow_mut().next().unwrap() as usize % n;
        let layers = Shape::new(s.model.manifest()).unwrap().layers.len();
        let opening = if last { Opening::Output(pick(tokens as usize) as u64) } else { Opening::Trace };
        let played = play(
            &claim, &opening,
            &mut |game| { challenger.observe(game); match game.phase {
                Phase::PickPositions | Phase::PickCells => Move::Pick(pick(game.nodes.len()) as u64),
                Phase::PickVector => {
                    // The node's word about a grammar cannot be proved wrong, and there is none here.
                    Move::Pick(pick(game.roots.len()) as u64)
                }
                Phase::PickRow if game.first >= prompt.len() as u64 && pick(2) == 0 => Move::Chosen,
                Phase::PickRow => Move::Row { layer: pick(layers) as u64, output: pick(2) == 1 },
                Phase::PickToken => Move::Chosen,
                Phase::Prove => {
                    let shape = Shape::new(s.model.manifest()).unwrap();
                    let program = Program::new(shape, &game.target, prompt.len(), sampling, false);
                    let op = &program.ops[game.vector as usize];
                    let from = game.first as usize * CELL_CHUNK / op.size;
                    let to = (game.first as usize * CELL_CHUNK + game.data.len()).div_ceil(op.size).min(op.cells);
                    let hint = if pick(2) == 0 { u32::MAX } else { pick(288) as u32 };
                    challenger.prove_element(game, from + pick(to - from), hint).unwrap()
                }
                phase => panic!("not the challenger's: {phase:?}"),
            }},
            &mut |game| Some(node.respond(game).unwrap()),
        );
        prop_assert_eq!(played.winner, Party::Node);
        prop_assert!(played.moves >= 2);
    }
}

#[test]
fn a_claim_that_contradicts_itself_loses_at_once() {
    let s = setting("llama2", &[4, 5], 2, Sampling::GREEDY, &[]);
    let claim = s.claim(&s.run(&HONEST));
    for wrong in
        [Claim { price: claim.price + 1, ..claim.clone() }, Claim { completion_tokens: 65, ..claim.clone() }]
    {
        let outcome = Game::start(wrong, &Opening::Trace).unwrap();
        assert_eq!(outcome, Outcome::Won(Party::Challenger));
    }
    for not_played in
        [Claim { choices: 2, ..claim.clone() }, Claim { arithmetic_version: 2, ..claim.clone() }]
    {
        assert!(matches!(Game::start(not_played, &Opening::Trace), Err(RefereeError::NotPlayable(_))));
    }
}

/// Tokens that the claim commits to, but the trace was not computed with.
#[test]
fn an_answer_that_the_trace_does_not_give_loses() {
    let s = setting("qwen3", &[4, 5, 6], 3, Sampling::GREEDY, &[]);
    let honest = s.run(&HONEST);
    for index in 0..3 {
        let mut shown = honest.output.clone();
        shown[index] = (shown[index] + 1) % 200;
        let claim = s.claim(&Run { trace: honest.trace.clone(), output: shown.clone() });
        let mut auditor = s.auditor(&claim, &honest);
        assert_eq!(auditor.allegation(), Some(Opening::Output(2)));
        let mut node = s.player(&claim, &shown, Box::new(honest.trace.clone()));
        // The auditor saw the answer, so it knows which token to ask for.
        let opening = Opening::Output(index as u64);
        let played =
            play(&claim, &opening, &mut |g| auditor.respond(g).unwrap(), &mut |g| node.respond(g).ok());
        assert_eq!(played.winner, Party::Challenger);
    }
}
