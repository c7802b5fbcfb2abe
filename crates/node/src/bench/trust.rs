//! `og bench trust`: what receipts, audits and disputes cost beside the answer itself.

use crate::{
    cli::BenchTrustArgs,
    commands::load_model,
    output::outln,
    receipt_log::{Kept, ReceiptLog},
};
use anyhow::Context as _;
use engine::{
    Choosing, Engine, EngineConfig, EngineError, Event, Job, Model,
    dispute::{Dispute, Inputs, Player, Replayed, Table, TensorStore, Trace},
    replay,
};
use referee::{Game, Move, Outcome, Party, Program, RowKind, Shape, Target, TargetKind};
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    sync::{Arc, mpsc},
    time::Instant,
};
use types::{
    ARITHMETIC_EXACT, Address, B256, Claim, Disclose, Disclosure, Evidence, Receipt, Rung, Sampling, Tokens,
    commit_bytes, commit_tokens, keccak256, merkle, signing,
};

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A trace with one leaf that says something else.
struct Altered {
    inner: Replayed,
    leaves: Vec<Vec<u8>>,
}

impl Trace for Altered {
    fn leaves(&self) -> &[Vec<u8>] {
        &self.leaves
    }
    fn row(&self, position: usize, layer: usize, kind: RowKind) -> Result<Vec<u8>, EngineError> {
        self.inner.row(position, layer, kind)
    }
}

/// An answer, as its node knows it.
struct Answer {
    model: Arc<Model>,
    claim: Claim,
    nonce: B256,
    prompt: Vec<u32>,
    output: Vec<u32>,
}

/// What one game took.
struct Played {
    moves: usize,
    bytes: usize,
    largest: usize,
    referee_ms: f64,
    slowest_ms: f64,
    challenger_won: bool,
}

impl Answer {
    fn player(&self, claim: &Claim, trace: Box<dyn Trace + Send>) -> anyhow::Result<Player> {
        Ok(Player::new(Dispute {
            model: self.model.clone(),
            weights: TensorStore::open(&self.model)?,
            claim: claim.clone(),
            nonce: self.nonce,
            prompt: self.prompt.clone(),
            output: self.output.clone(),
            options: None,
            masks: vec![],
            trace,
        }))
    }

    fn trace(&self) -> anyhow::Result<Replayed> {
        Ok(Replayed::new(self.model.clone(), &self.prompt, &self.output)?)
    }

    /// A node changes one element of one vector; somebody disputes it. `None` when the change does not reach the trace.
    fn dispute(&self, weights: &TensorStore, number: u64) -> anyhow::Result<Option<Played>> {
        let draw = |what: u64, n: usize| {
            let hash = keccak256([number.to_be_bytes(), what.to_be_bytes()].concat());
            u64::from_be_bytes(hash[..8].try_into().unwrap_or_default()) as usize % n
        };
        let shape = Shape::new(self.model.manifest())?;
        let honest = self.trace()?;
        let mut leaves = honest.leaves().to_vec();
        let kind = if draw(0, 4) == 0 { TargetKind::Kept } else { TargetKind::Output };
        let (position, layer) = (draw(1, leaves.len()), draw(2, shape.layers.len()));
        let target = Target { kind, position: position as u64, layer: layer as u64, token: 0 };
        let program = Program::new(shape, &target, self.prompt.len(), self.claim.sampling, false);
        let vector = draw(3, program.ops.len() - 1);
        let cell = draw(4, program.ops[vector].cells);
        let tamper = move |v: usize, c: usize, value: Result<Vec<u8>, referee::RefereeError>| {
            let mut value = value?;
            if (v, c) == (vector, cell) {
                value[0] ^= 1;
            }
            Ok(value)
        };
        let inputs = Inputs { model: &self.model, weights, trace: &honest, options: None, mask: None };
        let table = Table::build(inputs, program, &tamper)?;
        let digest = table.vectors.last().context("a program without vectors")?;
        let at = 8 + layer * 64 + if kind == TargetKind::Output { 32 } else { 0 };
        leaves[position][at..at + 32].copy_from_slice(digest);
        let hashes: Vec<B256> = leaves.iter().map(|l| merkle::leaf_hash(l)).collect();
        let claim = Claim { trace_root: merkle::root(&hashes), ..self.claim.clone() };
        let mut node = self.player(&claim, Box::new(Altered { inner: honest, leaves }))?;
        let mut challenger = self.player(&claim, Box::new(self.trace()?))?;
        let Some(opening) = challenger.allegation() else { return Ok(None) };
        let mut outcome = Game::start(claim, &opening)?;
        let mut played = Played {
            moves: 0,
            bytes: 0,
            largest: 0,
            referee_ms: 0.0,
            slowest_ms: 0.0,
            challenger_won: false,
        };
        loop {
            let game = match outcome {
                Outcome::Next(game) => game,
                Outcome::Won(party) => {
                    played.challenger_won = party == Party::Challenger;
                    return Ok(Some(played));
                }
            };
            let by = match game.turn() {
                Party::Challenger => challenger.respond(&game)?,
                Party::Node if Target { token: 0, ..game.target } == target => {
                    node.respond_with(&game, &tamper)?
                }
                Party::Node => node.respond(&game)?,
            };
            let (state, by) = (game.encode(), by.encode());
            let bytes = state.len() + by.len();
            played.moves += 1;
            played.bytes += bytes;
            played.largest = played.largest.max(bytes);
            // What a validator does.
            let began = Instant::now();
            outcome = Game::decode(&state)?.play(Move::decode(&by)?)?;
            if let Outcome::Next(next) = &outcome {
                let _ = next.encode();
            }
            let took = ms(began);
            played.referee_ms += took;
            played.slowest_ms = played.slowest_ms.max(took);
        }
    }
}

