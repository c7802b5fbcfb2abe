//! Rung `replicated`: most of the nodes that were asked got the same bits, each before it could see the others' answers.
//!
//! **Problem.** One node's signature says who is to blame, not that the model ran. Several nodes that agree are worth more, but only
//! when none of them could copy, and when whoever shows their agreement cannot leave out those who disagree.
//!
//! **Design.** Evidence is a [`Group`]: all nodes that were asked under one nonce, and for each that answered its signed claim and
//! the signed commitment that it gave before any answer was revealed ([`types::replica`]). The group's name commits to the
//! request and to everybody who was asked, and is part of every commitment; a node that committed as one of `n` cannot be shown
//! as one of fewer.
//!
//! **Guarantees.** The claim is that of a member; at least `k` members, and more than half of those asked, signed the same
//! prompt, output and trace for the same model, sampling, options and time.
//!
//! **What it does not show.** That the nodes belong to different people, nor that the nodes without an answer here were silent:
//! they count as if they disagreed.

use alloy_rlp::{RlpDecodable, RlpEncodable};
use types::{Address, B256, Claim, Evidence, FixedBytes, ModeId, Rung, replica, signing};
use verify::{Context, Finding, ProduceError, Producer, Rejection, Verdict, Verifier};

const MODE: ModeId = Rung::Replicated.mode();

/// Trust anchor: fewest members that must agree, as a single byte.
pub const ANCHOR: &str = "replicated/k";

/// Longest encoding of a member. Its fields have fixed sizes or are integers.
const MEMBER_BYTES_MAX: usize = 1024;
/// Shortest encoding of a member: two signatures, the salt, nine hashes and two addresses.
const MEMBER_BYTES_MIN: usize = 67 + 67 + 33 + 9 * 33 + 2 * 21;
/// Longest evidence.
const BODY_BYTES_MAX: usize = (MEMBER_BYTES_MAX + 21) * replica::NODES_MAX + 64;

/// A node that answered.
#[derive(Clone, Debug, PartialEq, RlpEncodable, RlpDecodable)]
pub struct Member {
    /// The node's signature over its commitment, given before any answer was revealed.
    pub commitment: FixedBytes<65>,
    /// Opens the commitment.
    pub salt: B256,
    /// What the node claims of its own answer.
    pub claim: Claim,
    /// The node's signature over the claim.
    pub signature: FixedBytes<65>,
}

impl Member {
    /// Whether this member got what `other` got: the same prompt, output and trace of the same request to the same model.
    pub fn agrees(&self, other: &Claim) -> bool {
        same_answer(&self.claim, other)
    }
}

/// All nodes that were asked, and what came of it.
#[derive(Clone, Debug, PartialEq, RlpEncodable, RlpDecodable)]
pub struct Group {
    /// Name of the group; see [`replica::group_hash`].
    pub group: B256,
    /// Fewest members that must agree for this evidence to hold: 2 to 16.
    pub k: u8,
    /// Everybody who was asked, in ascending order.
    pub asked: Vec<Address>,
    /// Those who committed and revealed, in ascending order of their nodes, whether they agree or not.
    pub members: Vec<Member>,
}

impl Group {
    /// Canonical bytes (RLP).
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes canonical bytes.
    ///
    /// # Errors
    /// [`Rejection::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > BODY_BYTES_MAX {
            return Err(Rejection::Malformed("the evidence of a group is too long"));
        }
        let group: Self = alloy_rlp::decode_exact(bytes)
            .map_err(|_| Rejection::Malformed("not canonical RLP of a group"))?;
        match group.encode() == bytes {
            true => Ok(group),
            false => Err(Rejection::Malformed("not canonical RLP of a group")),
        }
    }

    /// Members that agree with `claim`.
    pub fn agreeing<'a>(&'a self, claim: &'a Claim) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(|m| m.agrees(claim))
    }
}

/// Whether two claims are of one answer. What a node may choose for itself is not compared: prices, the block that it knows, and
/// the bytes of the response, which name the receipt.
pub fn same_answer(a: &Claim, b: &Claim) -> bool {
    let sampling = |c: &Claim| alloy_rlp::encode(c.sampling);
    same_question(a, b)
        && (a.model, a.options, a.max_tokens, a.choices) == (b.model, b.options, b.max_tokens, b.choices)
        && (a.arithmetic_class, a.arithmetic_version) == (b.arithmetic_class, b.arithmetic_version)
        && (a.prompt_hash, a.output_hash, a.trace_root) == (b.prompt_hash, b.output_hash, b.trace_root)
        && (a.prompt_tokens, a.completion_tokens) == (b.prompt_tokens, b.completion_tokens)
        && (a.time_ms, a.rung_requested) == (b.time_ms, b.rung_requested)
        && sampling(a) == sampling(b)
}

