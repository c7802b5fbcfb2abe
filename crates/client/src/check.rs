//! The checks of one answer, in plain words. The proxy and the proof-file checker run the same ones.

use serde::Serialize;
use serde_json::Value;
use types::{
    ARITHMETIC_EXACT, Claim, Disclosure, ModelManifest, Receipt, Rung, Tokens, commit_bytes, commit_tokens,
};
use verify::{Anchors, Context, Registry};

/// Work that a client spends on one receipt's evidence.
const WORK_MAX: u64 = 1 << 20;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Nothing was checked; the detail says what is trusted instead.
    Note,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Short name.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in a sentence.
    pub detail: String,
}

/// A list of checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    /// Records a check: `Ok` is what was found, `Err` what is wrong.
    pub fn record(&mut self, name: &'static str, result: Result<String, String>) {
        let (outcome, detail) = match result {
            Ok(detail) => (Outcome::Pass, detail),
            Err(detail) => (Outcome::Fail, detail),
        };
        self.0.push(Check { name, outcome, detail });
    }

    /// Records what is trusted without a check.
    pub fn note(&mut self, name: &'static str, detail: String) {
        self.0.push(Check { name, outcome: Outcome::Note, detail });
    }

    /// True when at least one check was made and none failed.
    pub fn ok(&self) -> bool {
        self.0.iter().any(|c| c.outcome == Outcome::Pass) && self.first_failure().is_none()
    }

    /// The first failed check.
    pub fn first_failure(&self) -> Option<&Check> {
        self.0.iter().find(|c| c.outcome == Outcome::Fail)
    }
}

fn ensure(ok: bool, good: impl Into<String>, bad: impl Into<String>) -> Result<String, String> {
    if ok { Ok(good.into()) } else { Err(bad.into()) }
}

/// What whoever checks an answer knows besides the receipt: the anchors of all modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    audit: Option<&'static [u8]>,
    agreeing: Option<[u8; 1]>,
}

impl Known {
    /// For an answer that was given just now.
    pub fn now() -> Self {
        Self::audited(audited::PENDING)
    }

    /// What the ledger says about an audited answer: a value of [`audited::STATE`].
    pub fn audited(state: &'static [u8]) -> Self {
        Self { audit: Some(state), agreeing: None }
    }

    /// Fewest nodes that must agree on a replicated answer.
    pub fn agreeing(self, nodes: u8) -> Self {
        Self { agreeing: Some([nodes]), ..self }
    }
}

impl Anchors for Known {
    fn get(&self, key: &str) -> Option<&[u8]> {
        match key {
            audited::STATE => self.audit,
            replicated::ANCHOR => self.agreeing.as_ref().map(<[u8; 1]>::as_slice),
            _ => None,
        }
    }
}

/// Checks everything about a receipt that needs neither network nor ledger.
pub fn check_answer(
    checks: &mut Checks,
    registry: &Registry,
    receipt: &Receipt,
    disclosure: &Disclosure,
    manifest: &ModelManifest,
    anchors: &dyn Anchors,
) {
    let claim = &receipt.claim;
    let context = Context { now_ms: claim.time_ms, anchors, work_max: WORK_MAX };
    let findings = registry.check_receipt(receipt, &context);
    checks.record(
        "signature",
        findings
            .map_err(|e| e.to_string())
            .map(|found| found.iter().map(|f| f.summary.clone()).collect::<Vec<_>>().join("; ")),
    );
    checks.record("assurance", assurance(claim));
    check_disclosure(checks, claim, disclosure, manifest);
}

/// Checks what the disclosure opens, and what the claim says of it; not who signed, nor what backs it.
pub fn check_disclosure(
    checks: &mut Checks,
    claim: &Claim,
    disclosure: &Disclosure,
    manifest: &ModelManifest,
) {
    let nonce = &disclosure.nonce;
    let (request, response) =
        commit_bytes(nonce, disclosure.request.as_bytes(), disclosure.response.as_bytes());
    let bytes = |what: &str, n: usize| format!("the receipt commits to these {n} bytes of the {what}");
    checks.record(
        "request",
        ensure(
            request == claim.request_hash,
            bytes("request", disclosure.request.len()),
            "the receipt is about another request",
        ),
    );
    checks.record(
        "response",
        ensure(
            response == claim.response_hash,
            bytes("response", disclosure.response.len()),
            "the receipt is about another response",
        ),
    );
    checks.record("tokens", tokens(claim, disclosure));
    checks.record("model", model(claim, disclosure, manifest));
    checks.record("answer", answer(claim, &disclosure.response));
    checks.record("price", price(claim));
}

fn assurance(claim: &Claim) -> Result<String, String> {
    let name = |n: u8| Rung::try_from(n).map(Rung::name).map_err(|()| format!("unknown rung {n}"));
    let (asked, reached) = (name(claim.rung_requested)?, name(claim.rung_achieved)?);
    ensure(
        asked == reached,
        format!("asked for `{asked}`, reached `{reached}`"),
        format!("asked for `{asked}`, got `{reached}`"),
    )
}

/// Separates the answers of one request, and the texts of a request for embeddings; no token has this id.
const SEPARATOR: u32 = u32::MAX;

fn tokens(claim: &Claim, d: &Disclosure) -> Result<String, String> {
    let count = |list: &[u32]| list.iter().filter(|t| **t != SEPARATOR).count() as u64;
    let counts = (count(&d.prompt_tokens), count(&d.output_tokens));
    if counts != (u64::from(claim.prompt_tokens), u64::from(claim.completion_tokens)) {
        return Err("the token counts differ from the receipt's".into());
    }
    let prompt = commit_tokens(&d.nonce, Tokens::Prompt, &d.prompt_tokens) == claim.prompt_hash;
    let output = commit_tokens(&d.nonce, Tokens::Output, &d.output_tokens) == claim.output_hash;
    ensure(
        prompt && output && claim.completion_tokens <= claim.max_tokens,
        format!("{} prompt and {} generated token ids are those of the receipt", counts.0, counts.1),
        "the token ids are not those of the receipt",
    )
}

