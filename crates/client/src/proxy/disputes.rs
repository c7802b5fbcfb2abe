use crate::{ClientError, files};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};
use types::{
    Address, B256, Bytes, ReceiptId,
    replica::{Commitment, Revealed},
};

/// Most disputes that are kept; no more are written then, since an old one may be worth more than a new one.
const KEPT_MAX: usize = 1000;

/// What is disputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeKind {
    /// The node committed, and never revealed.
    Withheld,
    /// The node revealed what fails a check, such as another answer than it committed to.
    Refused,
    /// Most nodes gave another answer.
    Minority,
    /// No answer was that of most nodes.
    NoMajority,
}

/// What a node signed that does not fit what others signed, or itself. It holds the prompt, so files are for the user only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dispute {
    /// What is disputed.
    pub kind: DisputeKind,
    /// In words.
    pub reason: String,
    /// The node.
    pub node: Address,
    /// Its receipt.
    pub receipt_id: ReceiptId,
    /// Name of the group.
    pub group: B256,
    /// Everybody in it.
    pub nodes: Vec<Address>,
    /// The first statement: what the node committed to.
    pub commitment: Commitment,
    /// The second one: the signed receipt, with all that it opens to; absent when the node never gave it.
    pub revealed: Option<Revealed>,
    /// The answer that was taken instead: its canonical receipt, whose evidence has all members of the group.
    pub against: Option<Bytes>,
    /// The request that was asked.
    pub request: String,
    /// The salt of commitments to request and answer.
    pub nonce: B256,
}

/// One file a dispute, named by the receipt.
#[derive(Debug)]
pub(super) struct Disputes {
    dir: PathBuf,
}

impl Disputes {
    pub(super) fn open(dir: &Path) -> Result<Self, ClientError> {
        files::create_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub(super) fn put(&self, dispute: &Dispute) -> Result<(), ClientError> {
        if fs::read_dir(&self.dir).map_err(files::fault(&self.dir))?.count() >= KEPT_MAX {
            let path = self.dir.display().to_string();
            let reason = format!("it holds {KEPT_MAX} disputes already; move them away to keep new ones");
            return Err(ClientError::File { path, reason });
        }
        files::write(&self.dir.join(format!("{}.json", dispute.receipt_id)), dispute)
    }
}