fn generate(engine: &Engine, prompt: &[u32], tokens: u32) -> anyhow::Result<(Vec<u32>, B256, f64)> {
    let (sender, receiver) = mpsc::channel();
    let on_event = Box::new(move |event| {
        if let Event::Done(done) = event {
            let _ = sender.send((done.tokens, done.trace_root));
        }
        ControlFlow::Continue(())
    });
    let began = Instant::now();
    let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::GREEDY };
    engine.submit(Job::new(prompt.to_vec(), sampling, tokens, on_event))?;
    let (tokens, root) = receiver.recv()?;
    Ok((tokens, root, ms(began)))
}

/// Runs all measurements.
pub(super) fn run(args: &BenchTrustArgs) -> anyhow::Result<()> {
    let model = load_model(args.model.as_deref())?;
    let vocabulary = model.tokenizer().vocabulary() as u32;
    let prompt: Vec<u32> = (0..args.prompt).map(|i| (i * 7919 + 13) % vocabulary).collect();
    let config = EngineConfig { prefix_cache: false, ..EngineConfig::default() };
    let engine = Engine::new(model.clone(), config)?;
    // A model may end its answer early; then the longest of some prompts counts.
    let mut best = generate(&engine, &prompt, args.tokens)?;
    let mut used = prompt.clone();
    for i in 1..20 {
        if best.0.len() >= args.tokens as usize {
            break;
        }
        let other: Vec<u32> = prompt.iter().map(|t| (t + i * 31) % vocabulary).collect();
        let found = generate(&engine, &other, args.tokens)?;
        if found.0.len() > best.0.len() {
            (best, used) = (found, other);
        }
    }
    let prompt = used;
    let mut times: Vec<f64> =
        (0..5).map(|_| generate(&engine, &prompt, args.tokens).map(|g| g.2)).collect::<Result<_, _>>()?;
    let (output, trace_root, _) = best;
    let generation_ms = median(&mut times);
    let nonce = B256::repeat_byte(9);
    let secret = keccak256("bench");
    let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::GREEDY };
    let claim = Claim {
        chain_id: 1,
        genesis: B256::ZERO,
        node: signing::address_of(&secret)?,
        model: model.id().0,
        request_hash: B256::ZERO,
        response_hash: B256::ZERO,
        prompt_hash: B256::ZERO,
        output_hash: B256::ZERO,
        prompt_tokens: prompt.len() as u32,
        completion_tokens: output.len() as u32,
        max_tokens: args.tokens,
        choices: 1,
        sampling,
        options: B256::ZERO,
        trace_root,
        price_input: 0,
        price_output: 0,
        price: 0,
        payer: Address::ZERO,
        anchor_number: 0,
        anchor_hash: B256::ZERO,
        time_ms: 0,
        arithmetic_class: ARITHMETIC_EXACT,
        arithmetic_version: kernels::ARITHMETIC_VERSION,
        rung_requested: Rung::Audited as u8,
        rung_achieved: Rung::Audited as u8,
    };
    let (request, response) = ("x".repeat(4 * prompt.len()), "y".repeat(4 * output.len()));
    let began = Instant::now();
    let rounds = 200;
    let mut sealed = None;
    for _ in 0..rounds {
        let mut claim = claim.clone();
        (claim.request_hash, claim.response_hash) =
            commit_bytes(&nonce, request.as_bytes(), response.as_bytes());
        claim.prompt_hash = commit_tokens(&nonce, Tokens::Prompt, &prompt);
        claim.output_hash = commit_tokens(&nonce, Tokens::Output, &output);
        let body = signing::sign(&secret, claim.digest())?.to_vec().into();
        sealed = Some(Receipt { claim, evidence: vec![Evidence { mode: Rung::Signed.mode(), body }] });
    }
    let receipt_ms = ms(began) / f64::from(rounds);
    let receipt = sealed.context("no receipt")?;
    let claim = receipt.claim.clone();
    let dir = tempfile::tempdir()?;
    let log = ReceiptLog::open(&dir.path().join("receipts.redb"))?;
    let (prompt_tokens, output_tokens) = (prompt.clone(), output.clone());
    let disclosure = Disclosure { nonce, request, response, prompt_tokens, output_tokens };
    let began = Instant::now();
    log.append(&receipt, &Kept { time_ms: 0, disclose: Disclose::None, disclosure }, None)?;
    let append_ms = ms(began);
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let found = replay(&model, &prompt, &output, Choosing::new(sampling))?;
        anyhow::ensure!(
            found.trace_root == trace_root && found.first_difference.is_none(),
            "the replay differs"
        );
        times.push(ms(began));
    }
    let audit_ms = median(&mut times);
    let answer = Answer { model: model.clone(), claim, nonce, prompt, output };
    let weights = TensorStore::open(&model)?;
    let mut games = Vec::new();
    let mut number = 0;
    while (games.len() as u64) < args.games {
        number += 1;
        let Some(game) = answer.dispute(&weights, number)? else { continue };
        anyhow::ensure!(game.challenger_won, "game {number} was lost by the honest party");
        games.push(game);
    }
    let of = |f: &dyn Fn(&Played) -> f64| {
        let mut values: Vec<f64> = games.iter().map(f).collect();
        let middle = median(&mut values);
        json!({"median": middle, "max": values.last()})
    };
    let report = json!({
        "model": model.manifest().name,
        "prompt_tokens": answer.prompt.len(),
        "generated_tokens": answer.output.len(),
        "generation_ms": generation_ms,
        "receipt": {"bytes": receipt.encode().len(), "make_ms": receipt_ms, "log_ms": append_ms,
            "make_part": receipt_ms / generation_ms},
        "audit": {"ms": audit_ms, "part": audit_ms / generation_ms},
        "dispute": {
            "games": games.len(),
            "moves": of(&|g| g.moves as f64),
            "bytes": of(&|g| g.bytes as f64),
            "largest_move_bytes": of(&|g| g.largest as f64),
            "referee_ms": of(&|g| g.referee_ms),
            "slowest_move_ms": of(&|g| g.slowest_ms),
        },
    });
    if args.json {
        outln!("{report:#}");
    } else {
        show(&report);
    }
    Ok(())
}

