use crate::{ReceiptId, Rung, Sampling, TypesError, merkle};
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
    /// Number of answers to the request; 0 for embeddings.
    pub choices: u32,
    /// Sampling parameters and seed.
    pub sampling: Sampling,
    /// Commitment to [`Options`](crate::Options); zero when there are none.
    pub options: B256,
    /// Merkle root of the execution trace (one leaf a position).
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
    /// Account that pays and is refunded when the answer is proved wrong; zero when nobody pays.
    pub payer: Address,
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
    /// EIP-712 form of what the answer costs, in wei, and who pays.
    struct Payment {
        uint128 priceInput;
        uint128 priceOutput;
        uint128 price;
        address payer;
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
        uint32 choices;
        SamplingParameters sampling;
        bytes32 options;
        bytes32 traceRoot;
        Payment payment;
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
    /// EIP-712 domain of receipts: name `og receipt`, version `2`, the network's chain id. The genesis hash is a
    /// field of the message, so two networks with one chain id cannot share signatures.
    pub fn domain(chain_id: u64) -> Eip712Domain {
        Eip712Domain::new(Some("og receipt".into()), Some("2".into()), Some(U256::from(chain_id)), None, None)
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
            choices: self.choices,
            sampling: SamplingParameters {
                temperature: s.temperature,
                topP: s.top_p,
                minP: s.min_p,
                topK: s.top_k,
                presencePenalty: s.presence_penalty,
                frequencyPenalty: s.frequency_penalty,
                seed: s.seed,
            },
            options: self.options,
            traceRoot: self.trace_root,
            payment: Payment {
                priceInput: self.price_input,
                priceOutput: self.price_output,
                price: self.price,
                payer: self.payer,
            },
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

/// Which tokens of an answer a commitment is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// The prompt, after the chat template.
    Prompt,
    /// What was generated.
    Output,
}

impl Tokens {
    /// Salt of the token at `index`: opening one token tells nothing of the others.
    fn salt(self, nonce: &B256, index: u32) -> B256 {
        let mut h = Keccak256::new();
        h.update(match self {
            Self::Prompt => b"og/prompt-token/2",
            Self::Output => b"og/output-token/2",
        });
        h.update(nonce);
        h.update(index.to_be_bytes());
        h.finalize()
    }

    fn leaves(self, nonce: &B256, tokens: &[u32]) -> Vec<B256> {
        let leaf = |(i, t): (usize, &u32)| token_leaf(&self.salt(nonce, i as u32), *t);
        tokens.iter().enumerate().map(leaf).collect()
    }

    /// Opens the commitment to `tokens` at `index`.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn open(self, nonce: &B256, tokens: &[u32], index: usize) -> TokenOpening {
        let path = merkle::range_path(&self.leaves(nonce, tokens), index..index + 1).unwrap_or_default();
        TokenOpening { salt: self.salt(nonce, index as u32), token: tokens[index], path }
    }
}

/// RFC 6962 leaf of a token: salt ‖ token id as big-endian `u32`.
fn token_leaf(salt: &B256, token: u32) -> B256 {
    let mut data = [0u8; 36];
    data[..32].copy_from_slice(salt.as_slice());
    data[32..].copy_from_slice(&token.to_be_bytes());
    merkle::leaf_hash(&data)
}

/// One token of a commitment.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct TokenOpening {
    /// The token's own salt.
    pub salt: B256,
    /// The token's id.
    pub token: u32,
    /// Merkle path, from left to right.
    pub path: Vec<B256>,
}

impl TokenOpening {
    /// The commitment of `count` tokens that has this one at `index`.
    ///
    /// # Errors
    /// [`TypesError`] when the path does not fit.
    pub fn commitment(&self, index: u64, count: u64) -> Result<B256, TypesError> {
        merkle::root_from_range(&[token_leaf(&self.salt, self.token)], index, count, &self.path)
    }
}

/// Commitment to token ids under the client's nonce: the RFC 6962 root over salted leaves, so that a dispute can open a single
/// token.
pub fn commit_tokens(nonce: &B256, which: Tokens, tokens: &[u32]) -> B256 {
    merkle::root(&which.leaves(nonce, tokens))
}

impl Claim {
    /// Commitment to raw request bytes alone, for use before the response exists.
    pub fn request_commitment(nonce: &B256, request: &[u8]) -> B256 {
        commit(b"og/request/1", nonce, request)
    }
}
