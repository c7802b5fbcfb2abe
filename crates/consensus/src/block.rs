use crate::{Chain, ConsensusError, ValidatorSecret, epochs};
use alloy_primitives::{B256, FixedBytes, Keccak256};
use bytes::{BufMut, Bytes};
use commonware_codec::{
    Buf, DecodeExt as _, Encode as _, EncodeSize, Error, RangeCfg, Read, ReadExt as _, Write,
};
use commonware_consensus::{
    BoundedBlock, CertifiableBlock, Heightable,
    simplex::types::Context as SimplexContext,
    types::{Epoch, Height, Round, View},
};
use commonware_cryptography::{Digest as _, Digestible, ed25519, keccak256::Digest};
use ledger::Executed;
use std::sync::Arc;
use verify::finality;

/// The consensus context a block is proposed in: round, leader and certified parent.
pub type Context = SimplexContext<Digest, ed25519::PublicKey>;

/// Upper bound on the encoded consensus context (varints, a 32-byte key, a 32-byte digest).
const CONTEXT_BYTES_MAX: usize = 256;

/// Largest encoded consensus block.
pub(crate) const BLOCK_BYTES_MAX: usize = ledger::MAX_BLOCK_BYTES + 1024;

/// A ledger block and the consensus context it was proposed in.
///
/// Its digest is the ledger block's hash. The header's `extraData` is the [`seal`] over context and millisecond timestamp, so
/// the digest commits to both.
#[derive(Clone, Debug)]
pub struct Block {
    context: Context,
    timestamp_ms: u64,
    /// The proposer's contribution to the chain's randomness.
    reveal: FixedBytes<48>,
    inner: Arc<ledger::Block>,
    digest: Digest,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}
impl Eq for Block {}

/// What the header's `extraData` holds: keccak-256 of `"og/seal/2" ‖ reveal ‖ context ‖ timestamp_ms`.
pub(crate) fn seal(context: &Context, timestamp_ms: u64, reveal: &FixedBytes<48>) -> B256 {
    let mut h = Keccak256::new();
    h.update(b"og/seal/2");
    h.update(reveal);
    h.update(context.encode());
    h.update(timestamp_ms.to_be_bytes());
    h.finalize()
}

impl Block {
    /// A block proposed in `context`. The caller has put the seal over the other arguments into the header: see [`propose`](Self::propose).
    pub fn new(
        context: Context,
        timestamp_ms: u64,
        reveal: FixedBytes<48>,
        inner: Arc<ledger::Block>,
    ) -> Self {
        let digest = Digest::from(inner.hash().0);
        Self { context, timestamp_ms, reveal, inner, digest }
    }

    /// Builds the block that follows `parent` from the mempool of `chain`, in the name of the validator with these keys.
    ///
    /// # Errors
    /// [`ConsensusError::UnknownLeader`] when the validator is not in the set, [`ConsensusError::Ledger`] when the block cannot be built.
    pub fn propose(
        chain: &Chain,
        secret: &ValidatorSecret,
        context: Context,
        timestamp_ms: u64,
        parent: &Executed,
    ) -> Result<Self, ConsensusError> {
        let (epoch, view) = (context.round.epoch().get(), context.round.view().get());
        let reveal = secret.reveal(chain.genesis().hash(), epoch, view);
        let turn = epochs::turn(parent.validators(), chain.turn_seed(parent)?, &context)
            .ok_or(ConsensusError::UnknownLeader)?;
        let randomness = finality::randomness(parent.header().mix_hash, &reveal);
        let seal = seal(&context, timestamp_ms, &reveal);
        let built = chain.build(parent, timestamp_ms / 1000, seal, randomness, turn)?;
        Ok(Self::new(context, timestamp_ms, reveal, built.block().clone()))
    }

    /// The genesis block; its context is the same in all networks.
    pub(crate) fn genesis(inner: Arc<ledger::Block>) -> Self {
        let timestamp_ms = inner.header.timestamp.saturating_mul(1000);
        Self::new(genesis_context(), timestamp_ms, FixedBytes::ZERO, inner)
    }

    /// The ledger block.
    pub fn ledger_block(&self) -> &Arc<ledger::Block> {
        &self.inner
    }

    /// Milliseconds since the Unix epoch, by the proposer's clock.
    pub fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// The proposer's contribution to the chain's randomness.
    pub fn reveal(&self) -> &FixedBytes<48> {
        &self.reveal
    }

    pub(crate) fn context_ref(&self) -> &Context {
        &self.context
    }

    /// The block's hash.
    pub fn hash(&self) -> B256 {
        B256::new(self.digest.0)
    }

    /// The consistency rules between envelope and header. They hold for every block that was decoded.
    fn is_consistent(&self) -> bool {
        let header = &self.inner.header;
        if header.timestamp != self.timestamp_ms / 1000 {
            return false;
        }
        if header.number == 0 {
            let empty = self.context == genesis_context() && self.reveal.is_zero();
            return empty && self.timestamp_ms.is_multiple_of(1000);
        }
        header.extra_data.as_ref() == seal(&self.context, self.timestamp_ms, &self.reveal).as_slice()
            && header.parent_hash.as_slice() == self.context.parent.1.as_ref()
    }
}

fn genesis_context() -> Context {
    // A fixed, valid curve point stands for "no leader"; nobody signs with it, because view 0 has no votes.
    let leader = ed25519::PublicKey::decode(Bytes::from_static(&NOBODY))
        .unwrap_or_else(|_| unreachable!("a valid point"));
    Context { round: Round::new(Epoch::zero(), View::zero()), leader, parent: (View::zero(), Digest::EMPTY) }
}

/// The Ed25519 base point, compressed (RFC 8032).
const NOBODY: [u8; 32] = {
    let mut point = [0x66; 32];
    point[0] = 0x58;
    point
};

impl Write for Block {
    fn write(&self, writer: &mut impl BufMut) {
        self.context.write(writer);
        self.timestamp_ms.write(writer);
        self.reveal.0.write(writer);
        Bytes::from(self.inner.encode()).write(writer);
    }
}

impl Read for Block {
    type Cfg = RangeCfg<usize>;

    fn read_cfg(reader: &mut impl Buf, cfg: &Self::Cfg) -> Result<Self, Error> {
        let context = Context::read(reader)?;
        let timestamp_ms = u64::read(reader)?;
        let reveal = FixedBytes::new(<[u8; 48]>::read(reader)?);
        let body = Bytes::read_cfg(reader, cfg)?;
        let inner =
            ledger::Block::decode(&body).map_err(|_| Error::Invalid("Block", "malformed ledger block"))?;
        let block = Self::new(context, timestamp_ms, reveal, Arc::new(inner));
        if !block.is_consistent() {
            return Err(Error::Invalid("Block", "the header does not commit to the consensus context"));
        }
        Ok(block)
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        let body = self.inner.encoded_len();
        self.context.encode_size() + 8 + 48 + body.encode_size() + body
    }
}

impl Digestible for Block {
    type Digest = Digest;
    fn digest(&self) -> Digest {
        self.digest
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.inner.header.number)
    }
}

impl commonware_consensus::Block for Block {
    fn parent(&self) -> Digest {
        Digest::from(self.inner.header.parent_hash.0)
    }
}

impl CertifiableBlock for Block {
    type Context = Context;
    fn context(&self) -> Context {
        self.context.clone()
    }
}

impl BoundedBlock for Block {
    fn max_encode_size(_cfg: &RangeCfg<usize>) -> usize {
        CONTEXT_BYTES_MAX + BLOCK_BYTES_MAX
    }
}
