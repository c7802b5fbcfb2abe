//! Rung `replicated`: several nodes answer one request, each for itself, and what most of them say is the answer.
//!
//! All nodes get the same bytes, nonce, time and seed. Each gives a signed commitment first and its answer only when it has seen the
//! commitments of others ([`types::replica`]). Nothing reaches the client before the answers were compared.

mod wire;

use super::{
    Proxy,
    budget::Reservation,
    disputes::{Dispute, DisputeKind},
    error::Fault,
    exchange::{Exchange, Miss, check_form},
    forward::{Ask, failure},
};
use crate::{
    ClientError, Offer,
    check::{Check, Checks, Known, check_disclosure},
    directory::Choice,
};
use alloy_primitives::{Address, B256};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use replicated::{Group, Member, ReplicatedProducer};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{task::JoinSet, time::Instant};
use tracing::warn;
use types::{
    Claim, Disclosure, FixedBytes, Receipt, Rung, Seal,
    replica::{Commitment, RevealRequest, Revealed, commitment, group_hash},
};
use verify::Producer as _;

/// How answers are replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Nodes that answer a request which does not say how many: 2 to 7.
    pub nodes: u8,
    /// How long the other nodes may take after the first commitment, and each node to reveal. Nodes keep answers for a minute.
    pub late_max: Duration,
}

impl Default for Replicas {
    fn default() -> Self {
        Self { nodes: 3, late_max: Duration::from_secs(25) }
    }
}

impl Replicas {
    /// Fewest and most nodes that a client may ask for.
    pub const RANGE: std::ops::RangeInclusive<u8> = 2..=7;
}

/// Number of nodes that a client asks for.
pub(super) fn nodes(headers: &HeaderMap, proxy: &Proxy) -> Result<usize, Fault> {
    let Some(value) = headers.get("og-replicas") else { return Ok(proxy.config.replicas.nodes.into()) };
    let asked =
        value.to_str().ok().and_then(|s| s.parse::<u8>().ok()).filter(|n| Replicas::RANGE.contains(n));
    asked.map(usize::from).ok_or_else(|| {
        let message = "the header og-replicas must be a number from 2 to 7";
        Fault::new(StatusCode::BAD_REQUEST, "invalid_value", message)
    })
}

/// Times that a group is made, each time of other nodes, because too few nodes of the last one committed.
const ROUNDS_MAX: usize = 2;

/// A request that several nodes are to answer.
pub(super) struct Question {
    pub(super) proxy: Arc<Proxy>,
    pub(super) ask: Ask,
    pub(super) choice: Choice,
    pub(super) nodes: usize,
}

/// Why a node did not commit.
enum Silence {
    /// It gave no commitment.
    Missed(Miss),
    /// It has seen the nonce, which was drawn for this round, before.
    Used,
}

/// A sound answer of one node.
struct Answer {
    exchange: Exchange,
    commitment: Commitment,
    revealed: Revealed,
    member: Member,
}

impl Question {
    /// Asks the nodes; the response is the answer of most of them.
    pub(super) async fn ask(self) -> Result<Response, Fault> {
        if self.ask.path == "/v1/embeddings" {
            let message = "embeddings are not replicated; ask for `og-assurance: signed`";
            return Err(Fault::new(StatusCode::BAD_REQUEST, "assurance_unavailable", message));
        }
        // One machine with two keys is one node.
        let (mut names, mut places) = (HashSet::new(), HashSet::new());
        let mut offers: Vec<_> = self.choice.offers.clone();
        offers.retain(|o| names.insert(o.node) && places.insert(o.endpoint.clone()));
        let mut last = None;
        for _ in 0..ROUNDS_MAX {
            let round = match self.begin(&offers) {
                Ok(round) => round,
                Err(e) => return Err(last.unwrap_or(e).into()),
            };
            let shortage = match round.commitments().await? {
                Ok(committed) => {
                    let answers = round.answers(committed).await;
                    return Ok(round.decide(answers).await?);
                }
                Err(shortage) => shortage,
            };
            // Whoever did not commit is left out of the next group.
            offers.retain(|o| !shortage.silent.contains(&o.node));
            last = Some(shortage.error);
        }
        Err(last.unwrap_or(ClientError::Busy).into())
    }

