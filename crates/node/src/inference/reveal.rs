//! Answers that are kept back until the node's group has committed (`types::replica`).
//!
//! Until an answer is revealed its receipt is not shown either: who could read it in the log would know what to commit to.

use super::{InferenceService, Shared, internal};
use api::ports::{InferenceFault, Withheld};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use types::{
    B256, Receipt, ReceiptId,
    replica::{Commitment, RevealRequest, Revealed, commitment},
};

/// How long an answer is kept back, at most.
const KEPT_MAX: Duration = Duration::from_secs(60);
/// Largest difference between a group's clock and ours.
const SKEW_MS_MAX: u64 = 30_000;
/// Most answers that are made or kept for groups, and most bytes of those kept.
const ANSWERS_MAX: usize = 1024;
const BYTES_MAX: usize = 256 << 20;

/// Where an answer for a group stands.
enum State {
    /// It is computed.
    UnderWay,
    /// Its receipt is in the log, since then.
    Logged(Instant),
    /// It is committed to.
    Kept(Box<Kept>),
}

struct Kept {
    since: Instant,
    group: B256,
    request_hash: B256,
    commitment: Commitment,
    answer: Revealed,
    is_revealed: bool,
}

impl Kept {
    fn bytes(&self) -> usize {
        size(&self.answer)
    }
}

fn size(answer: &Revealed) -> usize {
    let tokens = answer.seal.prompt_tokens.len() + answer.seal.output_tokens.len();
    answer.response.len() + answer.seal.receipt.len() + tokens * size_of::<u32>()
}

impl State {
    fn is_over(&self) -> bool {
        match self {
            Self::UnderWay => false,
            Self::Logged(since) => since.elapsed() >= KEPT_MAX,
            Self::Kept(kept) => kept.since.elapsed() >= KEPT_MAX,
        }
    }
}

/// The answers of one node that wait for their groups.
#[derive(Default)]
pub(crate) struct Reveals(Mutex<HashMap<ReceiptId, State>>);

impl Reveals {
    fn lock(&self) -> MutexGuard<'_, HashMap<ReceiptId, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer for a group begins.
    pub(super) fn begin(&self, id: ReceiptId) -> Result<(), InferenceFault> {
        let mut all = self.lock();
        all.retain(|_, state| !state.is_over());
        if all.len() >= ANSWERS_MAX {
            return Err(InferenceFault::Busy("too many answers wait to be revealed; try again later".into()));
        }
        all.insert(id, State::UnderWay);
        Ok(())
    }

    /// Its receipt goes to the log.
    pub(super) fn logged(&self, id: ReceiptId) {
        if let Some(state) = self.lock().get_mut(&id) {
            *state = State::Logged(Instant::now());
        }
    }

    /// Nobody computes it any more; forgotten when it has no receipt.
    pub(super) fn left(&self, id: ReceiptId) {
        let mut all = self.lock();
        if matches!(all.get(&id), Some(State::UnderWay)) {
            all.remove(&id);
        }
    }

    /// Whether the receipt must not be shown yet.
    pub(super) fn hides(&self, id: ReceiptId) -> bool {
        match self.lock().get(&id) {
            Some(State::Kept(kept)) if kept.is_revealed => false,
            Some(state) => !state.is_over(),
            None => false,
        }
    }

    fn keep(&self, id: ReceiptId, kept: Kept) -> Result<(), InferenceFault> {
        let mut all = self.lock();
        all.retain(|_, state| !state.is_over());
        let in_use: usize = all.values().map(|s| if let State::Kept(k) = s { k.bytes() } else { 0 }).sum();
        if in_use + kept.bytes() > BYTES_MAX {
            all.remove(&id);
            return Err(InferenceFault::Busy("too many answers wait to be revealed; try again later".into()));
        }
        match all.get_mut(&id) {
            Some(state @ State::Logged(_)) => {
                *state = State::Kept(Box::new(kept));
                Ok(())
            }
            _ => Err(InferenceFault::Internal("an answer without a receipt cannot be committed to".into())),
        }
    }