/// Whether two claims are about one request, under one nonce, on one network.
fn same_question(a: &Claim, b: &Claim) -> bool {
    (a.chain_id, a.genesis, a.request_hash) == (b.chain_id, b.genesis, b.request_hash)
}

/// Checks that most of the nodes that were asked agree with the claim.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicatedVerifier;

impl Verifier for ReplicatedVerifier {
    fn mode(&self) -> ModeId {
        MODE
    }

    /// Signatures to recover: two a member.
    fn work(&self, evidence: &Evidence) -> u64 {
        2 * (1 + (evidence.body.len() / MEMBER_BYTES_MIN) as u64)
    }

    fn check(&self, claim: &Claim, evidence: &Evidence, context: &Context<'_>) -> Result<Finding, Rejection> {
        let group = Group::decode(&evidence.body)?;
        let k = usize::from(group.k);
        if !(replica::NODES_MIN..=replica::NODES_MAX).contains(&k) {
            return Err(Rejection::Malformed("k must be between 2 and 16"));
        }
        if let Some(wanted) = context.anchors.get(ANCHOR) {
            let [wanted] = wanted else {
                return Err(Rejection::Untrusted(format!("the anchor {ANCHOR} must be one byte")));
            };
            if group.k < *wanted {
                let message = format!("it is for {k} nodes that agree, and you want {wanted}");
                return Err(Rejection::Untrusted(message));
            }
        }
        if replica::group_hash(claim.request_hash, &group.asked) != Some(group.group) {
            let message = "its group is of another request or of other nodes; somebody may be left out";
            return Err(Rejection::Unbound(message.into()));
        }
        if !group.members.windows(2).all(|pair| pair[0].claim.node < pair[1].claim.node) {
            return Err(Rejection::Malformed("members must be in ascending order, each once"));
        }
        for member in &group.members {
            check_member(member, claim, &group)?;
        }
        let digest = claim.digest();
        if !group.members.iter().any(|m| m.claim.digest() == digest) {
            return Err(Rejection::Unbound("the claim is not that of a member".into()));
        }
        let (agreed, asked) = (group.agreeing(claim).count(), group.asked.len());
        if agreed < k || 2 * agreed <= asked {
            let message = format!("{agreed} of {asked} nodes agree; {k}, and more than half, are needed");
            return Err(Rejection::Untrusted(message));
        }
        Ok(Finding {
            verdict: Verdict::Supports,
            rung: Rung::Replicated,
            mode: MODE,
            summary: format!(
                "{agreed} of {asked} nodes that committed before they could see each other agree"
            ),
        })
    }
}

fn check_member(member: &Member, claim: &Claim, group: &Group) -> Result<(), Rejection> {
    let theirs = &member.claim;
    let node = theirs.node;
    if group.asked.binary_search(&node).is_err() {
        return Err(Rejection::Unbound(format!("{node} is a member, but was not asked")));
    }
    if !same_question(theirs, claim) {
        return Err(Rejection::Unbound(format!("the claim of member {node} is about another request")));
    }
    let signed_by = |digest: B256, signature: &FixedBytes<65>| {
        signing::recover(digest, &signature.0).is_ok_and(|signer| signer == node)
    };
    if !signed_by(theirs.digest(), &member.signature) {
        return Err(Rejection::Unbound(format!("the claim of member {node} is not signed by it")));
    }
    let commitment =
        replica::commitment(group.group, node, theirs.output_hash, theirs.trace_root, member.salt);
    if !signed_by(commitment, &member.commitment) {
        let message = format!("member {node} did not commit to this answer in this group");
        return Err(Rejection::Unbound(message));
    }
    Ok(())
}

/// Makes evidence out of a group, by whoever asked it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicatedProducer;

impl Producer<Group> for ReplicatedProducer {
    fn mode(&self) -> ModeId {
        MODE
    }

    fn produce(&self, claim: &Claim, group: &Group) -> Result<Evidence, ProduceError> {
        let evidence = Evidence { mode: MODE, body: group.encode().into() };
        let context = Context { now_ms: claim.time_ms, anchors: &verify::NoAnchors, work_max: u64::MAX };
        ReplicatedVerifier.check(claim, &evidence, &context).map_err(|e| ProduceError(e.to_string()))?;
        Ok(evidence)
    }
}
