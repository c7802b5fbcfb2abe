//! What `og chat` needs: one streamed question through a proxy, checked once more in this process.

use crate::{
    ClientError,
    check::{Check, Checks, Known, check_answer},
    proxy::Answered,
    rpc::{read_bounded, unreachable_at},
};
use serde_json::Value;
use types::{ModelManifest, Receipt, Rung};

/// Longest stream (16 MiB).
const STREAM_BYTES_MAX: usize = 16 << 20;

/// What is asked of an answer besides its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The assurance; the proxy's usual one when absent.
    pub assurance: Option<Rung>,
    /// Nodes that answer when it is `replicated`; the proxy's usual number when absent.
    pub replicas: Option<u8>,
}

/// What was verified about a finished answer.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The proxy's summary, after this process has checked the same receipt.
    pub summary: Value,
    /// Each check.
    pub checks: Checks,
}

/// Models that the proxy offers.
///
/// # Errors
/// [`ClientError`] when the proxy cannot be reached.
pub async fn models(proxy: &str) -> Result<Vec<String>, ClientError> {
    let url = format!("{proxy}/v1/models");
    let body: Value = get(&url).await?;
    let list = body["data"].as_array().cloned().unwrap_or_default();
    Ok(list.iter().filter_map(|m| m["id"].as_str().map(str::to_owned)).collect())
}

/// GETs JSON from the proxy.
///
/// # Errors
/// [`ClientError`] when it cannot be reached or refuses; the message is the proxy's own.
pub async fn get(url: &str) -> Result<Value, ClientError> {
    let response = reqwest::get(url).await.map_err(|e| unreachable_at(url, &e))?;
    let ok = response.status().is_success();
    let body = read_bounded(url, response, STREAM_BYTES_MAX).await?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|e| ClientError::Malformed { url: url.into(), reason: e.to_string() })?;
    if ok { Ok(value) } else { Err(refusal(url, &value)) }
}

/// GETs bytes from the proxy.
///
/// # Errors
/// As [`get`].
pub async fn get_bytes(url: &str) -> Result<Vec<u8>, ClientError> {
    let response = reqwest::get(url).await.map_err(|e| unreachable_at(url, &e))?;
    let ok = response.status().is_success();
    let body = read_bounded(url, response, types::limits::PROOF_BYTES_MAX).await?;
    if ok { Ok(body) } else { Err(refusal(url, &serde_json::from_slice(&body).unwrap_or_default())) }
}

fn refusal(url: &str, body: &Value) -> ClientError {
    let reason = body["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
    ClientError::Malformed { url: url.into(), reason }
}

/// Asks `request` (a chat request with `"stream": true`) and calls `on_text` for every piece of text.
///
/// # Errors
/// [`ClientError`]; text that was passed on before an error is not verified.
pub async fn ask(
    proxy: &str,
    request: &Value,
    wanted: Wanted,
    mut on_text: impl FnMut(&str),
) -> Result<Verified, ClientError> {
    let url = format!("{proxy}/v1/chat/completions");
    let mut asking = reqwest::Client::new().post(&url).json(request);
    if let Some(rung) = wanted.assurance {
        asking = asking.header("og-assurance", rung.name());
    }
    if let Some(replicas) = wanted.replicas {
        asking = asking.header("og-replicas", replicas.to_string());
    }
    let mut response = asking.send().await.map_err(|e| unreachable_at(&url, &e))?;
    if !response.status().is_success() {
        let body = read_bounded(&url, response, STREAM_BYTES_MAX).await?;
        return Err(refusal(&url, &serde_json::from_slice(&body).unwrap_or_default()));
    }
    let mut splitter = crate::proxy::Splitter::default();
    let malformed = |reason: String| ClientError::Malformed { url: url.clone(), reason };
    let mut summary = None;
    let mut size = 0;
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable_at(&url, &e))? {
        size += chunk.len();
        if size > STREAM_BYTES_MAX {
            return Err(ClientError::TooLarge { url, max: STREAM_BYTES_MAX });
        }
        let events = splitter.push(&chunk).ok_or_else(|| malformed("an event is too long".into()))?;
        for event in events {
            let text = String::from_utf8(event).map_err(|_| malformed("an event is not UTF-8".into()))?;
            let text = text.trim_end();
            if let Some(json) = text.strip_prefix(": og-verified ") {
                summary = serde_json::from_str::<Value>(json).ok();
            } else if let Some(data) = text.strip_prefix("data: ").filter(|d| *d != "[DONE]") {
                let chunk: Value = serde_json::from_str(data).map_err(|e| malformed(e.to_string()))?;
                if chunk["error"].is_object() {
                    return Err(refusal(&url, &chunk));
                }
                if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
                    on_text(text);
                }
            }
        }
    }
    let summary = summary.ok_or_else(|| malformed("the stream ended before it was verified".into()))?;
    let checks = recheck(proxy, &summary, wanted).await?;
    Ok(Verified { summary, checks })
}

/// Checks the kept answer once more, so that a broken proxy is noticed.
async fn recheck(proxy: &str, summary: &Value, wanted: Wanted) -> Result<Checks, ClientError> {
    let id = summary["receipt_id"].as_str().unwrap_or_default();
    let url = format!("{proxy}/og/v1/receipts/{id}");
    let answered: Answered = serde_json::from_value(get(&url).await?)
        .map_err(|e| ClientError::Malformed { url, reason: e.to_string() })?;
    let receipt = Receipt::decode(&answered.receipt)?;
    let manifest = ModelManifest::decode(&answered.manifest)?;
    let known = wanted.replicas.map_or(Known::now(), |asked| Known::now().agreeing(asked / 2 + 1));
    let mut checks = Checks::default();
    check_answer(&mut checks, &crate::registry(), &receipt, &answered.disclosure, &manifest, &known);
    match checks.first_failure() {
        None => Ok(checks),
        Some(Check { name, detail, .. }) => Err(ClientError::Verification {
            node: receipt.claim.node.to_string(),
            check: format!("{name}: {detail}"),
        }),
    }
}