fn show(r: &Value) {
    let n = |v: &Value| v.as_f64().unwrap_or_default();
    outln!(
        "{}: {} prompt and {} generated tokens in {:.1} ms",
        r["model"].as_str().unwrap_or_default(),
        r["prompt_tokens"],
        r["generated_tokens"],
        n(&r["generation_ms"])
    );
    let receipt = &r["receipt"];
    outln!(
        "receipt  {} bytes; made in {:.3} ms ({:.2} % of the answer's time); logged and on disk in {:.2} ms",
        receipt["bytes"],
        n(&receipt["make_ms"]),
        100.0 * n(&receipt["make_part"]),
        n(&receipt["log_ms"])
    );
    outln!(
        "audit    {:.1} ms ({:.1} % of the answer's time)",
        n(&r["audit"]["ms"]),
        100.0 * n(&r["audit"]["part"])
    );
    let d = &r["dispute"];
    outln!(
        "dispute  {} games with one wrong element each, all won by the honest party; median / most:",
        d["games"]
    );
    for (name, key) in [
        ("moves", "moves"),
        ("bytes of call data in all", "bytes"),
        ("bytes of the largest move", "largest_move_bytes"),
        ("milliseconds of a validator in all", "referee_ms"),
        ("milliseconds of the slowest move", "slowest_move_ms"),
    ] {
        outln!("  {name:<36} {:>10.2} {:>10.2}", n(&d[key]["median"]), n(&d[key]["max"]));
    }
}
