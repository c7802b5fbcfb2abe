//! `og verify --replay`: the whole way from request bytes to response text, computed again on this machine.

use crate::inference::{
    convert::{SEPARATOR, choosing, embedding_tokens, join, logprob, prompt},
    seal::{embedding_leaf, trace_root_of},
};
use api::{
    openai::{
        EmbeddingsRequest, Endpoint, GenerateRequest,
        render::{Meta, Render, renderer},
        render_embeddings,
    },
    ports::{Finish, TokenLogprob},
};
use engine::{Engine, EngineConfig, Model, replay_with_logprobs};
use serde_json::Value;
use std::{
    cmp::Ordering,
    path::Path,
    sync::{Arc, mpsc},
};
use types::{B256, Claim, Disclosure, Options, ProofFile, Sampling, merkle};

/// Why an answer is not what the request and the model give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Tokens or trace are not what the model computes: the referee decides.
    Computation(String),
    /// Prompt, parameters, counts or text do not follow from the request: a jury decides.
    Text(String),
}

impl Difference {
    pub(crate) fn words(self) -> String {
        match self {
            Self::Computation(words) | Self::Text(words) => words,
        }
    }
}

impl From<&str> for Difference {
    fn from(words: &str) -> Self {
        Self::Text(words.into())
    }
}

impl From<String> for Difference {
    fn from(words: String) -> Self {
        Self::Text(words)
    }
}

/// Checks a proof file's answer with a model from `model` or the built-in one.
pub(crate) fn replay(bytes: &[u8], model: Option<&Path>) -> Result<String, String> {
    let file = ProofFile::decode(bytes).map_err(|e| e.to_string())?;
    let claim = &file.receipt.claim;
    let model = match model {
        Some(path) => Model::open(path),
        None => Model::embedded(),
    };
    let model = model.map_err(|e| e.to_string())?;
    if model.id().0 != claim.model {
        return Err(format!(
            "this is model {}, but {} answered; name its file with --model",
            model.id(),
            claim.model
        ));
    }
    replay_answer(&model, claim, &file.disclosure).map_err(Difference::words)
}

/// Checks that the request gives the prompt tokens and parameters of the receipt, that the model gives the claimed tokens and
/// trace, bit for bit, and that rendering them gives the response, byte for byte.
pub(crate) fn replay_answer(
    model: &Arc<Model>,
    claim: &Claim,
    disclosed: &Disclosure,
) -> Result<String, Difference> {
    if is_embeddings(&disclosed.response) {
        return replay_embeddings(model, claim, disclosed);
    }
    let body = disclosed.request.as_bytes();
    let endpoint = Endpoint::of(body).ok_or("the request is for no endpoint that is known here")?;
    let request = GenerateRequest::read(endpoint, body)?;
    check_parameters(&request, claim, model.context_length())?;
    let expected = prompt(model, &request.job.input, claim.time_ms / 1000).map_err(|e| e.to_string())?;
    if expected != disclosed.prompt_tokens {
        return Err("the node fed the model another prompt than the request gives".into());
    }
    check_options(model, &request, claim, disclosed)?;
    let answers = answers(model, claim, disclosed, &request)?;
    let roots: Vec<B256> = answers.iter().map(|a| a.trace_root).collect();
    if trace_root_of(&roots) != claim.trace_root {
        return Err(Difference::Computation("the trace differs: another computation was done".into()));
    }
    let meta = Meta {
        receipt_id: claim.receipt_id(),
        created: claim.time_ms / 1000,
        model: model.manifest().name.clone(),
        fingerprint: Meta::fingerprint(claim.arithmetic_version, &model.id().to_string()),
        prompt_tokens: claim.prompt_tokens,
    };
    if !is_rendering(&mut *renderer(&request, meta), &request, &answers, &disclosed.response) {
        return Err("the text that was sent is not what the tokens say".into());
    }
    let n: usize = answers.iter().map(|a| a.texts.len()).sum();
    Ok(format!(
        "this machine computed the same prompt, the same {n} tokens, the same trace and the same text"
    ))
}

