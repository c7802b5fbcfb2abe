//! One request at one node: what is sent, and the checks of what comes back.

use super::{Answered, Proxy, Purse, budget::Reservation, purse::Ticket};
use crate::{
    ClientError, Offer, Refusal,
    check::{Check, Checks, Known, Outcome, check_answer},
    directory::{Anchor, Need},
    error::quoted,
    rpc::{read_bounded, unreachable_at},
};
use alloy_primitives::B256;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};
use types::{Claim, Disclosure, ModelManifest, Receipt, ReceiptId, Rung, Seal};

/// Largest difference between a node's clock and ours.
const SKEW_MS_MAX: u64 = 5 * 60 * 1000;
/// Time that a node gets to notice a deposit.
const UNPAID_PAUSE: Duration = Duration::from_millis(250);
/// Longest error of a node that is read.
const WORDS_BYTES_MAX: usize = 1 << 16;

/// One request on its way through a node.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) proxy: Arc<Proxy>,
    pub(super) path: String,
    pub(super) offer: Offer,
    pub(super) manifest: ModelManifest,
    pub(super) request: String,
    pub(super) nonce: B256,
    pub(super) rung: Rung,
    pub(super) id: ReceiptId,
    /// The most that the answer can take, as far as the request says so.
    pub(super) need: Need,
    /// The most that the user pays for this answer, in wei.
    pub(super) price_max: Option<u128>,
    pub(super) began: Instant,
    /// Money for the answer, while it is under way.
    pub(super) _reserved: Option<Arc<Reservation>>,
    /// What the node was authorised with, until the answer was checked.
    pub(super) ticket: Arc<Mutex<Option<Ticket>>>,
}

/// Why a node gave no answer.
pub(super) enum Miss {
    /// Its queue is full.
    Busy,
    /// It answered with an error. What it says is signed by nobody.
    Refused(Refusal),
    /// It cannot be reached, broke off, or its answer failed a check. It is avoided for a while already.
    Failed(ClientError),
    /// Not the node's fault.
    Own(ClientError),
}

