//! secp256k1 signatures over 32-byte digests, as Ethereum makes them: deterministic nonces (RFC 6979), low `s`
//! (EIP-2), recovery id 27 or 28. Anything else is rejected, so a signature has one encoding.

use crate::TypesError;
use alloy_primitives::{Address, B256};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};

/// Signs `digest`; 65 bytes r ‖ s ‖ v with v 27 or 28.
///
/// # Errors
/// [`TypesError::BadSecretKey`] when `secret` is no valid scalar.
pub fn sign(secret: &B256, digest: B256) -> Result<[u8; 65], TypesError> {
    let key = SigningKey::from_slice(secret.as_slice()).map_err(|_| TypesError::BadSecretKey)?;
    let (signature, recovery) =
        key.sign_prehash_recoverable(digest.as_slice()).map_err(|_| TypesError::BadSecretKey)?;
    let mut out = [0u8; 65];
    out[..64].copy_from_slice(&signature.to_bytes());
    out[64] = 27 + recovery.to_byte();
    Ok(out)
}

/// The address whose key made `signature` over `digest`.
///
/// # Errors
/// [`TypesError::BadSignature`] when it is malformed, malleable (high `s`) or fits no key.
pub fn recover(digest: B256, signature: &[u8; 65]) -> Result<Address, TypesError> {
    let bad = || TypesError::BadSignature;
    let parsed = Signature::from_slice(&signature[..64]).map_err(|_| bad())?;
    if parsed.normalize_s().is_some() {
        return Err(bad());
    }
    let v = signature[64].checked_sub(27).filter(|v| *v < 2).ok_or_else(bad)?;
    let recovery = RecoveryId::from_byte(v).ok_or_else(bad)?;
    let key = VerifyingKey::recover_from_prehash(digest.as_slice(), &parsed, recovery).map_err(|_| bad())?;
    Ok(Address::from_public_key(&key))
}

/// The address of a secret key.
///
/// # Errors
/// [`TypesError::BadSecretKey`] when `secret` is no valid scalar.
pub fn address_of(secret: &B256) -> Result<Address, TypesError> {
    let key = SigningKey::from_slice(secret.as_slice()).map_err(|_| TypesError::BadSecretKey)?;
    Ok(Address::from_public_key(key.verifying_key()))
}

/// What an auditor signs to be shown the answer behind receipt `index` of `node`'s log at `time` (Unix seconds).
pub fn audit_request(genesis: &B256, node: &Address, index: u64, time: u64) -> B256 {
    let mut bytes = b"og/audit-request/1".to_vec();
    bytes.extend_from_slice(genesis.as_slice());
    bytes.extend_from_slice(node.as_slice());
    bytes.extend_from_slice(&index.to_be_bytes());
    bytes.extend_from_slice(&time.to_be_bytes());
    alloy_primitives::keccak256(bytes)
}