/// The claim names the number of answers, and commits to the biases and the grammar of the request.
fn check_options(
    model: &Model,
    request: &GenerateRequest,
    claim: &Claim,
    disclosed: &Disclosure,
) -> Result<(), Difference> {
    let grammar =
        choosing(model, &request.job, claim.sampling, 0).map_err(|e| e.to_string())?.constraint.is_some();
    let options = Options::new(&disclosed.nonce, &request.job.logit_bias, grammar);
    if claim.choices != request.job.n || claim.options != Options::commitment(options.as_ref()) {
        return Err("the receipt names other options than the request".into());
    }
    Ok(())
}

/// One answer as computed here.
struct Answer {
    /// Text of each token.
    texts: Vec<String>,
    logprobs: Vec<TokenLogprob>,
    finish: Finish,
    trace_root: B256,
}

/// Computes every answer again.
fn answers(
    model: &Model,
    claim: &Claim,
    disclosed: &Disclosure,
    request: &GenerateRequest,
) -> Result<Vec<Answer>, Difference> {
    let job = &request.job;
    let lists: Vec<&[u32]> = disclosed.output_tokens.split(|t| *t == SEPARATOR).collect();
    if lists.len() != job.n as usize {
        return Err(format!("{} answers were asked for, and {} are disclosed", job.n, lists.len()).into());
    }
    let most = claim.max_tokens / job.n;
    let mut answers = Vec::new();
    for (choice, tokens) in lists.into_iter().enumerate() {
        let by = choosing(model, job, claim.sampling, choice as u32).map_err(|e| e.to_string())?;
        let prompt = &disclosed.prompt_tokens;
        let found = replay_with_logprobs(model, prompt, tokens, by, job.top_logprobs);
        let found = found.map_err(|e| Difference::Computation(e.to_string()))?;
        if let Some(i) = found.first_difference {
            return Err(Difference::Computation(format!(
                "this machine would have chosen another token at place {i}: the answer is false"
            )));
        }
        let (texts, ended) = model.texts(tokens, &job.stop);
        if texts.len() != tokens.len() {
            return Err("the answer goes on behind its end".into());
        }
        if tokens.len() > most as usize {
            return Err("an answer is longer than was allowed".into());
        }
        if !ended && tokens.len() < most as usize {
            return Err(
                "the answer was cut short: neither its end nor the bound on tokens was reached".into()
            );
        }
        let logprobs = tokens.iter().zip(&found.logprobs).map(|(t, l)| logprob(model, *t, l)).collect();
        let finish = if ended { Finish::Stop } else { Finish::Length };
        answers.push(Answer { texts, logprobs, finish, trace_root: found.trace_root });
    }
    Ok(answers)
}

/// Whether the response is what rendering the answers gives. In a stream of several answers their events may come in any order.
fn is_rendering(
    render: &mut dyn Render,
    request: &GenerateRequest,
    answers: &[Answer],
    response: &str,
) -> bool {
    if !request.stream {
        for (choice, answer) in answers.iter().enumerate() {
            for i in 0..=answer.texts.len() {
                event(render, choice, answer, i);
            }
        }
        return render.body() == response;
    }
    let mut rest = response.as_bytes();
    let begin = render.begin();
    let Some(after) = rest.strip_prefix(&begin[..]) else { return false };
    rest = after;
    if let [answer] = answers {
        for i in 0..=answer.texts.len() {
            let bytes = event(render, 0, answer, i);
            let Some(after) = rest.strip_prefix(&bytes[..]) else { return false };
            rest = after;
        }
        return rest == &render.end()[..];
    }
    // Several: each event of the response must be the next one of some answer.
    let mut queues: Vec<_> = answers
        .iter()
        .enumerate()
        .map(|(choice, answer)| {
            let events = (0..=answer.texts.len()).map(|i| event(render, choice, answer, i));
            events.filter(|b| !b.is_empty()).collect::<std::collections::VecDeque<_>>()
        })
        .collect();
    while let Some(queue) = queues.iter_mut().find(|q| q.front().is_some_and(|bytes| rest.starts_with(bytes)))
    {
        if let Some(bytes) = queue.pop_front() {
            rest = &rest[bytes.len()..];
        }
    }
    queues.iter().all(std::collections::VecDeque::is_empty) && rest == &render.end()[..]
}

