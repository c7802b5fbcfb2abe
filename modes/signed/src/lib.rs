//! Rung `signed`: this node said so, and cannot deny it.
//!
//! Evidence is the node's 65-byte secp256k1 signature over the claim's EIP-712 digest. It proves authorship and nothing
//! else: not that the model ran, only who is to blame if it did not.

use types::{Address, B256, Bytes, Claim, Evidence, ModeId, Rung, TypesError, replica, signing};
use verify::{Context, Finding, ProduceError, Producer, Rejection, Verdict, Verifier};

const MODE: ModeId = Rung::Signed.mode();

/// Checks that the claim was signed by the node that it names.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignedVerifier;

impl Verifier for SignedVerifier {
    fn mode(&self) -> ModeId {
        MODE
    }

    fn work(&self, _evidence: &Evidence) -> u64 {
        1
    }

    fn check(
        &self,
        claim: &Claim,
        evidence: &Evidence,
        _context: &Context<'_>,
    ) -> Result<Finding, Rejection> {
        let signature: [u8; 65] = evidence
            .body
            .as_ref()
            .try_into()
            .map_err(|_| Rejection::Malformed("a signature has 65 bytes"))?;
        let signer = signing::recover(claim.digest(), &signature)
            .map_err(|_| Rejection::Malformed("the signature fits no key"))?;
        if signer != claim.node {
            return Err(Rejection::Unbound(format!(
                "signed by {signer}, but the claim names {}",
                claim.node
            )));
        }
        Ok(Finding {
            verdict: Verdict::Supports,
            rung: Rung::Signed,
            mode: MODE,
            summary: format!("signed by node {signer}"),
        })
    }
}

/// Signs claims with one node's key.
pub struct SignedProducer {
    secret: B256,
    address: Address,
}

impl std::fmt::Debug for SignedProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignedProducer({})", self.address)
    }
}

impl SignedProducer {
    /// A producer that signs with `secret`.
    ///
    /// # Errors
    /// [`TypesError::BadSecretKey`].
    pub fn new(secret: B256) -> Result<Self, TypesError> {
        Ok(Self { address: signing::address_of(&secret)?, secret })
    }

    /// The node's address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Signs a commitment of this node to an answer that it has yet to reveal.
    ///
    /// # Errors
    /// [`TypesError::BadSecretKey`], which [`new`](Self::new) rules out.
    pub fn commit(&self, commitment: B256) -> Result<replica::Commitment, TypesError> {
        let signature = signing::sign(&self.secret, commitment)?.to_vec().into();
        Ok(replica::Commitment { node: self.address, commitment, signature })
    }
}

impl Producer<()> for SignedProducer {
    fn mode(&self) -> ModeId {
        MODE
    }

    fn produce(&self, claim: &Claim, _input: &()) -> Result<Evidence, ProduceError> {
        if claim.node != self.address {
            return Err(ProduceError(format!(
                "the claim names {}, but this key is {}",
                claim.node, self.address
            )));
        }
        let signature =
            signing::sign(&self.secret, claim.digest()).map_err(|e| ProduceError(e.to_string()))?;
        Ok(Evidence { mode: MODE, body: Bytes::from(signature.to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::Sampling;
    use verify::NoAnchors;

    const CONTEXT: Context<'static> = Context { now_ms: 0, anchors: &NoAnchors, work_max: 10 };

    fn claim(node: Address) -> Claim {
        Claim {
            chain_id: 1,
            genesis: B256::ZERO,
            node,
            model: B256::ZERO,
            request_hash: B256::ZERO,
            response_hash: B256::ZERO,
            prompt_hash: B256::ZERO,
            output_hash: B256::ZERO,
            prompt_tokens: 3,
            completion_tokens: 4,
            max_tokens: 5,
            choices: 1,
            sampling: Sampling::GREEDY,
            options: B256::ZERO,
            trace_root: B256::ZERO,
            price_input: 1,
            price_output: 2,
            price: 11,
            payer: Address::ZERO,
            anchor_number: 0,
            anchor_hash: B256::ZERO,
            time_ms: 0,
            arithmetic_class: 1,
            arithmetic_version: 1,
            rung_requested: 1,
            rung_achieved: 1,
        }
    }

    #[test]
    fn a_signature_backs_its_own_claim_only() {
        let producer = SignedProducer::new(B256::repeat_byte(7)).unwrap();
        let claim = claim(producer.address());
        let evidence = producer.produce(&claim, &()).unwrap();
        let finding = SignedVerifier.check(&claim, &evidence, &CONTEXT).unwrap();
        assert_eq!((finding.verdict, finding.rung), (Verdict::Supports, Rung::Signed));

        let mut other = claim.clone();
        other.price += 1;
        assert!(SignedVerifier.check(&other, &evidence, &CONTEXT).is_err());

        let thief = SignedProducer::new(B256::repeat_byte(8)).unwrap();
        assert!(thief.produce(&claim, &()).is_err());
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
        let producer = SignedProducer::new(B256::repeat_byte(7)).unwrap();
        let claim = claim(producer.address());
        let good = producer.produce(&claim, &()).unwrap();
        for bit in 0..good.body.len() * 8 {
            let mut body = good.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let evidence = Evidence { mode: MODE, body: body.into() };
            assert!(SignedVerifier.check(&claim, &evidence, &CONTEXT).is_err(), "bit {bit}");
        }
        for len in [0, 64, 66, 1000] {
            let evidence = Evidence { mode: MODE, body: vec![1; len].into() };
            assert!(SignedVerifier.check(&claim, &evidence, &CONTEXT).is_err());
        }
    }
}
