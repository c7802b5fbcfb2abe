use super::{Checkpoint, NAME_BYTES_MAX, NodeOrigin, SignatureLine, bad, bound};
use crate::{TypesError, signing};
use alloy_primitives::{Address, B256, Keccak256, hex};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// What follows the type byte 0xff in the key of an account's signature: our signature type has no assigned byte, so it
/// has a name (C2SP signed-note, "Signature types").
pub const ACCOUNT_SIGNATURE: &[u8] = b"og/eip712-checkpoint/2";

const ED25519: u8 = 0x01;
const COSIGNATURE: u8 = 0x04;
const UNASSIGNED: u8 = 0xff;

/// Latest time of a cosignature, in seconds since the Unix epoch (C2SP tlog-cosignature).
const TIME_MAX: u64 = i64::MAX as u64;

/// A public key, and what kind of signatures it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// Ed25519 over the text of the note (type 0x01).
    Ed25519(B256),
    /// Ed25519 over a time and the checkpoint: a witness's `cosignature/v1` (type 0x04).
    Cosigner(B256),
    /// An Ethereum account over the [EIP-712 digest](super::account_digest) of its own log's checkpoint (type 0xff and
    /// [`ACCOUNT_SIGNATURE`]); 65 bytes r ‖ s ‖ v.
    Account(Address),
}

impl PublicKey {
    /// Signature type and key, as in key ids and verifier keys.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => [&[ED25519], key.as_slice()].concat(),
            Self::Cosigner(key) => [&[COSIGNATURE], key.as_slice()].concat(),
            Self::Account(address) => [&[UNASSIGNED], ACCOUNT_SIGNATURE, address.as_slice()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            ED25519 => Some(Self::Ed25519(rest.try_into().ok()?)),
            COSIGNATURE => Some(Self::Cosigner(rest.try_into().ok()?)),
            UNASSIGNED => Some(Self::Account(rest.strip_prefix(ACCOUNT_SIGNATURE)?.try_into().ok()?)),
            _ => None,
        }
    }
}

/// A named public key that somebody trusts. As text: `<name>+<key id, 8 hexadecimal digits>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: String,
    key: PublicKey,
}

impl VerifierKey {
    /// A named key.
    ///
    /// # Errors
    /// [`TypesError`] when the name is no [key name](SignatureLine), or the key is no point of Ed25519 or one of small
    /// order (one that would accept forged signatures).
    pub fn new(name: impl Into<String>, key: PublicKey) -> Result<Self, TypesError> {
        let name = name.into();
        check_name(&name)?;
        if let PublicKey::Ed25519(bytes) | PublicKey::Cosigner(bytes) = &key {
            point(bytes)?;
        }
        Ok(Self { name, key })
    }

