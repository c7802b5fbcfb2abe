use crate::{Call, SendError, fees::Offer, fees::WHOLE};
use alloy_primitives::{B256, U256};
use serde::{Deserialize, Serialize};
use types::{Address, Bytes};

/// One signed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) hash: B256,
    pub(crate) fee: u128,
    pub(crate) tip: u128,
}

impl Attempt {
    pub(crate) fn offer(&self) -> Offer {
        Offer { fee: self.fee, tip: self.tip }
    }
}

/// A nonce, and all transactions with it that may be under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) nonce: u64,
    pub(crate) gas: u64,
    /// Oldest first.
    pub(crate) attempts: Vec<Attempt>,
}

/// A call under way, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) to: Address,
    pub(crate) value: U256,
    pub(crate) data: Bytes,
    pub(crate) label: String,
    pub(crate) salt: u64,
    /// Unix times.
    pub(crate) since: u64,
    pub(crate) until: u64,
    /// Whether `until` is the ledger's deadline, and not just the wallet's patience.
    pub(crate) is_deadline: bool,
    /// Times that it was in a block and failed there although an estimate had passed.
    pub(crate) failures: u32,
    /// It only uses up a nonce, so that later ones can go on: nobody waits for it.
    pub(crate) is_filler: bool,
    pub(crate) sent: Option<Sent>,
}

impl Job {
    pub(crate) fn new(id: u64, call: Call, now: u64, usual: u64) -> Self {
        let Call { to, value, data, deadline, patience, label, salt } = call;
        let patience = patience.map_or(usual, |p| p.as_secs());
        Self {
            id,
            to,
            value,
            data,
            label,
            salt,
            since: now,
            until: deadline.unwrap_or(now.saturating_add(patience)),
            is_deadline: deadline.is_some(),
            failures: 0,
            is_filler: false,
            sent: None,
        }
    }

    /// A transfer of nothing to the account itself.
    pub(crate) fn filler(id: u64, me: Address, nonce: u64, now: u64) -> Self {
        let call = Call::new(me, Bytes::new()).called("using up a nonce");
        let sent = Some(Sent { nonce, gas: FILLER_GAS, attempts: vec![] });
        Self { is_filler: true, sent, ..Self::new(id, call, now, 0) }
    }

    /// Gives up the call, but not its nonce.
    pub(crate) fn into_filler(self, me: Address) -> Self {
        let sent = self.sent.map(|s| Sent { gas: FILLER_GAS, ..s });
        Self {
            to: me,
            value: U256::ZERO,
            data: Bytes::new(),
            is_filler: true,
            is_deadline: false,
            sent,
            ..self
        }
    }

    pub(crate) fn is_same(&self, call: &Call) -> bool {
        !self.is_filler
            && (self.to, self.value, &self.data, self.salt) == (call.to, call.value, &call.data, call.salt)
    }

    /// Thousandths of its time that are over. Fillers block others, so they are always in a hurry.
    pub(crate) fn spent(&self, now: u64) -> u64 {
        let (over, all) = (now.saturating_sub(self.since), self.until.saturating_sub(self.since));
        match over.saturating_mul(WHOLE).checked_div(all) {
            Some(spent) if !self.is_filler => spent.min(WHOLE),
            _ => WHOLE,
        }
    }

    pub(crate) fn nonce(&self) -> Option<u64> {
        self.sent.as_ref().map(|s| s.nonce)
    }

    pub(crate) fn highest_fee(&self) -> u128 {
        self.sent.iter().flat_map(|s| s.attempts.last()).map(|a| a.fee).max().unwrap_or_default()
    }

    /// The error of a call whose time is over, after `last` went wrong.
    pub(crate) fn too_late(&self, last: Option<SendError>) -> SendError {
        last.unwrap_or(SendError::TooLate { deadline: self.until, fee: self.highest_fee() })
    }
}

/// Gas of a transfer.
const FILLER_GAS: u64 = 21_000;
