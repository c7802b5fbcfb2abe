//! `og verify --replay`: the whole way from request bytes to response text, computed again on this machine.

use crate::inference::chat_messages;
use api::openai::ChatRequest;
use engine::{Choosing, Model};
use serde_json::Value;
use std::path::Path;
use types::{Claim, ProofFile, Sampling};

/// Checks that the request gives the prompt tokens and sampling parameters of the receipt, that the model gives the claimed tokens
/// and trace, bit for bit, and that those tokens give the response's text.
pub(crate) fn replay(bytes: &[u8], model: Option<&Path>) -> Result<String, String> {
    let file = ProofFile::decode(bytes).map_err(|e| e.to_string())?;
    let (claim, disclosed) = (&file.receipt.claim, &file.disclosure);
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
    let request = ChatRequest::read(disclosed.request.as_bytes())?;
    check_parameters(&request, claim)?;
    let prompt = model.chat_prompt(&chat_messages(&request.messages), claim.time_ms / 1000);
    if prompt.map_err(|e| e.to_string())? != disclosed.prompt_tokens {
        return Err("the node fed the model another prompt than the request gives".into());
    }
    let found = engine::replay(
        &model,
        &disclosed.prompt_tokens,
        &disclosed.output_tokens,
        Choosing::new(claim.sampling),
    );
    let found = found.map_err(|e| e.to_string())?;
    if let Some(i) = found.first_difference {
        return Err(format!(
            "this machine would have chosen another token at place {i}: the answer is false"
        ));
    }
    if found.trace_root != claim.trace_root {
        return Err("the trace differs: another computation was done".into());
    }
    let mut text = model.tokenizer().decode(&disclosed.output_tokens);
    if let Some(at) = request.stop.iter().filter_map(|s| text.find(s.as_str())).min() {
        text.truncate(at);
    }
    if response_text(&disclosed.response).as_deref() != Some(text.as_str()) {
        return Err("the text that was sent is not what the tokens say".into());
    }
    let n = disclosed.output_tokens.len();
    Ok(format!(
        "this machine computed the same prompt, the same {n} tokens, the same trace and the same text"
    ))
}

/// The receipt's parameters must be those that were asked for. What the client left open, the node may choose.
fn check_parameters(request: &ChatRequest, claim: &Claim) -> Result<(), String> {
    let asked = match request.seed_given {
        true => request.sampling,
        false => Sampling { seed: claim.sampling.seed, ..request.sampling },
    };
    if asked != claim.sampling {
        return Err("the node sampled with other parameters than the request asks for".into());
    }
    match request.max_tokens {
        Some(max) if claim.max_tokens > max => {
            Err("the node allowed itself more tokens than were asked for".into())
        }
        _ => Ok(()),
    }
}

