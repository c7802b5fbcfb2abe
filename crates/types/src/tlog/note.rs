use super::{
    NOTE_BYTES_MAX, SIGNATURE_BYTES_MAX, SIGNATURES_MAX, SigningKey, VerifierKey, bad, bound, key::check_name,
};
use crate::TypesError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// A text and signatures over it (C2SP signed-note).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// One signature of a note: `— <key name> <base64 of key id and signature>`. A key name is not empty and has neither Unicode
/// spaces nor a plus sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// Name of the key.
    pub name: String,
    /// Key id.
    pub id: [u8; 4],
    /// The signature; what it means depends on the key.
    pub signature: Vec<u8>,
}

impl Note {
    /// Signs a text with every key. `time` (seconds since the Unix epoch) goes into cosignatures.
    ///
    /// # Errors
    /// [`TypesError`] when the text cannot be in a note, there is no key, or a key does not sign such texts.
    pub fn sign(text: impl Into<String>, keys: &[SigningKey], time: u64) -> Result<Self, TypesError> {
        let text = text.into();
        check_text(&text)?;
        bound("number of signatures", keys.len(), SIGNATURES_MAX)?;
        let signatures: Result<Vec<_>, _> = keys.iter().map(|key| key.sign(&text, time)).collect();
        let note = Self { text, signatures: signatures? };
        if keys.is_empty() {
            return Err(bad("signed note", "it needs a key"));
        }
        Ok(note)
    }

    /// Reads a signed note.
    ///
    /// # Errors
    /// [`TypesError`] when it is too long, has too many signatures, or is not spelled as the specification says.
    pub fn parse(bytes: &[u8]) -> Result<Self, TypesError> {
        const WHAT: &str = "signed note";
        bound(WHAT, bytes.len(), NOTE_BYTES_MAX)?;
        let note = str::from_utf8(bytes).map_err(|e| bad(WHAT, e.to_string()))?;
        let end = note.rfind("\n\n").ok_or_else(|| bad(WHAT, "no empty line before the signatures"))?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        check_text(text)?;
        Ok(Self { text: text.to_owned(), signatures: signature_lines(lines)? })
    }

    /// The text, with its final line feed. Nothing in it is true because it is here; see [`verify`](Self::verify).
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, checked or not.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Checks the signatures of these keys: their indices, ascending, each with the time of a cosignature. Signatures of other keys
    /// are ignored.
    ///
    /// # Errors
    /// [`TypesError::BadSignature`] when a signature that claims to be by one of the keys is not, or there is none.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<(usize, Option<u64>)>, TypesError> {
        let mut found = vec![None; keys.len()];
        for line in &self.signatures {
            let mut named = false;
            let mut good = false;
            for (key, found) in keys.iter().zip(&mut found).filter(|(key, _)| key.names(line)) {
                named = true;
                if let Ok(time) = key.verify(&self.text, &line.signature) {
                    good = true;
                    // Of several cosignatures of one key, the newest counts.
                    *found = (*found).max(Some(time));
                }
            }
            if named && !good {
                return Err(TypesError::BadSignature);
            }
        }
        let found: Vec<_> = found.into_iter().enumerate().filter_map(|(i, f)| Some((i, f?))).collect();
        if found.is_empty() { Err(TypesError::BadSignature) } else { Ok(found) }
    }

    /// The same note with only the signature lines that are good ones of these keys, at most one a key.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn only(&self, keys: &[VerifierKey]) -> Result<Self, TypesError> {
        self.verify(keys)?;
        let mut signatures: Vec<SignatureLine> = Vec::new();
        for line in &self.signatures {
            let known = keys.iter().any(|key| key.names(line));
            if known && !signatures.iter().any(|s| s.name == line.name && s.id == line.id) {
                signatures.push(line.clone());
            }
        }
        Ok(Self { text: self.text.clone(), signatures })
    }

    /// Adds a signature by `key`.
    ///
    /// # Errors
    /// As [`SigningKey::sign`], and when there are too many.
    pub fn add(&mut self, key: &SigningKey, time: u64) -> Result<(), TypesError> {
        let line = key.sign(&self.text, time)?;
        self.push(line)
    }

    /// Adds what a witness answered: those of its signature lines that are good ones of `keys`; all others are ignored. A
    /// new line of a key replaces its old one. How many were added.
    ///
    /// # Errors
    /// [`TypesError`] when the answer is not made of signature lines, or there would be too many.
    pub fn merge(&mut self, answer: &str, keys: &[VerifierKey]) -> Result<usize, TypesError> {
        bound("signature lines", answer.len(), NOTE_BYTES_MAX)?;
        let mut count = 0;
        for line in signature_lines(answer)? {
            let good =
                |key: &VerifierKey| key.names(&line) && key.verify(&self.text, &line.signature).is_ok();
            if keys.iter().any(good) {
                self.signatures.retain(|old| (&old.name, old.id) != (&line.name, line.id));
                self.push(line)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn push(&mut self, line: SignatureLine) -> Result<(), TypesError> {
        bound("number of signatures", self.signatures.len() + 1, SIGNATURES_MAX)?;
        self.signatures.push(line);
        Ok(())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| write!(f, "{line}"))
    }
}

impl FromStr for Note {
    type Err = TypesError;

    fn from_str(text: &str) -> Result<Self, TypesError> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.signature].concat();
        writeln!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

fn signature_lines(text: &str) -> Result<Vec<SignatureLine>, TypesError> {
    let wrong = |detail: &str| bad("signature line", detail);
    let lines =
        text.strip_suffix('\n').ok_or_else(|| wrong("no signature, or no line feed after the last one"))?;
    let mut out = Vec::new();
    for line in lines.split('\n') {
        bound("number of signatures", out.len() + 1, SIGNATURES_MAX)?;
        let line = line.strip_prefix("— ").ok_or_else(|| wrong("expected an em dash and a space"))?;
        let (name, encoded) = line.split_once(' ').ok_or_else(|| wrong("expected a name and a signature"))?;
        check_name(name)?;
        bound("signature", encoded.len(), SIGNATURE_BYTES_MAX / 3 * 4)?;
        let bytes = STANDARD.decode(encoded).map_err(|e| wrong(&format!("not base64: {e}")))?;
        match bytes.split_first_chunk() {
            Some((id, signature)) if !signature.is_empty() => {
                out.push(SignatureLine { name: name.to_owned(), id: *id, signature: signature.to_vec() });
            }
            _ => return Err(wrong("expected more than the four bytes of a key id")),
        }
    }
    Ok(out)
}

fn check_text(text: &str) -> Result<(), TypesError> {
    bound("signed note", text.len(), NOTE_BYTES_MAX)?;
    if !text.ends_with('\n') || text.bytes().any(|b| b < 0x20 && b != b'\n') {
        return Err(bad(
            "signed note",
            "the text must end with a line feed and have no other control characters",
        ));
    }
    Ok(())
}
