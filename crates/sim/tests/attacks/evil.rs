//! A node that lies, made from the same parts as an honest one.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent as _};
use api::ports::*;
use async_trait::async_trait;
use client::{
    RpcClient,
    contracts::{Disputes, ModelRegistry, NodeRegistry, ReceiptLog},
};
use engine::{
    Choosing, Engine, EngineConfig, Event, Job, Model,
    dispute::{Dispute, Player, Replayed, TensorStore},
};
use referee::{Game, OpKind, Party, Phase, Program, Shape, TargetKind};
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
use types::*;
use wallet::{Account, Call, Config, Wallet};

/// What a node does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lie {
    /// Nothing: the control.
    Honest,
    /// Other weights answer than the claim names.
    OtherWeights,
    /// Tokens are drawn with another seed than the claim names. It defends itself in every move.
    OtherSeed,
    /// An old answer is given again for another seed.
    CachedAnswer,
    /// The first half of the prompt is left out.
    TruncatedContext,
    /// The text that is sent is not what the tokens say.
    EditedText,
    /// More prompt tokens are counted than there are, and the price follows.
    OverchargedTokens,
    /// The price is more than tokens times prices.
    WrongPrice,
    /// The trace is random; the tokens are right.
    InventedTrace,
    /// Nothing is shown to auditors.
    Withheld,
}

struct Entry {
    receipt: Receipt,
    disclosure: Disclosure,
    /// Tokens that were really fed, for the defence.
    claim_prompt: Vec<u32>,
}

struct State {
    log: merkle::Log,
    entries: Vec<Entry>,
    cache: Option<Vec<u32>>,
}

pub(crate) struct Evil {
    lie: Lie,
    secret: B256,
    pub(crate) address: Address,
    chain_id: u64,
    genesis: B256,
    /// What it says it serves.
    model: Arc<Model>,
    /// What it runs.
    engine: Engine,
    rpc: RpcClient,
    wallet: Wallet,
    contracts: SystemContracts,
    state: Arc<Mutex<State>>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The model with a few weights changed, under the same name.
fn other_weights(gguf: &[u8]) -> Arc<Model> {
    let mut bytes = gguf.to_vec();
    let n = bytes.len();
    // Inside the data of the last tensors; single bits of int8 values.
    for i in (n * 3 / 4..n).step_by(97) {
        bytes[i] ^= 0x10;
    }
    Model::parse(&bytes).or_else(|_| Model::parse(gguf)).unwrap()
}

impl Evil {
    /// Registers with the default model and serves.
    pub(crate) async fn start(lie: Lie, secret: B256, rpc_url: &str, gguf: &[u8]) -> (Arc<Self>, String) {
        let rpc = RpcClient::new(rpc_url);
        let info = rpc.network().await.unwrap();
        let model = Model::parse(gguf).unwrap();
        let runs = if lie == Lie::OtherWeights { other_weights(gguf) } else { model.clone() };
        let engine = Engine::new(runs, EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap();
        let config = Config::new(Account::new(secret).unwrap(), info.network.chain_id);
        let wallet = Wallet::open(config, Arc::new(rpc.clone())).unwrap();
        let listener = api::bind("127.0.0.1:0".parse().unwrap(), "evil node", "").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let contracts = info.network.contracts;
        let evil = Arc::new(Self {
            lie,
            secret,
            address: wallet.address(),
            wallet,
            chain_id: info.network.chain_id,
            genesis: keccak256(&info.genesis_header),
            model: model.clone(),
            engine,
            rpc,
            contracts,
            state: Arc::new(Mutex::new(State { log: merkle::Log::default(), entries: vec![], cache: None })),
        });
        let server = api::serve(listener, api::openai::router(evil.clone())).unwrap();
        tokio::spawn(async move {
            let _running = server;
            std::future::pending::<()>().await;
        });
        let stake = U256::from(100u128 * 1_000_000_000_000_000_000);
        evil.send(contracts.node_registry, stake, NodeRegistry::registerCall { endpoint: url.clone() }).await;
        let model_id = model.id().0;
        if !evil
            .rpc
            .view(contracts.model_registry, &ModelRegistry::existsCall { modelId: model_id })
            .await
            .unwrap()
        {
            let manifest = model.manifest().encode().into();
            let call = ModelRegistry::publishCall { modelId: model_id, manifest, uri: String::new() };
            let fee =
                evil.rpc.view(contracts.model_registry, &ModelRegistry::PUBLISH_FEECall {}).await.unwrap();
            evil.send(contracts.model_registry, fee, call).await;
        }
        tokio::spawn(evil.clone().post_roots());
        tokio::spawn(evil.clone().defend());
        (evil, url)
    }

    async fn send(&self, to: Address, value: U256, call: impl SolCall) -> B256 {
        self.wallet.send(Call::new(to, call.abi_encode()).with_value(value)).await.unwrap().hash
    }

    async fn post_roots(self: Arc<Self>) {
        let mut posted = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (size, root) = {
                let state = self.state.lock().unwrap();
                (state.log.len(), state.log.root_at(state.log.len()).unwrap())
            };
            if size > posted {
                let call = ReceiptLog::appendCall { oldSize: posted, newSize: size, root };
                let call = Call::new(self.contracts.receipt_log, call.abi_encode());
                // It may have been thrown out by now.
                if self.wallet.send(call).await.is_ok() {
                    posted = size;
                }
            }
        }
    }

