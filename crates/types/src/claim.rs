use crate::{ReceiptId, Rung, Sampling};
use alloy_primitives::{Address, B256, Keccak256, U256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use serde::{Deserialize, Serialize};

/// Arithmetic class of an answer from another engine: nobody can re-run it bit for bit.
pub const ARITHMETIC_SIGNED_ONLY: u8 = 0;
/// Arithmetic class of an answer that anyone can re-run bit for bit.
pub const ARITHMETIC_EXACT: u8 = 1;

/// What a node asserts about one answer. One struct for all modes; its EIP-712 digest is what is signed,
/// logged, disputed and proved.
///
/// The prompt and the answer are present only as salted commitments ([`commit_bytes`], [`commit_tokens`]), so a
/// public log of receipts tells nobody what was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// EIP-155 chain id of the network.
    pub chain_id: u64,
    /// Hash of the network's genesis block: names the network and its first validators.
    pub genesis: B256,
    /// The node that ran the model and signs.
    pub node: Address,
    /// The model that ran.
    pub model: B256,
    /// Commitment to the raw request bytes.
    pub request_hash: B256,
    /// Commitment to the raw response bytes: the JSON body, or the whole SSE stream.
    pub response_hash: B256,
    /// Commitment to the prompt's token ids, after the chat template.
    pub prompt_hash: B256,
    /// Commitment to the generated token ids, end-of-turn token included.
    pub output_hash: B256,
    /// Number of prompt tokens.
    pub prompt_tokens: u32,
    /// Number of generated tokens.
    pub completion_tokens: u32,
    /// Bound on generated tokens that was in force.
    pub max_tokens: u32,
    /// Sampling parameters and seed.
    pub sampling: Sampling,
    /// Merkle root of the execution trace (one leaf a generated token).
    pub trace_root: B256,
    /// Price of a prompt token, in wei.
    #[serde(with = "crate::proof::decimal")]
    pub price_input: u128,
    /// Price of a generated token, in wei.
    #[serde(with = "crate::proof::decimal")]
    pub price_output: u128,
    /// Total price in wei; must equal tokens times prices.
    #[serde(with = "crate::proof::decimal")]
    pub price: u128,
    /// Number of a recent finalised block when the request arrived.
    pub anchor_number: u64,
    /// Hash of that block.
    pub anchor_hash: B256,
    /// Milliseconds since the Unix epoch, by the node's clock, when the request arrived. Also the chat template's clock.
    pub time_ms: u64,
    /// [`ARITHMETIC_EXACT`] or [`ARITHMETIC_SIGNED_ONLY`].
    pub arithmetic_class: u8,
    /// Version of the arithmetic's specification.
    pub arithmetic_version: u16,
    /// Rung that the client asked for (number of a [`Rung`]).
    pub rung_requested: u8,
    /// Rung that the receipt's evidence reaches.
    pub rung_achieved: u8,
}

sol! {
    /// EIP-712 form of [`Sampling`](crate::Sampling); floats by their IEEE-754 bits.
    struct SamplingParameters {
        uint32 temperature;
        uint32 topP;
        uint32 minP;
        uint32 topK;
        uint32 presencePenalty;
        uint32 frequencyPenalty;
        uint64 seed;
    }
    /// EIP-712 form of the claim.
    struct InferenceClaim {
        uint64 chainId;
        bytes32 genesis;
        address node;
        bytes32 model;
        bytes32 requestHash;
        bytes32 responseHash;
        bytes32 promptHash;
        bytes32 outputHash;
        uint32 promptTokens;
        uint32 completionTokens;
        uint32 maxTokens;
        SamplingParameters sampling;
        bytes32 traceRoot;
        uint128 priceInput;
        uint128 priceOutput;
        uint128 price;
        uint64 anchorNumber;
        bytes32 anchorHash;
        uint64 timeMs;
        uint8 arithmeticClass;
        uint16 arithmeticVersion;
        uint8 rungRequested;
        uint8 rungAchieved;
    }
}