    fn reveal(&self, id: ReceiptId, request: &RevealRequest) -> Result<Revealed, InferenceFault> {
        let known = match self.lock().get(&id) {
            Some(state @ State::Kept(kept)) if !state.is_over() => {
                (kept.request_hash, kept.group, kept.commitment.clone())
            }
            _ => return Err(InferenceFault::NotWithheld(id)),
        };
        // Up to sixteen signatures: not under the lock.
        let (request_hash, group, own) = known;
        request.check(request_hash, group, &own).map_err(|message| InferenceFault::InvalidValue {
            message: message.into(),
            param: "commitments",
        })?;
        match self.lock().get_mut(&id) {
            Some(State::Kept(kept)) => {
                kept.is_revealed = true;
                Ok(kept.answer.clone())
            }
            _ => Err(InferenceFault::NotWithheld(id)),
        }
    }

    fn forget(&self, id: ReceiptId) {
        self.lock().remove(&id);
    }
}

/// The time of a claim: that of the group, when our clock is near it.
pub(super) fn claim_time(asked: Option<u64>, now_ms: u64) -> Result<u64, InferenceFault> {
    match asked {
        None => Ok(now_ms),
        Some(time) if now_ms.abs_diff(time) <= SKEW_MS_MAX => Ok(time),
        Some(_) => {
            let message = format!("`og-time-ms` must be within 30 seconds of this node's clock, {now_ms}");
            Err(InferenceFault::InvalidValue { message, param: "og-time-ms" })
        }
    }
}

impl InferenceService {
    /// Keeps an answer back, at most for a minute, and commits to it.
    pub(super) async fn keep_back(&self, withheld: Withheld) -> Result<Commitment, InferenceFault> {
        let Withheld { id, group, response, seal } = withheld;
        let claim = Receipt::decode(&seal.receipt).map_err(internal)?.claim;
        let salt = B256::from(rand::random::<[u8; 32]>());
        let c = commitment(group, claim.node, claim.output_hash, claim.trace_root, salt);
        let signed = self.shared.identity.producer.commit(c).map_err(internal)?;
        let kept = Kept {
            since: Instant::now(),
            group,
            request_hash: claim.request_hash,
            commitment: signed.clone(),
            answer: Revealed { response, seal, salt },
            is_revealed: false,
        };
        self.shared.reveals.keep(id, kept)?;
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT_MAX).await;
            if let Some(shared) = shared.upgrade() {
                shared.reveals.forget(id);
            }
        });
        Ok(signed)
    }

    /// Gives out an answer in exchange for the commitments of its group.
    pub(super) fn reveal_kept(
        &self,
        id: ReceiptId,
        request: &RevealRequest,
    ) -> Result<Revealed, InferenceFault> {
        self.shared.reveals.reveal(id, request)
    }
}