    /// Only [`Lie::OtherSeed`] and the honest one move in disputes: silence is another way to lose.
    async fn defend(self: Arc<Self>) {
        let mut next = 0;
        let mut players: HashMap<U256, (Player, Vec<Bytes>)> = HashMap::new();
        if !matches!(self.lie, Lie::OtherSeed | Lie::Honest) {
            return;
        }
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let Ok(head) = self.rpc.block_number().await else { continue };
            if head < next {
                continue;
            }
            let topics = [Disputes::Opened::SIGNATURE_HASH, Disputes::Moved::SIGNATURE_HASH];
            let Ok(logs) = self.rpc.logs(self.contracts.disputes, &topics, next.max(1), head).await else {
                continue;
            };
            next = head + 1;
            let mut due = Vec::new();
            for log in logs {
                if let Some(e) = log.decode::<Disputes::Opened>()
                    && e.node == self.address
                {
                    let claim = Game::decode(&e.state).unwrap().claim;
                    players.insert(e.id, (self.player(&claim), vec![]));
                    due.push((e.id, e.state, e.turn));
                } else if let Some(e) = log.decode::<Disputes::Moved>()
                    && players.contains_key(&e.id)
                {
                    due.push((e.id, e.state, e.turn));
                }
            }
            for (id, state, turn) in due {
                if turn != 1 {
                    continue;
                }
                let game = Game::decode(&state).unwrap();
                assert_eq!(game.turn(), Party::Node);
                let (player, _) = players.get_mut(&id).unwrap();
                let by = respond(player, &self.model, &game);
                let call = Disputes::moveCall { id, state, moved: by.encode().into() };
                let _ = self.wallet.send(Call::new(self.contracts.disputes, call.abi_encode())).await;
            }
        }
    }

    fn player(&self, claim: &Claim) -> Player {
        let state = self.state.lock().unwrap();
        let entry = state.entries.iter().find(|e| e.receipt.claim == *claim).unwrap();
        let (prompt, output) = (entry.claim_prompt.clone(), entry.disclosure.output_tokens.clone());
        let trace = Replayed::new(self.model.clone(), &prompt, &output).unwrap();
        Player::new(Dispute {
            model: self.model.clone(),
            weights: TensorStore::open(&self.model).unwrap(),
            claim: claim.clone(),
            nonce: entry.disclosure.nonce,
            prompt,
            output,
            options: None,
            masks: vec![],
            trace: Box::new(trace),
        })
    }

    /// Tokens of an answer by what it really runs.
    async fn tokens(&self, prompt: Vec<u32>, sampling: Sampling, max: u32) -> (Vec<u32>, B256) {
        let (sender, mut receiver) = mpsc::channel(1);
        let on_event = Box::new(move |event| {
            if let Event::Done(done) = event {
                let _ = sender.try_send((done.tokens, done.trace_root));
            }
            ControlFlow::Continue(())
        });
        self.engine.submit(Job::new(prompt, sampling, max, on_event)).unwrap();
        receiver.recv().await.unwrap()
    }
}