    /// Chooses the nodes, and what all of them get.
    fn begin(&self, distinct: &[Offer]) -> Result<Round, ClientError> {
        let (have, need) = (distinct.len(), self.nodes);
        let few = || ClientError::TooFewNodes { model: self.choice.manifest.name.clone(), have, need };
        if have < need {
            return Err(few());
        }
        let mut offers: Vec<_> = distinct.iter().take(need).cloned().collect();
        offers.sort_unstable_by_key(|o| o.node);
        let nodes: Vec<_> = offers.iter().map(|o| o.node).collect();
        let nonce = B256::from(rand::random::<[u8; 32]>());
        let request_hash = Claim::request_commitment(&nonce, self.ask.request.as_bytes());
        let group = group_hash(request_hash, &nodes).ok_or_else(few)?;
        let chain_id = self.proxy.network().network.chain_id;
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let price = offers.iter().fold(0u128, |sum, o| sum.saturating_add(self.choice.need.price(o)));
        let reserved: Option<Arc<Reservation>> = self.proxy.reserve(price)?;
        let exchanges = offers.into_iter().map(|offer| Exchange {
            id: Claim::receipt_id_of(chain_id, self.proxy.genesis(), offer.node, request_hash),
            proxy: self.proxy.clone(),
            path: self.ask.path.clone(),
            offer,
            manifest: self.choice.manifest.clone(),
            request: self.ask.request.clone(),
            nonce,
            rung: Rung::Replicated,
            need: self.choice.need,
            price_max: self.ask.price_max,
            began: std::time::Instant::now(),
            _reserved: reserved.clone(),
        });
        Ok(Round {
            exchanges: exchanges.map(Arc::new).collect(),
            nodes,
            group,
            time_ms,
            // 53 bits: every JSON parser keeps them.
            seed: rand::random::<u64>() >> 11,
            streaming: self.ask.outline.stream,
            late_max: self.proxy.config.replicas.late_max,
        })
    }
}

/// One request on its way through all nodes of a group.
struct Round {
    /// In ascending order of the nodes.
    exchanges: Vec<Arc<Exchange>>,
    nodes: Vec<Address>,
    group: B256,
    time_ms: u64,
    seed: u64,
    streaming: bool,
    late_max: Duration,
}

type Committed = (Arc<Exchange>, Commitment);

/// Too few nodes have committed.
struct Shortage {
    /// Who did not.
    silent: HashSet<Address>,
    error: ClientError,
}