/// The text of a JSON or streamed response.
fn response_text(response: &str) -> Option<String> {
    if !response.starts_with("data: ") {
        let body: Value = serde_json::from_str(response).ok()?;
        return body["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    }
    let chunks = response.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    chunks
        .filter(|data| *data != "[DONE]")
        .map(|data| {
            let chunk: Value = serde_json::from_str(data).ok()?;
            Some(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use engine::{ChatMessage, Engine, EngineConfig, Event, Job, Role};
    use serde_json::json;
    use std::{ops::ControlFlow, sync::mpsc};
    use types::{
        ARITHMETIC_EXACT, Address, B256, Bytes, Disclosure, Evidence, FinalityCertificate, FixedBytes,
        LedgerProof, LogProof, NetworkConfig, PROOF_FORMAT, Receipt, Rung, SystemContracts, ValidatorKey,
    };

    const QUESTION: &str = "Can I get a large latte with oat milk?";

    /// An honest answer of the built-in model. Only what a replay looks at is real.
    fn honest() -> ProofFile {
        let model = Model::embedded().unwrap();
        let sampling = Sampling { temperature: 0.8, seed: 5, ..Sampling::GREEDY };
        let message = ChatMessage { role: Role::User, content: QUESTION.into() };
        let prompt = model.chat_prompt(&[message], 0).unwrap();
        let engine = Engine::new(model.clone(), EngineConfig::default()).unwrap();
        let (sender, events) = mpsc::channel();
        let on_event = Box::new(move |e| {
            let _ = sender.send(e);
            ControlFlow::Continue(())
        });
        let stop = vec!["right".to_owned()];
        engine.submit(Job { stop, ..Job::new(prompt.clone(), sampling, 20, on_event) }).unwrap();
        let done = events.iter().find_map(|e| match e {
            Event::Done(done) => Some(done),
            _ => None,
        });
        let done = done.unwrap();
        let request = json!({
            "model": "taskmaster-chat", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0.8, "seed": 5,
            "max_tokens": 20, "stop": "right",
        });
        let response = json!({"choices": [{"message": {"content": done.text}}]});
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
            max_tokens: 20,
            sampling,
            trace_root: done.trace_root,
            price_input: 0,
            price_output: 0,
            price: 0,
            anchor_number: 0,
            anchor_hash: zero,
            time_ms: 0,
            arithmetic_class: ARITHMETIC_EXACT,
            arithmetic_version: 2,
            rung_requested: 1,
            rung_achieved: 1,
        };
        let signature = Evidence { mode: Rung::Signed.mode(), body: Bytes::from(vec![0; 65]) };
        let contracts = SystemContracts {
            model_registry: Address::ZERO,
            node_registry: Address::ZERO,
            receipt_log: Address::ZERO,
            wrapped_native: Address::ZERO,
        };
        let validator = ValidatorKey { peer: zero, vote: FixedBytes::ZERO, possession: FixedBytes::ZERO };
        ProofFile {
            format: PROOF_FORMAT.into(),
            receipt: Receipt { claim, evidence: vec![signature] },
            disclosure: Disclosure {
                nonce: zero,
                request: request.to_string(),
                response: response.to_string(),
                prompt_tokens: prompt,
                output_tokens: done.tokens,
            },
            manifest: model.manifest().clone(),
            log: LogProof { index: 0, size: 1, path: vec![] },
            ledger: LedgerProof {
                header: Bytes::new(),
                certificate: FinalityCertificate {
                    epoch: 0,
                    view: 0,
                    parent_view: 0,
                    block_hash: zero,
                    signers: Bytes::new(),
                    signature: FixedBytes::ZERO,
                },
                account_proof: vec![],
                storage_proof: vec![],
            },
            network: NetworkConfig {
                version: 1,
                chain_id: 7,
                block_time_ms: 1,
                contracts,
                validators: vec![validator],
            },
            genesis_header: Bytes::new(),
        }
    }

    #[test]
    fn a_replay_finds_every_way_to_compute_something_else() {
        let file = honest();
        let check = |file: &ProofFile| replay(&file.encode().unwrap(), None);
        assert!(check(&file).unwrap().contains("the same text"), "{:?}", check(&file));

        type Attack = (&'static str, fn(&mut ProofFile));
        let attacks: [Attack; 9] = [
            // A truncated context: cheaper to run, and invisible to whoever has no tokenizer.
            ("another prompt", |f| f.disclosure.prompt_tokens.truncate(4)),
            ("another prompt", |f| f.disclosure.request = f.disclosure.request.replace("latte", "mocha")),
            ("other parameters", |f| f.receipt.claim.sampling.seed += 1),
            ("other parameters", |f| f.receipt.claim.sampling.temperature = 0.5),
            ("more tokens", |f| f.receipt.claim.max_tokens = 21),
            ("another token at place 2", |f| f.disclosure.output_tokens[2] ^= 1),
            ("trace differs", |f| f.receipt.claim.trace_root = B256::ZERO),
            ("the text", |f| {
                f.disclosure.response = f.disclosure.response.replacen("content\":\"", "content\":\"No. ", 1)
            }),
            ("this is model", |f| f.receipt.claim.model = B256::ZERO),
        ];
        for (words, change) in attacks {
            let mut lie = file.clone();
            change(&mut lie);
            let found = check(&lie).expect_err(words);
            assert!(found.contains(words), "{words}: {found}");
        }
    }
}