/// Plays on with the lie: where the chosen token is computed, the claimed one is written over it.
fn respond(player: &mut Player, model: &Model, game: &Game) -> referee::Move {
    let shape = Shape::new(model.manifest()).unwrap();
    let claim = &game.claim;
    let forged = move |target: referee::Target, token: u32| {
        let program =
            Program::new(shape.clone(), &target, claim.prompt_tokens as usize, claim.sampling, false);
        let last =
            program.ops.iter().position(|op| matches!(op.kind, OpKind::Token { .. })).unwrap_or(usize::MAX);
        move |vector: usize, _cell: usize, value: Result<Vec<u8>, referee::RefereeError>| {
            if vector == last { Ok(token.to_le_bytes().to_vec()) } else { value }
        }
    };
    let of_token = game.target.kind == TargetKind::Token
        && matches!(game.phase, Phase::Table | Phase::Cells | Phase::Chunk);
    match of_token {
        true => player.respond_with(game, &forged(game.target, game.target.token)).unwrap(),
        false => player.respond(game).unwrap(),
    }
}

struct Seals {
    evil: Arc<State2>,
    claim: Claim,
    nonce: B256,
    request: Bytes,
    prompt: Vec<u32>,
    output: Vec<u32>,
}

/// What sealing needs of the node.
struct State2 {
    lie: Lie,
    secret: B256,
    state: Arc<Mutex<State>>,
}

#[async_trait]
impl Sealer for Seals {
    async fn seal(mut self: Box<Self>, response: bytes::Bytes) -> Result<Seal, InferenceFault> {
        let (request_hash, response_hash) = commit_bytes(&self.nonce, &self.request, &response);
        (self.claim.request_hash, self.claim.response_hash) = (request_hash, response_hash);
        if self.evil.lie == Lie::InventedTrace {
            self.claim.trace_root = keccak256(b"whatever");
        }
        let mut evidence = vec![Evidence {
            mode: Rung::Signed.mode(),
            body: signing::sign(&self.evil.secret, self.claim.digest()).unwrap().to_vec().into(),
        }];
        evidence.push(audited::pending(&self.claim));
        let receipt = Receipt { claim: self.claim, evidence };
        let disclosure = Disclosure {
            nonce: self.nonce,
            request: String::from_utf8(self.request.to_vec()).unwrap(),
            response: String::from_utf8(response.to_vec()).unwrap(),
            prompt_tokens: self.prompt.clone(),
            output_tokens: self.output.clone(),
        };
        let mut state = self.evil.state.lock().unwrap();
        state.log.push(merkle::leaf_hash(&receipt.log_leaf().unwrap()));
        let bytes = receipt.encode().into();
        state.entries.push(Entry { receipt, disclosure, claim_prompt: self.prompt.clone() });
        Ok(Seal { receipt: bytes, prompt_tokens: self.prompt, output_tokens: self.output })
    }
}

#[async_trait]
impl Inference for Evil {
    fn info(&self) -> NodeInfo {
        NodeInfo { node: self.address, chain_id: self.chain_id, genesis: self.genesis, models: vec![] }
    }