    /// The account that signs the log of this origin. Nothing else need be known to check its signature.
    pub fn of_account(origin: &NodeOrigin) -> Self {
        Self { name: origin.to_string(), key: PublicKey::Account(origin.node) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Key id: the first four bytes of SHA-256(name ‖ 0x0A ‖ type ‖ key).
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new().chain_update(&self.name).chain_update(b"\n").chain_update(self.key.encode());
        let hash = hash.finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether a line says that it is by this key.
    pub fn names(&self, line: &SignatureLine) -> bool {
        line.name == self.name && line.id == self.id()
    }

    /// Checks a signature (without key id) over the text of a note. Gives the time of a cosignature.
    ///
    /// # Errors
    /// [`TypesError`] when the signature is not by this key over this text, or the text is not what this kind of key
    /// signs.
    pub fn verify(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, TypesError> {
        match &self.key {
            PublicKey::Ed25519(key) => check_ed25519(key, text.as_bytes(), signature).map(|()| None),
            PublicKey::Cosigner(key) => {
                // Only checkpoints are cosigned.
                Checkpoint::parse(text)?;
                let (time, signature) = signature.split_first_chunk().ok_or(TypesError::BadSignature)?;
                let time = u64::from_be_bytes(*time);
                if time > TIME_MAX {
                    return Err(TypesError::BadSignature);
                }
                check_ed25519(key, cosigned(text, time).as_bytes(), signature).map(|()| Some(time))
            }
            PublicKey::Account(address) => {
                let (node, digest) = Checkpoint::parse(text)?.account_digest()?;
                let signature = signature.try_into().map_err(|_| TypesError::BadSignature)?;
                if node != *address || signing::recover(digest, signature)? != node {
                    return Err(TypesError::BadSignature);
                }
                Ok(None)
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(self.key.encode()))
    }
}

impl FromStr for VerifierKey {
    type Err = TypesError;

    fn from_str(text: &str) -> Result<Self, TypesError> {
        const WHAT: &str = "verifier key";
        bound(WHAT, text.len(), NAME_BYTES_MAX + 128)?;
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad(WHAT, "expected <name>+<key id>+<base64 key>"));
        };
        let key = STANDARD.decode(key).map_err(|e| bad(WHAT, format!("the key is not base64: {e}")))?;
        let key = PublicKey::decode(&key)
            .ok_or_else(|| bad(WHAT, "the signature type or the length of the key is unknown"))?;
        let key = Self::new(name, key)?;
        if id != hex::encode(key.id()) {
            return Err(bad(
                WHAT,
                format!("the key id is {id}, but this name and key give {}", hex::encode(key.id())),
            ));
        }
        Ok(key)
    }
}

/// A named secret key.
pub struct SigningKey {
    public: VerifierKey,
    secret: Secret,
}

enum Secret {
    Ed25519(ed25519_dalek::SigningKey),
    Account(B256),
}

impl SigningKey {
    /// A log's Ed25519 key from a 32-byte seed (RFC 8032 secret).
    ///
    /// # Errors
    /// [`TypesError`] when the name is no key name.
    pub fn ed25519(name: impl Into<String>, seed: &B256) -> Result<Self, TypesError> {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::Ed25519(secret.verifying_key().to_bytes().into());
        Ok(Self { public: VerifierKey::new(name, public)?, secret: Secret::Ed25519(secret) })
    }

    /// A witness's Ed25519 key from a 32-byte seed. It must be used for nothing else.
    ///
    /// # Errors
    /// [`TypesError`] when the name is no key name.
    pub fn cosigner(name: impl Into<String>, seed: &B256) -> Result<Self, TypesError> {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::Cosigner(secret.verifying_key().to_bytes().into());
        Ok(Self { public: VerifierKey::new(name, public)?, secret: Secret::Ed25519(secret) })
    }

    /// An Ethereum account's key from its secp256k1 secret.
    ///
    /// # Errors
    /// [`TypesError`] when the name is no key name or the secret no scalar.
    pub fn account(name: impl Into<String>, secret: &B256) -> Result<Self, TypesError> {
        let public = PublicKey::Account(signing::address_of(secret)?);
        Ok(Self { public: VerifierKey::new(name, public)?, secret: Secret::Account(*secret) })
    }

    /// The public half.
    pub fn verifier(&self) -> &VerifierKey {
        &self.public
    }

    /// Signs the text of a note. `time` is in seconds since the Unix epoch; only cosignatures have it.
    ///
    /// # Errors
    /// [`TypesError`] when the text is not what this kind of key signs: a checkpoint for a cosigner, a checkpoint of its own
    /// log for an account.
    pub fn sign(&self, text: &str, time: u64) -> Result<SignatureLine, TypesError> {
        let signature = match (&self.secret, &self.public.key) {
            (Secret::Ed25519(key), PublicKey::Cosigner(_)) => {
                Checkpoint::parse(text)?;
                if time > TIME_MAX {
                    return Err(bad("cosignature", "the time is after the last one that can be signed"));
                }
                let signature = key.sign(cosigned(text, time).as_bytes());
                [&time.to_be_bytes()[..], &signature.to_bytes()].concat()
            }
            (Secret::Ed25519(key), _) => key.sign(text.as_bytes()).to_bytes().to_vec(),
            (Secret::Account(secret), _) => {
                let (node, digest) = Checkpoint::parse(text)?.account_digest()?;
                if PublicKey::Account(node) != self.public.key {
                    return Err(bad(
                        "checkpoint",
                        format!("it is of the log of {node}, whose key this is not"),
                    ));
                }
                signing::sign(secret, digest)?.to_vec()
            }
        };
        Ok(SignatureLine { name: self.public.name.clone(), id: self.public.id(), signature })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The two keys with which a node signs its own checkpoints: Ed25519, which every tool of the field reads, and its account,
/// which a contract can convict.
///
/// # Errors
/// [`TypesError`] when `secret` is not the secret key of the origin's account.
pub fn node_keys(origin: &NodeOrigin, secret: &B256) -> Result<[SigningKey; 2], TypesError> {
    let name = origin.to_string();
    if signing::address_of(secret)? != origin.node {
        return Err(bad("origin of a node's log", "it names another account than that of the secret key"));
    }
    Ok([SigningKey::ed25519(name.clone(), &log_seed(secret))?, SigningKey::account(name, secret)?])
}

/// Seed of a node's Ed25519 log key: keccak-256(`og/log-key/1` ‖ secp256k1 secret).
pub fn log_seed(secret: &B256) -> B256 {
    seed(b"og/log-key/1", secret)
}

/// Seed of a node's witness key: keccak-256(`og/witness-key/1` ‖ secp256k1 secret).
pub fn witness_seed(secret: &B256) -> B256 {
    seed(b"og/witness-key/1", secret)
}

fn seed(domain: &[u8], secret: &B256) -> B256 {
    let mut h = Keccak256::new();
    h.update(domain);
    h.update(secret);
    h.finalize()
}

/// What a witness signs (C2SP tlog-cosignature, version 1).
fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

fn point(key: &B256) -> Result<ed25519_dalek::VerifyingKey, TypesError> {
    ed25519_dalek::VerifyingKey::from_bytes(key)
        .ok()
        .filter(|k| !k.is_weak())
        .ok_or_else(|| bad("verifier key", "the bytes are no usable Ed25519 key"))
}

fn check_ed25519(key: &B256, message: &[u8], signature: &[u8]) -> Result<(), TypesError> {
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| TypesError::BadSignature)?;
    point(key)?.verify_strict(message, &signature).map_err(|_| TypesError::BadSignature)
}

/// Checks the name of a key: not empty, bounded, no Unicode space, no plus sign, no control character.
pub(super) fn check_name(name: &str) -> Result<(), TypesError> {
    bound("key name", name.len(), NAME_BYTES_MAX)?;
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c == '+' || c < ' ') {
        return Err(bad("key name", "it is empty or has a space, a plus sign or a control character"));
    }
    Ok(())
}