impl Exchange {
    /// Headers for the client. The receipt id is computed here, not taken from the node.
    pub(super) fn about(&self) -> HeaderMap {
        let fields = [
            ("og-receipt-id", self.id.to_string()),
            ("og-assurance", self.rung.to_string()),
            ("og-nonce", self.nonce.to_string()),
            ("og-node", format!("{:#x}", self.offer.node)),
            ("og-model", self.manifest.id().to_string()),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
            })
            .collect()
    }

    /// Sends the request with `headers`; gives a response whose status is a success. A pocket that is empty is filled once.
    pub(super) async fn send(&self, headers: &HeaderMap) -> Result<reqwest::Response, Miss> {
        let url = format!("{}{}", self.offer.endpoint, self.path);
        let mut filled = false;
        loop {
            let mut asking = self.proxy.http.post(&url);
            if let Some(purse) = &self.proxy.purse {
                // Each try has its own authorisation: the node may have used the one before.
                let ticket = purse.authorise(self.offer.node, self.id, self.most()).map_err(Miss::Own)?;
                asking = asking.header("og-payment", &ticket.header);
                *self.ticket.lock() = Some(ticket);
            }
            let sent = asking
                .header("content-type", "application/json")
                .header("og-nonce", self.nonce.to_string())
                .header("og-assurance", self.rung.name())
                .headers(headers.clone())
                .body(self.request.clone())
                .send()
                .await;
            let response = sent.map_err(|e| self.broke(unreachable_at(&url, &e)))?;
            match response.status() {
                status if status.is_success() => return Ok(response),
                // A full queue is no failure of the node.
                StatusCode::TOO_MANY_REQUESTS => return Err(Miss::Busy),
                StatusCode::PAYMENT_REQUIRED if !filled && self.proxy.purse.is_some() => {
                    self.proxy.fill(self.offer.node).await.map_err(Miss::Own)?;
                    // The node may ask a validator that has the deposit a moment later, and does not look twice at once.
                    tokio::time::sleep(UNPAID_PAUSE).await;
                    filled = true;
                }
                status if status.is_client_error() => {
                    return Err(Miss::Refused(self.refusal(response).await));
                }
                // Neither an answer nor an opinion about the request.
                status => {
                    let words = quoted(&self.refusal(response).await.words);
                    let reason = format!("status {status} (its words: {words})");
                    return Err(self.broke(ClientError::Malformed { url, reason }));
                }
            }
        }
    }

    /// The most that the node may ask for this answer, in wei.
    fn most(&self) -> u128 {
        self.price_max.unwrap_or(u128::MAX).min(self.need.price(&self.offer))
    }

    /// What a node said instead of answering.
    async fn refusal(&self, response: reqwest::Response) -> Refusal {
        let status = response.status();
        let body = read_bounded(&self.offer.endpoint, response, WORDS_BYTES_MAX).await.unwrap_or_default();
        let error = serde_json::from_slice::<Value>(&body).map(|b| b["error"].clone()).unwrap_or_default();
        let (words, code, param) = match error["message"].as_str() {
            Some(words) => (words.to_owned(), error["code"].as_str(), error["param"].as_str()),
            None => (String::from_utf8_lossy(&body).into_owned(), None, None),
        };
        Refusal {
            node: self.offer.node,
            status: status.as_u16(),
            code: code.map(str::to_owned),
            param: param.map(str::to_owned),
            words,
        }
    }

    /// The node is to blame: it is avoided for a while.
    pub(super) fn broke(&self, e: ClientError) -> Miss {
        warn!(node = %self.offer.node, "no answer: {e}");
        self.proxy.directory.failed(self.offer.node);
        Miss::Failed(e)
    }

    pub(super) fn refuse(&self, check: String) -> ClientError {
        warn!(node = %self.offer.node, "refused an answer: {check}");
        self.proxy.metrics.refused.inc();
        self.proxy.directory.failed(self.offer.node);
        ClientError::Verification { node: self.offer.node.to_string(), check }
    }

    /// Runs every check, keeps the answer, and says what was verified.
    pub(super) async fn verify(
        &self,
        response: String,
        seal: Seal,
        known: Known,
    ) -> Result<Value, ClientError> {
        let receipt = Receipt::decode(&seal.receipt).map_err(|e| self.refuse(e.to_string()))?;
        let disclosure = Disclosure {
            nonce: self.nonce,
            request: self.request.clone(),
            response,
            prompt_tokens: seal.prompt_tokens,
            output_tokens: seal.output_tokens,
        };
        let mut checks = Checks::default();
        check_answer(&mut checks, &self.proxy.registry, &receipt, &disclosure, &self.manifest, &known);
        checks.record("form", check_form(&self.path, &disclosure.response));
        checks.record("exchange", self.check_exchange(&receipt.claim));
        self.check_anchor(&mut checks, &receipt.claim).await;
        if let Some(Check { name, detail, .. }) = checks.first_failure() {
            return Err(self.refuse(format!("{name}: {detail}")));
        }
        let claim = &receipt.claim;
        let summary = json!({
            "receipt_id": self.id, "assurance": self.rung.name(), "node": claim.node.to_string(), "model": self.manifest.name,
            "model_id": claim.model, "prompt_tokens": claim.prompt_tokens, "completion_tokens": claim.completion_tokens,
            "price_wei": claim.price.to_string(), "seed": claim.sampling.seed,
            "checks": checks.0.iter().filter(|c| c.outcome == Outcome::Pass).map(|c| c.name).collect::<Vec<_>>(),
        });
        let answered = Answered {
            receipt: seal.receipt,
            manifest: self.manifest.encode().into(),
            endpoint: self.offer.endpoint.clone(),
            disclosure,
        };
        self.proxy.store.put(self.id, &answered)?;
        // Each node of a group was paid when its own answer had been checked.
        if self.rung != Rung::Replicated {
            self.pay(claim);
        }
        self.proxy.metrics.verified.inc();
        info!(receipt = %self.id, node = %self.offer.node, "verified an answer");
        Ok(summary)
    }

    /// Notes the price of an answer that was checked: it is paid once the node has logged it.
    pub(super) fn pay(&self, claim: &Claim) {
        let (proxy, node) = (&self.proxy, self.offer.node);
        let (Some(purse), Some(ticket)) = (&proxy.purse, self.ticket.lock().take()) else { return };
        if claim.payer.is_zero() {
            return;
        }
        purse.owe(&ticket, self.id, claim.price);
        proxy.budget.spend(claim.price);
        proxy.fill_ahead(node, claim.price);
    }

    /// What ties the receipt to this very exchange.
    pub(super) fn check_exchange(&self, claim: &Claim) -> Result<String, String> {
        if claim.node != self.offer.node {
            return Err(format!("{} signed, but {} was asked", claim.node, self.offer.node));
        }
        if (claim.chain_id, claim.genesis) != (self.proxy.network().network.chain_id, self.proxy.genesis()) {
            return Err("the receipt is for another network".into());
        }
        if claim.model != self.manifest.id().0 {
            return Err("another model answered".into());
        }
        if claim.receipt_id() != self.id || claim.rung_requested != self.rung as u8 {
            return Err("the receipt is for another request".into());
        }
        if (claim.price_input, claim.price_output) != (self.offer.price_input, self.offer.price_output) {
            return Err("the prices are not those of the node's offer on the ledger".into());
        }
        if u64::from(claim.completion_tokens) > self.need.output {
            return Err(format!(
                "{} tokens were generated, and the request allows {}",
                claim.completion_tokens, self.need.output
            ));
        }
        if let Some(max) = self.price_max.filter(|max| claim.price > *max) {
            return Err(format!("it asks for {} wei, and the ceiling is {max}", claim.price));
        }
        let payer = self.proxy.purse.as_ref().map(Purse::address);
        if !claim.payer.is_zero() && Some(claim.payer) != payer {
            return Err(format!("{} is named as payer", claim.payer));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        if now.abs_diff(claim.time_ms) > SKEW_MS_MAX {
            return Err("the receipt's time is more than five minutes off".into());
        }
        Ok("the registered node answered this request, at its registered prices, just now".into())
    }

    /// The anchor must be a block that was proved to be final, and one of the newest thousand. No server is asked. While the servers are
    /// silent, a block that may well exist is looked at later.
    pub(super) async fn check_anchor(&self, checks: &mut Checks, claim: &Claim) {
        let (number, hash) = (claim.anchor_number, claim.anchor_hash);
        let directory = &self.proxy.directory;
        let checked = match directory.anchor(number).await {
            Anchor::Final(known) if known == hash => Ok(format!("anchored to block {number}")),
            Anchor::Final(_) => Err(format!("block {number} is not what the receipt says")),
            Anchor::Later(newest) => {
                directory.look_again(self.offer.node, number, hash);
                let note = format!(
                    "block {number} could not be proved yet, only {newest}; the JSON-RPC servers are silent"
                );
                return checks.note("anchor", note);
            }
            Anchor::Unknown => {
                Err(format!("block {number} is too old, or the servers that this proxy asks do not have it"))
            }
        };
        checks.record("anchor", checked);
    }
}

/// A response must have the form of the endpoint that was asked: a checker tells endpoints by it.
pub(super) fn check_form(path: &str, response: &str) -> Result<String, String> {
    let first = response.split("\n\n").next().unwrap_or_default();
    let data = first.split("data: ").nth(1);
    let parsed: Value = serde_json::from_str(data.unwrap_or(response)).unwrap_or_default();
    let form = parsed["object"].as_str().or(parsed["response"]["object"].as_str()).unwrap_or_default();
    let expected: &[&str] = match path {
        "/v1/completions" => &["text_completion"],
        "/v1/responses" => &["response"],
        "/v1/embeddings" => &["list"],
        _ => &["chat.completion", "chat.completion.chunk"],
    };
    match expected.contains(&form) {
        true => Ok(format!("the response is a {form}")),
        false => Err(format!("the response is a {form:?} and not what {path} gives")),
    }
}