/// Renders token `i` of an answer, or its end behind the last one.
fn event(render: &mut dyn Render, choice: usize, answer: &Answer, i: usize) -> bytes::Bytes {
    match answer.texts.get(i) {
        Some(text) => render.token(choice as u32, text, answer.logprobs.get(i)),
        None => render.done(choice as u32, answer.finish, answer.texts.len() as u32),
    }
}

/// The receipt's parameters must be those that were asked for. What the client left open, the node may choose.
fn check_parameters(request: &GenerateRequest, claim: &Claim, context: usize) -> Result<(), String> {
    let job = &request.job;
    let asked = match job.seed_given {
        true => job.sampling,
        false => Sampling { seed: claim.sampling.seed, ..job.sampling },
    };
    if asked != claim.sampling {
        return Err("the node sampled with other parameters than the request asks for".into());
    }
    let Some(max) = job.max_tokens else { return Ok(()) };
    // The node must allow what was asked for, as far as the model's context goes.
    let room = (context as u64).saturating_sub(u64::from(claim.prompt_tokens));
    let expected = u64::from(max).min(room) * u64::from(job.n);
    match u64::from(claim.max_tokens).cmp(&expected) {
        Ordering::Greater => Err("the node allowed itself more tokens than were asked for".into()),
        Ordering::Less => Err("the node allowed the model fewer tokens than were asked for".into()),
        Ordering::Equal => Ok(()),
    }
}

/// Responses of `/v1/embeddings` are lists.
fn is_embeddings(response: &str) -> bool {
    serde_json::from_str::<Value>(response).is_ok_and(|r| r["object"] == "list")
}