impl Round {
    /// Asks every node for its commitment. The outer error is not the nodes' fault, or ends the request; the inner one may be mended with
    /// other nodes.
    async fn commitments(&self) -> Result<Result<Vec<Committed>, Shortage>, ClientError> {
        let mut asked = JoinSet::new();
        for exchange in &self.exchanges {
            let exchange = exchange.clone();
            let (group, time_ms, seed) = (self.group, self.time_ms, self.seed);
            asked.spawn(async move {
                let outcome = wire::commit(&exchange, group, time_ms, seed).await;
                (exchange, outcome)
            });
        }
        let (mut committed, mut silent) = (Vec::new(), Vec::new());
        let mut deadline = None;
        while !asked.is_empty() {
            let next = match deadline {
                None => asked.join_next().await,
                Some(at) => match tokio::time::timeout_at(at, asked.join_next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            match next {
                Some(Ok((exchange, Ok(commitment)))) => {
                    // The answers of those who were quick are not kept for ever.
                    deadline.get_or_insert(Instant::now() + self.late_max);
                    committed.push((exchange, commitment));
                }
                Some(Ok((exchange, Err(silence)))) => silent.push((exchange, silence)),
                _ => {}
            }
        }
        asked.abort_all();
        committed.sort_unstable_by_key(|(e, _)| e.offer.node);
        let heard: HashSet<_> =
            committed.iter().map(|(e, _)| e).chain(silent.iter().map(|(e, _)| e)).map(|e| e.id).collect();
        for late in self.exchanges.iter().filter(|e| !heard.contains(&e.id)) {
            warn!(node = %late.offer.node, "it did not commit in time");
            late.proxy.directory.failed(late.offer.node);
        }
        // Who got there with our nonce before us may have had the node reveal its answer to copy it; who it was, nobody can tell.
        if let Some((exchange, _)) = silent.iter().find(|(_, s)| matches!(s, Silence::Used)) {
            let check =
                "it was asked this before we asked: somebody in the group passed the request on; ask again";
            return Err(exchange.refuse(check.into()));
        }
        if self.is_majority(committed.len()) {
            // Most nodes could answer it: who refused did so without a reason.
            for (exchange, silence) in &silent {
                if let Silence::Missed(Miss::Refused(_)) = silence {
                    exchange.proxy.directory.failed(exchange.offer.node);
                }
            }
            return Ok(Ok(committed));
        }
        self.too_few(&committed, silent).map(Err)
    }

    fn is_majority(&self, count: usize) -> bool {
        2 * count > self.nodes.len()
    }

    /// Why too few nodes have committed.
    fn too_few(
        &self,
        committed: &[Committed],
        silent: Vec<(Arc<Exchange>, Silence)>,
    ) -> Result<Shortage, ClientError> {
        let has_committed: HashSet<_> = committed.iter().map(|(e, _)| e.offer.node).collect();
        let names = self.nodes.iter().copied().filter(|n| !has_committed.contains(n)).collect();
        let asked = self.nodes.len();
        let silence =
            ClientError::NoMajority { agreed: committed.len(), asked, silent: asked - committed.len() };
        let mut misses = Vec::new();
        for (_, silence) in silent {
            match silence {
                Silence::Missed(Miss::Own(e)) => return Err(e),
                Silence::Missed(Miss::Failed(_)) | Silence::Used => {}
                Silence::Missed(miss) => misses.push(miss),
            }
        }
        let error = match misses.is_empty() {
            true => silence,
            false => failure(misses, &self.exchanges[0].manifest),
        };
        Ok(Shortage { silent: names, error })
    }

    /// Has every node that has committed reveal its answer; the sound ones, in ascending order of the nodes.
    async fn answers(&self, committed: Vec<Committed>) -> Vec<Answer> {
        let commitments = committed.iter().map(|(_, c)| c.clone()).collect();
        let request = Arc::new(RevealRequest { nodes: self.nodes.clone(), commitments });
        let revealing = committed.into_iter().map(|(exchange, commitment)| {
            let request = request.clone();
            async move {
                let revealed =
                    match tokio::time::timeout(self.late_max, wire::reveal(&exchange, &request)).await {
                        Ok(revealed) => revealed,
                        Err(_) => Err("it did not reveal its answer in time".into()),
                    };
                match revealed {
                    Err(reason) => self.failed(&exchange, commitment, DisputeKind::Withheld, reason, None),
                    Ok(revealed) => match self.judge(&exchange, &commitment, &revealed).await {
                        Err(reason) => {
                            self.failed(&exchange, commitment, DisputeKind::Refused, reason, Some(revealed))
                        }
                        Ok(member) => {
                            // It did its work, whatever the others say.
                            exchange.pay(&member.claim);
                            let exchange = Exchange::clone(&exchange);
                            Some(Answer { exchange, commitment, revealed, member })
                        }
                    },
                }
            }
        });
        futures::future::join_all(revealing).await.into_iter().flatten().collect()
    }

    /// Reports a node that broke its word, and keeps what it signed. It has no answer.
    fn failed(
        &self,
        exchange: &Exchange,
        commitment: Commitment,
        kind: DisputeKind,
        reason: String,
        revealed: Option<Revealed>,
    ) -> Option<Answer> {
        // Counts and reports it, too.
        let _ = exchange.refuse(reason.clone());
        self.keep(exchange, Dispute { kind, reason, revealed, ..self.dispute(exchange, commitment) });
        None
    }

    fn dispute(&self, exchange: &Exchange, commitment: Commitment) -> Dispute {
        Dispute {
            kind: DisputeKind::NoMajority,
            reason: String::new(),
            node: exchange.offer.node,
            receipt_id: exchange.id,
            group: self.group,
            nodes: self.nodes.clone(),
            commitment,
            revealed: None,
            against: None,
            request: exchange.request.clone(),
            nonce: exchange.nonce,
        }
    }

    fn keep(&self, exchange: &Exchange, dispute: Dispute) {
        // The client's answer does not depend on it.
        if let Err(e) = exchange.proxy.disputes.put(&dispute) {
            warn!("cannot keep what node {} signed: {e}", dispute.node);
        }
    }

    /// Every check of one answer that needs no other answer. Gives the member of the group, or what is wrong.
    async fn judge(
        &self,
        exchange: &Exchange,
        committed: &Commitment,
        revealed: &Revealed,
    ) -> Result<Member, String> {
        let receipt = Receipt::decode(&revealed.seal.receipt).map_err(|e| e.to_string())?;
        let claim = &receipt.claim;
        let node = exchange.offer.node;
        if receipt.evidence.len() != 1 || receipt.signer().ok() != Some(node) {
            return Err("the receipt is not signed by the node, and by nothing else".into());
        }
        let opened = commitment(self.group, node, claim.output_hash, claim.trace_root, revealed.salt);
        if opened != committed.commitment {
            return Err("it revealed another answer than it had committed to".into());
        }
        if claim.rung_achieved != Rung::Replicated as u8 || claim.time_ms != self.time_ms {
            return Err("the receipt is not for an answer of this group at this time".into());
        }
        let disclosure = Disclosure {
            nonce: exchange.nonce,
            request: exchange.request.clone(),
            response: revealed.response.clone(),
            prompt_tokens: revealed.seal.prompt_tokens.clone(),
            output_tokens: revealed.seal.output_tokens.clone(),
        };
        let mut checks = Checks::default();
        check_disclosure(&mut checks, claim, &disclosure, &exchange.manifest);
        checks.record("form", check_form(&exchange.path, &disclosure.response));
        checks.record("exchange", exchange.check_exchange(claim));
        exchange.check_anchor(&mut checks, claim).await;
        if let Some(Check { name, detail, .. }) = checks.first_failure() {
            return Err(format!("{name}: {detail}"));
        }
        let signature = receipt.signature().map_err(|e| e.to_string())?;
        let commitment = committed.check().map_err(|e| e.to_string())?;
        Ok(Member {
            commitment: FixedBytes(commitment),
            salt: revealed.salt,
            signature: FixedBytes(signature),
            claim: receipt.claim,
        })
    }

    /// Takes the answer of most nodes, with evidence of it, and keeps what the others signed.
    async fn decide(&self, answers: Vec<Answer>) -> Result<Response, ClientError> {
        let members: Vec<_> = answers.iter().map(|a| a.member.clone()).collect();
        let agreeing = |m: &Member| members.iter().filter(|other| other.agrees(&m.claim)).count();
        let asked = self.nodes.len();
        // The lowest address: nobody gains by being quick.
        let Some(at) = members.iter().position(|m| self.is_majority(agreeing(m))) else {
            let agreed = members.iter().map(agreeing).max().unwrap_or(0);
            self.keep_all(&answers, DisputeKind::NoMajority, "no answer was that of most nodes", None);
            return Err(ClientError::NoMajority { agreed, asked, silent: asked - answers.len() });
        };
        let agreed = agreeing(&members[at]);
        let total = members.iter().try_fold(0u128, |sum, m| sum.checked_add(m.claim.price));
        let winner = &answers[at];
        let claim = &winner.member.claim;
        let k = u8::try_from(agreed).unwrap_or(u8::MAX);
        let known = Known::now().agreeing(u8::try_from(asked / 2 + 1).unwrap_or(u8::MAX));
        let group = Group { group: self.group, k, asked: self.nodes.clone(), members };
        let internal =
            |reason: String| ClientError::Verification { node: claim.node.to_string(), check: reason };
        let evidence = ReplicatedProducer.produce(claim, &group).map_err(|e| internal(e.to_string()))?;
        let mut receipt =
            Receipt::decode(&winner.revealed.seal.receipt).map_err(|e| internal(e.to_string()))?;
        receipt.evidence.push(evidence);
        let seal = Seal { receipt: receipt.encode().into(), ..winner.revealed.seal.clone() };
        // The whole of the checks once more, now with the evidence; keeps the answer.
        let mut summary =
            winner.exchange.verify(winner.revealed.response.clone(), seal.clone(), known).await?;
        let (others, same): (Vec<_>, Vec<_>) = answers.iter().partition(|a| !a.member.agrees(claim));
        let names =
            |list: &[&Answer]| list.iter().map(|a| a.member.claim.node.to_string()).collect::<Vec<_>>();
        summary["replicas"] = json!({"asked": asked, "agreed": names(&same), "disagreed": names(&others)});
        summary["price_total_wei"] = json!(total.map(|t| t.to_string()));
        for other in &others {
            let reason = "most nodes gave another answer";
            self.keep_all([*other], DisputeKind::Minority, reason, Some(&seal));
        }
        for answer in &same {
            answer.exchange.proxy.directory.succeeded(answer.exchange.offer.node, None);
        }
        Ok(self.respond(winner, &seal, &summary, agreed))
    }

    fn keep_all<'a>(
        &self,
        answers: impl IntoIterator<Item = &'a Answer>,
        kind: DisputeKind,
        reason: &str,
        against: Option<&Seal>,
    ) {
        for answer in answers {
            warn!(node = %answer.exchange.offer.node, "kept for a dispute: {reason}");
            let dispute = Dispute {
                kind,
                reason: reason.into(),
                revealed: Some(answer.revealed.clone()),
                against: against.map(|seal| seal.receipt.clone()),
                ..self.dispute(&answer.exchange, answer.commitment.clone())
            };
            self.keep(&answer.exchange, dispute);
        }
    }

    fn respond(&self, winner: &Answer, seal: &Seal, summary: &Value, agreed: usize) -> Response {
        let body = &winner.revealed.response;
        let mut response = if self.streaming {
            let seal = serde_json::to_string(seal).unwrap_or_default();
            let headers = [("content-type", "text/event-stream"), ("cache-control", "no-cache")];
            (headers, format!("{body}: og-seal {seal}\n\n: og-verified {summary}\n\n")).into_response()
        } else {
            ([(CONTENT_TYPE, "application/json")], body.clone()).into_response()
        };
        let headers = response.headers_mut();
        headers.extend(winner.exchange.about());
        let replicas = format!("agreed {agreed} of {}", self.nodes.len());
        let mut add = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        add("og-replicas", replicas);
        if !self.streaming {
            add("og-verified", summary.to_string());
        }
        response
    }
}