    async fn generate(&self, job: GenerateJob, ticket: Ticket) -> Result<Started, InferenceFault> {
        let Input::Tokens(asked) = &job.input else { panic!("the tests ask with tokens") };
        let mut prompt = asked.clone();
        if self.lie == Lie::TruncatedContext {
            prompt.drain(..asked.len() / 2);
        }
        let (claimed, max) = (job.sampling, job.max_tokens.unwrap());
        let mut used = claimed;
        if self.lie == Lie::OtherSeed {
            used.seed ^= 0xffff;
        }
        let (mut tokens, mut trace_root) = self.tokens(prompt.clone(), used, max).await;
        if self.lie == Lie::CachedAnswer {
            let cached = self.state.lock().unwrap().cache.get_or_insert(tokens.clone()).clone();
            if cached != tokens {
                let found = engine::replay(&self.model, &prompt, &cached, Choosing::new(claimed)).unwrap();
                assert!(found.first_difference.is_some());
                let trace = Replayed::new(self.model.clone(), &prompt, &cached).unwrap();
                use engine::dispute::Trace as _;
                let leaves: Vec<B256> = trace.leaves().iter().map(|l| merkle::leaf_hash(l)).collect();
                (tokens, trace_root) = (cached, merkle::root(&leaves));
            }
        }
        let nonce = ticket.nonce.unwrap();
        let mut prompt_tokens = prompt.len() as u32;
        if self.lie == Lie::OverchargedTokens {
            prompt_tokens += 5;
        }
        let time_ms = now_ms();
        let anchor = self.rpc.finalized().await.unwrap();
        let mut claim = Claim {
            chain_id: self.chain_id,
            genesis: self.genesis,
            node: self.address,
            model: self.model.id().0,
            request_hash: B256::ZERO,
            response_hash: B256::ZERO,
            prompt_hash: commit_tokens(&nonce, Tokens::Prompt, &prompt),
            output_hash: commit_tokens(&nonce, Tokens::Output, &tokens),
            prompt_tokens,
            completion_tokens: tokens.len() as u32,
            max_tokens: max,
            choices: 1,
            sampling: claimed,
            options: B256::ZERO,
            trace_root,
            price_input: 10,
            price_output: 20,
            price: 0,
            payer: Address::ZERO,
            anchor_number: anchor.number,
            anchor_hash: anchor.hash,
            time_ms,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: self.model.manifest().arithmetic_version,
            rung_requested: Rung::Audited as u8,
            rung_achieved: Rung::Audited as u8,
        };
        claim.price = claim.computed_price().unwrap();
        if self.lie == Lie::WrongPrice {
            claim.price += 1;
        }
        let (texts, ended) = self.model.texts(&tokens, &[]);
        let (sender, events) = mpsc::channel(texts.len() + 2);
        for (i, text) in texts.into_iter().enumerate() {
            let text = if self.lie == Lie::EditedText && i == 0 { format!("Buy now! {text}") } else { text };
            sender.try_send(GenerateEvent::Token { choice: 0, text, logprob: None }).unwrap();
        }
        let finish = if ended { Finish::Stop } else { Finish::Length };
        let completion_tokens = tokens.len() as u32;
        sender.try_send(GenerateEvent::Done { choice: 0, finish, completion_tokens }).unwrap();
        let request_hash = Claim::request_commitment(&nonce, &ticket.raw_request);
        let evil = State2 { lie: self.lie, secret: self.secret, state: self.state.clone() };
        Ok(Started {
            receipt_id: Claim::receipt_id_of(self.chain_id, self.genesis, self.address, request_hash),
            nonce,
            rung: Rung::Audited,
            node: self.address,
            model: self.model.manifest().name.clone(),
            model_id: self.model.id(),
            price_input: 10,
            price_output: 20,
            prompt_tokens,
            time_ms,
            arithmetic_version: self.model.manifest().arithmetic_version,
            events,
            sealer: Box::new(Seals {
                evil: Arc::new(evil),
                claim,
                nonce,
                request: ticket.raw_request.into(),
                prompt,
                output: tokens,
            }),
        })
    }

    async fn embed(
        &self,
        _: String,
        _: Vec<Input>,
        _: Ticket,
    ) -> Result<(Embedded, Started), InferenceFault> {
        Err(InferenceFault::Draining)
    }
    fn tokenize(&self, _: &str) -> Result<Vec<u32>, InferenceFault> {
        Err(InferenceFault::Draining)
    }
    fn detokenize(&self, _: &[u32]) -> Result<String, InferenceFault> {
        Err(InferenceFault::Draining)
    }
    fn load(&self) -> Load {
        Load::default()
    }
    fn receipt(&self, _: ReceiptId) -> Result<Option<(Receipt, u64)>, InferenceFault> {
        Ok(None)
    }

    async fn show(
        &self,
        index: u64,
        _: u64,
        _: Option<AuditorPass>,
    ) -> Result<Option<Shown>, InferenceFault> {
        if self.lie == Lie::Withheld {
            return Err(InferenceFault::Draining);
        }
        let state = self.state.lock().unwrap();
        Ok(state.entries.get(index as usize).map(|e| Shown {
            receipt: e.receipt.clone(),
            disclose: Disclose::Public,
            disclosure: Some(e.disclosure.clone()),
        }))
    }

    async fn pay(&self, _: Payment) -> Result<(), InferenceFault> {
        Ok(())
    }
    fn checkpoint(&self) -> LogCheckpoint {
        LogCheckpoint { size: 0, root: B256::ZERO, posted_size: 0 }
    }
    fn inclusion(&self, index: u64, size: u64) -> Option<LogProof> {
        let path = self.state.lock().unwrap().log.path_at(index, size)?;
        Some(LogProof { index, size, path })
    }
}