fn replay_embeddings(
    model: &Arc<Model>,
    claim: &Claim,
    disclosed: &Disclosure,
) -> Result<String, Difference> {
    let request = EmbeddingsRequest::read(disclosed.request.as_bytes())?;
    let texts = request.inputs.iter().map(|i| embedding_tokens(model, i)).collect::<Result<Vec<_>, _>>();
    let texts = texts.map_err(|e| e.to_string())?;
    if join(&texts) != disclosed.prompt_tokens {
        return Err("the node fed the model other tokens than the request gives".into());
    }
    let engine = Engine::new(model.clone(), EngineConfig::default()).map_err(|e| e.to_string())?;
    let (sender, receiver) = mpsc::channel();
    let mut vectors = Vec::new();
    for tokens in texts {
        let sender = sender.clone();
        let reply = Box::new(move |vector| _ = sender.send(vector));
        engine.embed(tokens, reply).map_err(|e| e.to_string())?;
        vectors.push(receiver.recv().map_err(|e| e.to_string())?);
    }
    let leaves: Vec<B256> = vectors.iter().map(|v: &Vec<f32>| embedding_leaf(v)).collect();
    if merkle::root(&leaves) != claim.trace_root {
        return Err("the trace differs: other embeddings were computed".into());
    }
    let name = &model.manifest().name;
    if render_embeddings(&vectors, request.base64, name, claim.prompt_tokens) != disclosed.response {
        return Err("the embeddings that were sent are not those that were computed".into());
    }
    Ok(format!("this machine computed the same {} embeddings", vectors.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use engine::{Event, Job};
    use serde_json::json;
    use std::ops::ControlFlow;
    use types::{
        ARITHMETIC_EXACT, Address, Bytes, Evidence, FinalityCertificate, FixedBytes, LedgerProof, LogProof,
        NetworkConfig, PROOF_FORMAT, Receipt, Rung, SystemContracts, ValidatorKey,
    };

    const QUESTION: &str = "Can I get a large latte with oat milk?";

    /// An honest answer of the built-in model. Only what a replay looks at is real.
    fn honest(extra: Value) -> ProofFile {
        let mut request = json!({"model": "taskmaster-chat", "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0.8, "seed": 6, "max_tokens": 20, "stop": "right"});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let request = request.to_string();
        let parsed = GenerateRequest::read(Endpoint::Chat, request.as_bytes()).unwrap();
        let model = Model::embedded().unwrap();
        let sampling = parsed.job.sampling;
        let prompt = prompt(&model, &parsed.job.input, 0).unwrap();
        let engine = Engine::new(model.clone(), EngineConfig::default()).unwrap();
        let mut done = Vec::new();
        for choice in 0..parsed.job.n {
            let (sender, events) = mpsc::channel();
            let on_event = Box::new(move |e| {
                let _ = sender.send(e);
                ControlFlow::Continue(())
            });
            let by = choosing(&model, &parsed.job, sampling, choice).unwrap();
            let job = Job {
                stop: parsed.job.stop.clone(),
                choice,
                constraint: by.constraint,
                logit_bias: by.logit_bias,
                ..Job::new(prompt.clone(), sampling, 20, on_event)
            };
            engine.submit(job).unwrap();
            let found = events.iter().find_map(|e| match e {
                Event::Done(done) => Some(done),
                _ => None,
            });
            done.push(found.unwrap());
        }
        let grammar = choosing(&model, &parsed.job, sampling, 0).unwrap().constraint.is_some();
        let tokens: Vec<Vec<u32>> = done.iter().map(|d| d.tokens.clone()).collect();
        let roots: Vec<B256> = done.iter().map(|d| d.trace_root).collect();
        let zero = B256::ZERO;
        let claim = Claim {
            chain_id: 7,
            genesis: zero,
            node: Address::ZERO,
            model: model.id().0,
            request_hash: zero,
            response_hash: zero,
            prompt_hash: zero,
            output_hash: zero,
            prompt_tokens: 0,
            completion_tokens: 0,
            max_tokens: 20 * parsed.job.n,
            choices: parsed.job.n,
            sampling,
            options: Options::commitment(Options::new(&zero, &parsed.job.logit_bias, grammar).as_ref()),
            trace_root: trace_root_of(&roots),
            price_input: 0,
            price_output: 0,
            price: 0,
            payer: Address::ZERO,
            anchor_number: 0,
            anchor_hash: zero,
            time_ms: 0,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: 3,
            rung_requested: 1,
            rung_achieved: 1,
        };
        let signature = Evidence { mode: Rung::Signed.mode(), body: Bytes::from(vec![0; 65]) };
        let contracts = SystemContracts {
            model_registry: Address::ZERO,
            node_registry: Address::ZERO,
            receipt_log: Address::ZERO,
            wrapped_native: Address::ZERO,
            staking: Address::ZERO,
            ..SystemContracts::none()
        };
        let validator = ValidatorKey { peer: zero, vote: FixedBytes::ZERO, possession: FixedBytes::ZERO };
        let mut file = ProofFile {
            format: PROOF_FORMAT.into(),
            receipt: Receipt { claim, evidence: vec![signature] },
            disclosure: Disclosure {
                nonce: zero,
                request,
                response: String::new(),
                prompt_tokens: prompt,
                output_tokens: join(&tokens),
            },
            manifest: model.manifest().clone(),
            log: LogProof { index: 0, size: 1, path: vec![] },
            ledger: LedgerProof {
                header: Bytes::new(),
                handovers: vec![],
                checkpoint: None,
                certificate: Some(FinalityCertificate {
                    epoch: 0,
                    view: 0,
                    parent_view: 0,
                    block_hash: zero,
                    signers: Bytes::new(),
                    signature: FixedBytes::ZERO,
                }),
                account_proof: vec![],
                storage_proof: vec![],
                audit: None,
            },
            validators_root: None,
            network: NetworkConfig {
                version: types::NETWORK_VERSION,
                chain_id: 7,
                block_time_ms: 1,
                epoch_blocks: 10,
                window_seconds: 90,
                game_seconds: 600,
                unbonding_seconds: 7 * 24 * 3600,
                contracts,
                validators: vec![validator],
            },
            genesis_header: Bytes::new(),
        };
        // The response, as the server renders it; answers of a stream in turn.
        let claim = &file.receipt.claim;
        let answers = answers(&model, claim, &file.disclosure, &parsed).unwrap();
        let meta = Meta {
            receipt_id: claim.receipt_id(),
            created: 0,
            model: model.manifest().name.clone(),
            fingerprint: Meta::fingerprint(claim.arithmetic_version, &model.id().to_string()),
            prompt_tokens: 0,
        };
        let mut render = renderer(&parsed, meta);
        let mut out = render.begin().to_vec();
        for i in 0..=20 {
            for (choice, answer) in answers.iter().enumerate().filter(|(_, a)| i <= a.texts.len()) {
                out.extend_from_slice(&event(&mut *render, choice, answer, i));
            }
        }
        out.extend_from_slice(&render.end());
        file.disclosure.response =
            if parsed.stream { String::from_utf8(out).unwrap() } else { render.body() };
        file
    }

    #[test]
    fn a_replay_finds_every_way_to_compute_something_else() {
        let file = honest(json!({}));
        let check = |file: &ProofFile| replay(&file.encode().unwrap(), None);
        assert!(check(&file).unwrap().contains("the same text"), "{:?}", check(&file));

        type Attack = (&'static str, fn(&mut ProofFile));
        let attacks: [Attack; 13] = [
            // A truncated context: cheaper to run, and invisible to whoever has no tokenizer.
            ("another prompt", |f| f.disclosure.prompt_tokens.truncate(4)),
            ("another prompt", |f| f.disclosure.request = f.disclosure.request.replace("latte", "mocha")),
            ("other parameters", |f| f.receipt.claim.sampling.seed += 1),
            ("other parameters", |f| f.receipt.claim.sampling.temperature = 0.5),
            ("more tokens", |f| f.receipt.claim.max_tokens = 21),
            ("fewer tokens", |f| f.receipt.claim.max_tokens = 5),
            ("another token at place 2", |f| f.disclosure.output_tokens[2] ^= 1),
            ("trace differs", |f| f.receipt.claim.trace_root = B256::ZERO),
            ("the text", |f| {
                f.disclosure.response = f.disclosure.response.replacen("content\":\"", "content\":\"No. ", 1)
            }),
            ("the text", |f| f.disclosure.response = f.disclosure.response.replacen("stop", "length", 1)),
            ("2 are disclosed", |f| f.disclosure.output_tokens.push(SEPARATOR)),
            ("cut short", |f| f.disclosure.output_tokens.truncate(3)),
            ("this is model", |f| f.receipt.claim.model = B256::ZERO),
        ];
        for (words, change) in attacks {
            let mut lie = file.clone();
            change(&mut lie);
            let found = check(&lie).expect_err(words);
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn streams_several_answers_log_probabilities_and_forms_replay() {
        for extra in [
            json!({"stream": true}),
            json!({"stream": true, "n": 3, "stream_options": {"include_usage": true}}),
            json!({"n": 2, "logprobs": true, "top_logprobs": 3, "logit_bias": {"700": 4}}),
            json!({"stream": true, "logprobs": true}),
            json!({"response_format": {"type": "json_object"}, "stop": null}),
            json!({"tools": [{"type": "function", "function": {"name": "order"}}], "tool_choice": "required", "stream": true,
                "stop": null}),
        ] {
            let mut file = honest(extra.clone());
            let found = replay(&file.encode().unwrap(), None);
            assert!(found.as_ref().is_ok_and(|f| f.contains("the same text")), "{extra}: {found:?}");
            // One changed digit of a log-probability, or letter of the text, shows.
            let at = file.disclosure.response.rfind("content").unwrap_or(0);
            let tail = file.disclosure.response.split_off(at).replacen("a", "b", 1).replacen("1", "2", 1);
            file.disclosure.response.push_str(&tail);
            assert!(replay(&file.encode().unwrap(), None).is_err(), "{extra}");
        }
    }
}