impl Shared {
    /// Whether a receipt may be shown.
    pub(super) fn shows(&self, id: ReceiptId) -> bool {
        !self.reveals.hides(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::{Address, Seal, replica::group_hash, signing};

    fn id(i: u8) -> ReceiptId {
        ReceiptId(B256::repeat_byte(i))
    }

    fn signed(secret: u8, group: B256) -> Commitment {
        let secret = B256::repeat_byte(secret);
        let node = signing::address_of(&secret).unwrap();
        let commitment = commitment(group, node, B256::ZERO, B256::ZERO, B256::ZERO);
        Commitment {
            node,
            commitment,
            signature: signing::sign(&secret, commitment).unwrap().to_vec().into(),
        }
    }

    fn request() -> (RevealRequest, B256) {
        let mut nodes: Vec<Address> =
            (1..=2).map(|i| signing::address_of(&B256::repeat_byte(i)).unwrap()).collect();
        nodes.sort_unstable();
        let group = group_hash(B256::ZERO, &nodes).unwrap();
        let mut commitments = vec![signed(1, group), signed(2, group)];
        commitments.sort_unstable_by_key(|c| c.node);
        (RevealRequest { nodes, commitments }, group)
    }

    fn kept(group: B256, bytes: usize, since: Instant) -> Kept {
        let seal = Seal { receipt: vec![].into(), prompt_tokens: vec![], output_tokens: vec![] };
        Kept {
            since,
            group,
            request_hash: B256::ZERO,
            commitment: signed(1, group),
            answer: Revealed { response: "x".repeat(bytes), seal, salt: B256::ZERO },
            is_revealed: false,
        }
    }

    #[test]
    fn an_answer_is_hidden_until_the_group_has_committed() {
        let (request, group) = request();
        let reveals = Reveals::default();
        assert!(!reveals.hides(id(1)));
        reveals.begin(id(1)).unwrap();
        assert!(reveals.hides(id(1)), "while it is computed");
        assert_eq!(reveals.reveal(id(1), &request), Err(InferenceFault::NotWithheld(id(1))));
        reveals.logged(id(1));
        reveals.left(id(1));
        assert!(reveals.hides(id(1)), "with a receipt in the log");
        reveals.keep(id(1), kept(group, 3, Instant::now())).unwrap();
        let alone = RevealRequest { commitments: request.commitments[..1].to_vec(), ..request.clone() };
        assert!(matches!(reveals.reveal(id(1), &alone), Err(InferenceFault::InvalidValue { .. })));
        assert!(reveals.hides(id(1)), "after a bad request");
        assert_eq!(reveals.reveal(id(1), &request).unwrap().response, "xxx");
        assert!(!reveals.hides(id(1)));
        assert!(reveals.reveal(id(1), &request).is_ok(), "whose answer was lost may ask again");
        assert!(reveals.reveal(id(2), &request).is_err());
        reveals.forget(id(1));
        assert!(reveals.reveal(id(1), &request).is_err());
    }

    #[test]
    fn an_answer_without_receipt_leaves_nothing() {
        let (_, group) = request();
        let reveals = Reveals::default();
        reveals.begin(id(1)).unwrap();
        reveals.left(id(1));
        assert!(reveals.lock().is_empty());
        assert!(reveals.keep(id(1), kept(group, 3, Instant::now())).is_err());
        // Receipts that are for no group are never hidden.
        reveals.logged(id(2));
        assert!(!reveals.hides(id(2)));
    }

    #[test]
    fn what_is_kept_is_bounded_in_time_number_and_bytes() {
        let (request, group) = request();
        let reveals = Reveals::default();
        let begun = |i: u8| {
            reveals.begin(id(i)).unwrap();
            reveals.logged(id(i));
        };
        begun(1);
        let long_ago = Instant::now().checked_sub(KEPT_MAX).unwrap();
        reveals.keep(id(1), kept(group, 3, long_ago)).unwrap();
        assert!(reveals.reveal(id(1), &request).is_err());
        assert!(!reveals.hides(id(1)));
        begun(2);
        assert!(!reveals.lock().contains_key(&id(1)), "what is over goes");
        begun(3);
        reveals.keep(id(2), kept(group, BYTES_MAX - 1, Instant::now())).unwrap();
        assert!(matches!(reveals.keep(id(3), kept(group, 2, Instant::now())), Err(InferenceFault::Busy(_))));
        assert!(!reveals.hides(id(3)));
        let many = Reveals::default();
        for i in 0..ANSWERS_MAX {
            many.begin(ReceiptId(types::keccak256(i.to_be_bytes()))).unwrap();
        }
        assert!(matches!(many.begin(id(1)), Err(InferenceFault::Busy(_))));
    }

    #[test]
    fn the_groups_clock_must_be_near() {
        assert_eq!(claim_time(None, 100_000), Ok(100_000));
        assert_eq!(claim_time(Some(70_000), 100_000), Ok(70_000));
        assert_eq!(claim_time(Some(130_000), 100_000), Ok(130_000));
        assert!(claim_time(Some(130_001), 100_000).is_err());
        assert!(claim_time(Some(69_999), 100_000).is_err());
        assert!(claim_time(Some(0), 100_000).is_err());
    }
}