fn model(claim: &Claim, d: &Disclosure, manifest: &ModelManifest) -> Result<String, String> {
    let id = manifest.id();
    if id.0 != claim.model {
        return Err(format!("the manifest hashes to {id}, but the receipt names {}", claim.model));
    }
    let exact = claim.arithmetic_class == ARITHMETIC_EXACT;
    if !exact || claim.arithmetic_version != manifest.arithmetic_version {
        return Err("the receipt names another arithmetic than the model".into());
    }
    let known = |t: &u32| *t < manifest.vocab_size || *t == SEPARATOR;
    if !d.prompt_tokens.iter().chain(&d.output_tokens).all(known) {
        return Err("a token id is not in the model's vocabulary".into());
    }
    let request: Value =
        serde_json::from_str(&d.request).map_err(|e| format!("the request is not JSON: {e}"))?;
    let asked = request["model"].as_str().unwrap_or_default();
    ensure(
        asked == manifest.name || asked == id.to_string(),
        format!("{} ({id}), exact arithmetic v{}", manifest.name, manifest.arithmetic_version),
        format!("the request asks for `{asked}`, but `{}` answered", manifest.name),
    )
}

/// The parts of a response that the receipt also speaks of.
fn answer(claim: &Claim, response: &str) -> Result<String, String> {
    let usage = if response.starts_with("data: ") {
        stream_usage(response)?
    } else if response.starts_with("event: ") {
        Some(events_usage(response)?)
    } else {
        let body: Value =
            serde_json::from_str(response).map_err(|e| format!("the response is not JSON: {e}"))?;
        Some(body["usage"].clone())
    };
    if let Some(usage) = usage {
        // `/v1/responses` has other names, and embeddings generate nothing.
        let prompt = usage["prompt_tokens"].as_u64().or(usage["input_tokens"].as_u64());
        let completion = usage["completion_tokens"].as_u64().or(usage["output_tokens"].as_u64());
        let total = usage["total_tokens"].as_u64();
        let expected = (u64::from(claim.prompt_tokens), u64::from(claim.completion_tokens));
        let sum = Some(expected.0 + expected.1);
        if (prompt, completion.unwrap_or(0)) != (Some(expected.0), expected.1) || total != sum {
            return Err("the usage in the response differs from the receipt's token counts".into());
        }
    }
    Ok("the response is complete and its usage agrees with the receipt".into())
}

/// Clients take a carriage return for the end of a line, too: with one in it, a stream has other events for them than are checked here.
fn no_other_lines(response: &str) -> Result<(), String> {
    match response.contains('\r') {
        true => Err("the stream holds a carriage return".into()),
        false => Ok(()),
    }
}

/// Usage in a stream of chunks, when it was asked for.
fn stream_usage(response: &str) -> Result<Option<Value>, String> {
    no_other_lines(response)?;
    let body = response.strip_suffix("data: [DONE]\n\n").ok_or("the stream does not end in [DONE]")?;
    let mut usage = None;
    for event in body.split_terminator("\n\n") {
        let data = event.strip_prefix("data: ").ok_or("the stream holds something that is no data event")?;
        let chunk: Value = serde_json::from_str(data).map_err(|e| format!("a chunk is not JSON: {e}"))?;
        if !chunk["error"].is_null() {
            return Err("the stream holds an error".into());
        }
        if chunk["usage"].is_object() {
            usage = Some(chunk["usage"].clone());
        }
    }
    Ok(usage)
}

/// Usage in a stream of named events (`/v1/responses`), which ends with the whole response.
fn events_usage(response: &str) -> Result<Value, String> {
    no_other_lines(response)?;
    let mut last = Value::Null;
    let body = response.strip_suffix("\n\n").ok_or("the stream is cut off")?;
    for event in body.split("\n\n") {
        let (name, data) = event
            .strip_prefix("event: ")
            .and_then(|e| e.split_once("\ndata: "))
            .ok_or("the stream holds something that is no named event")?;
        last = serde_json::from_str(data).map_err(|e| format!("an event is not JSON: {e}"))?;
        if last["type"] != name {
            return Err("an event's name and type differ".into());
        }
    }
    match last["type"].as_str() {
        Some("response.completed" | "response.incomplete") => Ok(last["response"]["usage"].clone()),
        _ => Err("the stream does not end with the whole response".into()),
    }
}

fn price(claim: &Claim) -> Result<String, String> {
    let computed = claim.computed_price();
    ensure(
        computed == Some(claim.price),
        format!(
            "{} wei = {} x {} + {} x {}",
            claim.price, claim.prompt_tokens, claim.price_input, claim.completion_tokens, claim.price_output
        ),
        "the price is not token counts times prices",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_finds_its_anchor() {
        let known = Known::now().agreeing(3);
        assert_eq!(known.get(audited::STATE), Some(audited::PENDING));
        assert_eq!(known.get(replicated::ANCHOR), Some(&[3][..]));
        assert_eq!(known.get("other"), None);
        assert_eq!(Known::audited(audited::RERUN).get(audited::STATE), Some(audited::RERUN));
        assert_eq!(Known::now().get(replicated::ANCHOR), None);
        assert_eq!(Known::default().get(audited::STATE), None);
    }
}