impl Claim {
    /// EIP-712 domain of receipts: name `og receipt`, version `1`, the network's chain id. The genesis hash is a
    /// field of the message, so two networks with one chain id cannot share signatures.
    pub fn domain(chain_id: u64) -> Eip712Domain {
        Eip712Domain::new(Some("og receipt".into()), Some("1".into()), Some(U256::from(chain_id)), None, None)
    }

    /// The EIP-712 digest that the node signs.
    pub fn digest(&self) -> B256 {
        let s = self.sampling.bits();
        InferenceClaim {
            chainId: self.chain_id,
            genesis: self.genesis,
            node: self.node,
            model: self.model,
            requestHash: self.request_hash,
            responseHash: self.response_hash,
            promptHash: self.prompt_hash,
            outputHash: self.output_hash,
            promptTokens: self.prompt_tokens,
            completionTokens: self.completion_tokens,
            maxTokens: self.max_tokens,
            sampling: SamplingParameters {
                temperature: s.temperature,
                topP: s.top_p,
                minP: s.min_p,
                topK: s.top_k,
                presencePenalty: s.presence_penalty,
                frequencyPenalty: s.frequency_penalty,
                seed: s.seed,
            },
            traceRoot: self.trace_root,
            priceInput: self.price_input,
            priceOutput: self.price_output,
            price: self.price,
            anchorNumber: self.anchor_number,
            anchorHash: self.anchor_hash,
            timeMs: self.time_ms,
            arithmeticClass: self.arithmetic_class,
            arithmeticVersion: self.arithmetic_version,
            rungRequested: self.rung_requested,
            rungAchieved: self.rung_achieved,
        }
        .eip712_signing_hash(&Self::domain(self.chain_id))
    }

    /// This claim's receipt id.
    pub fn receipt_id(&self) -> ReceiptId {
        Self::receipt_id_of(self.chain_id, self.genesis, self.node, self.request_hash)
    }

    /// The receipt id depends only on what is known before the first token, so it can be a response header.
    /// Two different claims signed under one id are proof that the node equivocated.
    pub fn receipt_id_of(chain_id: u64, genesis: B256, node: Address, request_hash: B256) -> ReceiptId {
        let mut h = Keccak256::new();
        h.update(b"og/receipt-id/1");
        h.update(chain_id.to_be_bytes());
        h.update(genesis);
        h.update(node);
        h.update(request_hash);
        ReceiptId(h.finalize())
    }

    /// The total that the token counts and prices give; `None` on overflow.
    pub fn computed_price(&self) -> Option<u128> {
        let input = self.price_input.checked_mul(u128::from(self.prompt_tokens))?;
        input.checked_add(self.price_output.checked_mul(u128::from(self.completion_tokens))?)
    }

    /// The achieved rung, when its number is known.
    pub fn rung(&self) -> Option<Rung> {
        Rung::try_from(self.rung_achieved).ok()
    }
}

/// Salted commitment to bytes: keccak-256 of `domain ‖ nonce ‖ bytes`. The nonce has 32 bytes, and no domain is a
/// prefix of another, so the encoding is unique.
fn commit(domain: &[u8], nonce: &B256, bytes: &[u8]) -> B256 {
    let mut h = Keccak256::new();
    h.update(domain);
    h.update(nonce);
    h.update(bytes);
    h.finalize()
}

/// Commitments to the raw request and response bytes under the client's nonce.
pub fn commit_bytes(nonce: &B256, request: &[u8], response: &[u8]) -> (B256, B256) {
    (commit(b"og/request/1", nonce, request), commit(b"og/response/1", nonce, response))
}

/// Commitment to token ids (each as four big-endian bytes) under the client's nonce.
pub fn commit_tokens(nonce: &B256, tokens: &[u32]) -> B256 {
    let mut h = Keccak256::new();
    h.update(b"og/tokens/1");
    h.update(nonce);
    for t in tokens {
        h.update(t.to_be_bytes());
    }
    h.finalize()
}

impl Claim {
    /// Commitment to raw request bytes alone, for use before the response exists.
    pub fn request_commitment(nonce: &B256, request: &[u8]) -> B256 {
        commit(b"og/request/1", nonce, request)
    }
}
