use crate::TypesError;
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// How the next token is chosen from the logits. Order of application and tie-breaks: the arithmetic
/// specification (`crates/kernels/SPEC.md`). Floats are committed by their IEEE-754 bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 means greedy; otherwise logits are divided by it. In [0, 2].
    pub temperature: f32,
    /// Nucleus: smallest set of tokens whose probability reaches it. In (0, 1]; 1 turns it off.
    pub top_p: f32,
    /// Tokens less likely than `min_p` times the likeliest are dropped. In [0, 1]; 0 turns it off.
    pub min_p: f32,
    /// Keep the k likeliest tokens; 0 turns it off.
    pub top_k: u32,
    /// Subtracted once from the logit of every token already generated. In [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was already generated. In [-2, 2].
    pub frequency_penalty: f32,
    /// Key of the counter-based generator.
    pub seed: u64,
}

impl Sampling {
    /// Greedy decoding: always the likeliest token, ties to the lowest id.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        top_k: 0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
    };

    /// Checks every range (NaN fails all of them), and that no zero is negative: that would be a second spelling.
    ///
    /// # Errors
    /// [`TypesError::BadSampling`] names the first parameter out of range.
    pub fn validate(&self) -> Result<(), TypesError> {
        let check = |ok: bool, name, expected| {
            if ok { Ok(()) } else { Err(TypesError::BadSampling { name, expected }) }
        };
        let floats =
            [self.temperature, self.top_p, self.min_p, self.presence_penalty, self.frequency_penalty];
        check(floats.iter().all(|x| x.to_bits() != 0x8000_0000), "a sampling parameter", "no negative zero")?;
        check((0.0..=2.0).contains(&self.temperature), "temperature", "between 0 and 2")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "greater than 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", "between 0 and 1")?;
        check((-2.0..=2.0).contains(&self.presence_penalty), "presence_penalty", "between -2 and 2")?;
        check((-2.0..=2.0).contains(&self.frequency_penalty), "frequency_penalty", "between -2 and 2")
    }

    pub(crate) fn bits(&self) -> SamplingBits {
        SamplingBits {
            temperature: canonical_bits(self.temperature),
            top_p: canonical_bits(self.top_p),
            min_p: canonical_bits(self.min_p),
            top_k: self.top_k,
            presence_penalty: canonical_bits(self.presence_penalty),
            frequency_penalty: canonical_bits(self.frequency_penalty),
            seed: self.seed,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, ..Self::GREEDY }
    }
}

/// -0.0 and 0.0 mean the same, so they have one encoding.
fn canonical_bits(x: f32) -> u32 {
    if x == 0.0 { 0 } else { x.to_bits() }
}

#[derive(RlpEncodable, RlpDecodable)]
pub(crate) struct SamplingBits {
    pub(crate) temperature: u32,
    pub(crate) top_p: u32,
    pub(crate) min_p: u32,
    pub(crate) top_k: u32,
    pub(crate) presence_penalty: u32,
    pub(crate) frequency_penalty: u32,
    pub(crate) seed: u64,
}

impl Encodable for Sampling {
    fn encode(&self, out: &mut dyn alloy_rlp::BufMut) {
        self.bits().encode(out);
    }
    fn length(&self) -> usize {
        self.bits().length()
    }
}

impl Decodable for Sampling {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let b = SamplingBits::decode(buf)?;
        let sampling = Self {
            temperature: f32::from_bits(b.temperature),
            top_p: f32::from_bits(b.top_p),
            min_p: f32::from_bits(b.min_p),
            top_k: b.top_k,
            presence_penalty: f32::from_bits(b.presence_penalty),
            frequency_penalty: f32::from_bits(b.frequency_penalty),
            seed: b.seed,
        };
        sampling.validate().map_err(|_| alloy_rlp::Error::Custom("sampling parameter out of range"))?;
        if sampling.bits().temperature != b.temperature
            || sampling.bits().min_p != b.min_p
            || sampling.bits().presence_penalty != b.presence_penalty
            || sampling.bits().frequency_penalty != b.frequency_penalty
        {
            return Err(alloy_rlp::Error::Custom("negative zero in sampling parameters"));
        }
        Ok(sampling)
    }
}
