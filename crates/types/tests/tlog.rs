//! Transparency logs: checkpoints, signed notes, keys, evidence and policies, also against other implementations' vectors.
#![allow(clippy::unwrap_used, missing_docs)]

use alloy_primitives::b256;
use proptest::prelude::*;
use types::tlog::*;
use types::{Address, B256, TypesError, signing};

const TIME: u64 = 1_795_000_000;

fn secret() -> B256 {
    B256::repeat_byte(0x11)
}

fn origin() -> NodeOrigin {
    NodeOrigin {
        chain_id: 10_744,
        genesis: B256::repeat_byte(0xab),
        node: signing::address_of(&secret()).unwrap(),
    }
}

fn checkpoint(size: u64, byte: u8) -> Checkpoint {
    Checkpoint::new(origin().to_string(), size, B256::repeat_byte(byte))
}

fn keys() -> [SigningKey; 2] {
    node_keys(&origin(), &secret()).unwrap()
}

fn witness(n: u8) -> SigningKey {
    SigningKey::cosigner(format!("witness.example/w{n}"), &witness_seed(&B256::repeat_byte(n))).unwrap()
}

fn signed(size: u64, byte: u8) -> Note {
    Note::sign(checkpoint(size, byte).to_string(), &keys(), TIME).unwrap()
}

fn vkeys(keys: &[SigningKey]) -> Vec<VerifierKey> {
    keys.iter().map(|k| k.verifier().clone()).collect()
}

/// The example in the documentation of Go's package golang.org/x/mod/sumdb/note.
#[test]
fn a_note_of_another_implementation_verifies() {
    let key: VerifierKey =
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let note = format!(
        "{text}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    );
    let note: Note = note.parse().unwrap();
    assert_eq!(note.verify(std::slice::from_ref(&key)), Ok(vec![(0, None)]));
    // Its secret key is public, too: we make the same bytes.
    let seed = b256!("810a1402d5146c8d84f2443330f54080ebf98ee17d9c74f6252fc5d5c7283173");
    let ours = SigningKey::ed25519("PeterNeumann", &seed).unwrap();
    assert_eq!(ours.verifier(), &key);
    assert_eq!(Note::sign(text, &[ours], 0).unwrap(), note);
}

#[test]
fn origins_have_one_spelling() {
    let text = origin().to_string();
    assert_eq!(
        text,
        "og/10744/abababababababababababababababababababababababababababababababab/19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"
    );
    assert_eq!(text.parse(), Ok(origin()));
    for wrong in [
        text.to_uppercase(),
        text.replace("og/", "og/0"),
        text.replace("/ab", "/0xab"),
        format!("{text}/"),
        format!("{text}/witness"),
        text[..text.len() - 1].to_owned(),
        text.replace("og/10744", "og/18446744073709551616"),
        String::new(),
    ] {
        assert!(wrong.parse::<NodeOrigin>().is_err(), "{wrong}");
    }
}

#[test]
fn checkpoints_have_one_spelling() {
    let mut c = checkpoint(70_000, 7);
    assert_eq!(Checkpoint::parse(&c.to_string()), Ok(c.clone()));
    c.extensions = vec!["one".into(), "two words".into()];
    assert_eq!(Checkpoint::parse(&c.to_string()), Ok(c.clone()));
    assert!(c.account_digest().is_err(), "the account's signature would not cover them");
    let root = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let long = "x".repeat(257);
    for wrong in [
        String::new(),
        "o\n".into(),
        "o\n1\n".into(),
        format!("o\n1\n{root}"),
        format!("\n1\n{root}\n"),
        format!("o\n01\n{root}\n"),
        format!("o\n+1\n{root}\n"),
        format!("o\n-1\n{root}\n"),
        format!("o\n\n{root}\n"),
        format!("o\n18446744073709551616\n{root}\n"),
        format!("o\n1 \n{root}\n"),
        format!("o\n1\n{root}\n\n"),
        format!("o\n1\n{root}\ne\n\n"),
        format!("o\r\n1\n{root}\n"),
        format!("o\n1\n{}\n", &root[..43]),
        // The same hash with other bits in the padding.
        format!("o\n1\n{}d=\n", &root[..42]),
        format!("o\n1\n{root}A\n"),
        format!("o\n1\n{root}\n{long}\n"),
        format!("o\n1\n{root}\na\nb\nc\nd\ne\n"),
        format!("{long}\n1\n{root}\n"),
    ] {
        assert!(Checkpoint::parse(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_node_signs_with_two_keys_and_witnesses_with_a_third() {
    let mut note = signed(5, 7);
    note.add(&witness(1), TIME).unwrap();
    let again: Note = note.to_string().parse().unwrap();
    assert_eq!(again, note);
    let mut all = vkeys(&keys());
    all.push(witness(1).verifier().clone());
    assert_eq!(note.verify(&all), Ok(vec![(0, None), (1, None), (2, Some(TIME))]));
    // Each key is read back from its text, and is not the others.
    for (i, key) in all.iter().enumerate() {
        assert_eq!(key.to_string().parse().as_ref(), Ok(key));
        assert_eq!(note.verify(std::slice::from_ref(key)).unwrap().len(), 1);
        for other in all.iter().skip(i + 1) {
            assert_ne!(key.id(), other.id());
        }
    }
    assert_eq!(VerifierKey::of_account(&origin()), all[1]);
    // Unknown keys are ignored; without a known one the note is worth nothing.
    let stranger = witness(2).verifier().clone();
    assert_eq!(note.verify(std::slice::from_ref(&stranger)), Err(TypesError::BadSignature));
    assert_eq!(note.verify(&[stranger, all[0].clone()]), Ok(vec![(1, None)]));
    assert!(node_keys(&origin(), &B256::repeat_byte(0x12)).is_err(), "another account's secret");
    assert!(!format!("{:?}", keys()).contains("1111"), "a secret in a log file");
}

#[test]
fn a_signature_is_of_its_own_key_and_time_only() {
    let text = checkpoint(5, 7).to_string();
    let account = keys()[1].sign(&text, 0).unwrap();
    let other = VerifierKey::new(origin().to_string(), PublicKey::Account(Address::repeat_byte(3))).unwrap();
    assert_eq!(other.verify(&text, &account.signature), Err(TypesError::BadSignature));
    // The witness's key over what it would sign at some time, made by hand.
    let raw = SigningKey::ed25519("raw", &witness_seed(&B256::repeat_byte(1))).unwrap();
    let by_hand = |time: u64, said: u64| {
        let line = raw.sign(&format!("cosignature/v1\ntime {said}\n{text}"), 0).unwrap();
        witness(1).verifier().verify(&text, &[&time.to_be_bytes()[..], &line.signature].concat())
    };
    assert_eq!(by_hand(TIME, TIME), Ok(Some(TIME)));
    assert_eq!(by_hand(u64::MAX >> 1, u64::MAX >> 1), Ok(Some(u64::MAX >> 1)));
    assert_eq!(by_hand(1 << 63, 1 << 63), Err(TypesError::BadSignature));
    assert_eq!(by_hand(TIME + 1, TIME), Err(TypesError::BadSignature));
}

#[test]
fn every_changed_byte_of_a_note_is_noticed() {
    let mut note = signed(5, 7);
    note.add(&witness(1), TIME).unwrap();
    let mut all = vkeys(&keys());
    all.push(witness(1).verifier().clone());
    let bytes = note.to_string().into_bytes();
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 1;
        // A changed name or key id makes an unknown signature; the others are still good, but there are fewer.
        if let Ok(changed) = Note::parse(&changed) {
            assert!(changed.verify(&all).map_or(0, |v| v.len()) < 3, "byte {i}");
        }
    }
}

#[test]
fn accounts_sign_only_their_own_log() {
    let [_, account] = keys();
    let mut other = origin();
    other.node = Address::repeat_byte(3);
    let foreign = Checkpoint::new(other.to_string(), 1, B256::ZERO);
    assert!(account.sign(&foreign.to_string(), 0).is_err());
    assert!(account.sign("hello\n", 0).is_err());
    assert!(witness(1).sign("hello\n", 0).is_err(), "a witness cosigns nothing but checkpoints");
    assert!(witness(1).sign(&foreign.to_string(), 1 << 63).is_err());
    // The same statement about another chain is another signature.
    let line = account.sign(&checkpoint(5, 7).to_string(), 0).unwrap();
    let mut moved = checkpoint(5, 7);
    moved.origin = NodeOrigin { chain_id: 1, ..origin() }.to_string();
    assert!(account.verifier().verify(&moved.to_string(), &line.signature).is_err());
    // And so is one about another network with the same chain id.
    moved.origin = NodeOrigin { genesis: B256::repeat_byte(0xac), ..origin() }.to_string();
    let elsewhere = moved.account_digest().unwrap().1;
    let signature = line.signature[..].try_into().unwrap();
    assert_ne!(signing::recover(elsewhere, &signature), Ok(origin().node));
    assert!(account.verifier().verify(&checkpoint(5, 7).to_string(), &line.signature).is_ok());
    assert!(account.verifier().verify(&checkpoint(5, 7).to_string(), &line.signature[..64]).is_err());
}

/// Digest and signature of another implementation (ethers 6, `TypedDataEncoder`).
#[test]
fn an_account_signs_as_ethereum_wallets_do() {
    let digest = b256!("2ca0f3b61900ba1572c581ba8ca93d65e98c26ae56c35f40740f6e48b46eab11");
    assert_eq!(checkpoint(5, 7).account_digest(), Ok((origin().node, digest)));
    let [_, account] = keys();
    assert_eq!(
        account.sign(&checkpoint(5, 7).to_string(), 0).unwrap().signature,
        alloy_primitives::hex!(
            "391eaa73d6bc4eddd1b8864053db9193918545c5d73e10b5aa0a09e5b876ae7c
             56343d00fed78a387194008ae596821ea0923cf52746f8dc7329d4a81cc9fb461c"
        )
    );
}

/// Made with Python's cryptography, hashlib and eth_utils. Changing one breaks every verifier that is configured with it.
#[test]
fn names_of_keys_do_not_change() {
    let [log, account] = keys();
    let golden = [log, account, witness(1)].map(|k| k.verifier().to_string());
    let name = origin();
    assert_eq!(golden[0], format!("{name}+0ed8d354+AWV7oPFwprxn4jv6vC1nJfYFtCzkO14WVjQgbeXUd7oZ"));
    assert_eq!(
        golden[1],
        format!("{name}+20465d1a+/29nL2VpcDcxMi1jaGVja3BvaW50LzIZ5+N258ITt+fn5GzHCl3Qhtr/Kg==")
    );
    assert_eq!(golden[2], "witness.example/w1+328305e4+BENhTAOrWNzgF3gbrY/8QnDvoWy9Bm6iCRTCauIjQNLF");
}

#[test]
fn malformed_notes_and_keys_are_refused() {
    let good = signed(5, 7).to_string();
    assert!(Note::parse(good.as_bytes()).is_ok());
    let line = good.lines().last().unwrap();
    for wrong in [
        "".into(),
        "\n\n".into(),
        "text\n\n".into(),
        good.trim_end().to_owned(),
        good.replace("\n\n", "\n"),
        good.replace("— ", "- "),
        good.replace("— ", "—"),
        good.replace('\n', "\r\n"),
        format!("{good}\n"),
        format!("{good}{line}"),
        format!("{good}— name\n"),
        format!("{good}— na+me AAAAAAA=\n"),
        format!("{good}— na\u{2003}me AAAAAAA=\n"),
        format!("{good}—  AAAAAAA=\n"),
        format!("{good}— name AAAAAA==\n"),
        format!("{good}— name AAAAAAB=\n"),
        format!("{good}— name AAAAAAA\n"),
        format!("{good}— name AAAAAAA= \n"),
        format!("{good}{}", format!("{line}\n").repeat(31)),
        format!("{}{good}", "x\n".repeat(65 << 10)),
    ] {
        assert!(Note::parse(wrong.as_bytes()).is_err(), "{:?}", &wrong[wrong.len().saturating_sub(100)..]);
    }
    assert!(Note::parse(&[&[0xff], good.as_bytes()].concat()).is_err());
    assert!(Note::parse(format!("{good}{}", format!("{line}\n").repeat(30)).as_bytes()).is_ok());
    // The text may have empty lines.
    let text = "a\n\n— b c\n\n";
    let note = Note::sign(text, &keys()[..1], 0).unwrap();
    assert_eq!(note.to_string().parse::<Note>().unwrap().text(), text);
    for text in ["a", "a\tb\n", "\u{1}\n"] {
        assert!(Note::sign(text, &keys()[..1], 0).is_err());
    }
    assert!(Note::sign("a\n", &[], 0).is_err());

    let key = witness(1).verifier().to_string();
    let (head, tail) = key.rsplit_once('+').unwrap();
    for wrong in [
        head.to_owned(),
        format!("x{key}"),
        format!("{head}+{}", &tail[..tail.len() - 4]),
        format!("{head}+{tail}A"),
        key.replace("w1", "w 1"),
        key.to_uppercase(),
    ] {
        assert!(wrong.parse::<VerifierKey>().is_err(), "{wrong}");
    }
    // Points of small order would accept signatures that nobody made.
    for weak in [B256::ZERO, B256::with_last_byte(0x80), {
        let mut one = B256::ZERO;
        one[0] = 1;
        one
    }] {
        assert!(VerifierKey::new("x", PublicKey::Ed25519(weak)).is_err());
        assert!(VerifierKey::new("x", PublicKey::Cosigner(weak)).is_err());
    }
}

#[test]
fn evidence_of_both_kinds_of_log_key_and_of_a_witness() {
    let mut one = signed(5, 9);
    let mut other = signed(5, 7);
    one.add(&witness(1), TIME).unwrap();
    other.add(&witness(1), TIME + 9).unwrap();
    let mut all = vkeys(&keys());
    all.push(witness(1).verifier().clone());
    for key in &all {
        let found = Equivocation::new(key, &one, &other).unwrap();
        assert_eq!(Equivocation::new(key, &other, &one).unwrap(), found, "one spelling");
        let bytes = found.encode().unwrap();
        let (again, proved) = Equivocation::decode(&bytes).unwrap();
        assert_eq!(again, found);
        assert_eq!((&proved.key, proved.size, &proved.origin), (key, 5, &origin().to_string()));
        assert_eq!(proved.statements.clone().map(|s| s.root), [B256::repeat_byte(7), B256::repeat_byte(9)]);
        if let PublicKey::Account(node) = key.key() {
            // What a contract would do.
            for s in &proved.statements {
                let digest = account_digest(origin().chain_id, origin().genesis, node, proved.size, s.root);
                assert_eq!(signing::recover(digest, &s.signature[..].try_into().unwrap()), Ok(node));
            }
        }
        // Nothing may be added, removed or changed.
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(Equivocation::decode(&changed).is_err(), "byte {i}");
        }
        assert!(Equivocation::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Equivocation::decode(&[&bytes[..], b"\n"].concat()).is_err());
    }
    let key = &all[0];
    assert!(Equivocation::new(key, &one, &one).is_err(), "one statement");
    assert!(Equivocation::new(key, &one, &signed(6, 7)).is_err(), "two sizes may both be true");
    assert!(Equivocation::new(witness(2).verifier(), &one, &other).is_err(), "not signed by it");
    // A witness signs for many logs.
    let elsewhere = Checkpoint::new("example.com/other", 5, B256::ZERO).to_string();
    let elsewhere = Note::sign(elsewhere, &[witness(1)], TIME).unwrap();
    assert!(Equivocation::new(witness(1).verifier(), &one, &elsewhere).is_err(), "two logs");
    // Somebody who signs for fun under another name convicts nobody.
    let fan = SigningKey::ed25519("fan", &B256::repeat_byte(3)).unwrap();
    one.add(&fan, 0).unwrap();
    other.add(&fan, 0).unwrap();
    assert!(one.verify(&vkeys(std::slice::from_ref(&fan))).is_ok());
    assert!(Equivocation::new(fan.verifier(), &one, &other).is_err());
}

#[test]
fn policies_count_witnesses_and_not_signatures() {
    let [log, _] = vkeys(&keys()).try_into().unwrap();
    let witnesses: Vec<_> = (1..=3).map(|n| witness(n).verifier().clone()).collect();
    let policy = Policy::new(log.clone(), witnesses.clone(), 2).unwrap();
    let mut note = signed(5, 7);
    assert!(policy.check(&note).is_err());
    note.add(&witness(1), TIME + 50).unwrap();
    note.add(&witness(1), TIME).unwrap();
    assert!(policy.check(&note).is_err(), "one witness twice");
    note.add(&witness(9), TIME).unwrap();
    assert!(policy.check(&note).is_err(), "a stranger");
    note.add(&witness(3), TIME + 20).unwrap();
    let trusted = policy.check(&note).unwrap();
    assert_eq!(trusted.checkpoint, checkpoint(5, 7));
    assert_eq!(trusted.cosigned, [(0, TIME + 50), (2, TIME + 20)]);
    assert_eq!(trusted.time(), Some(TIME + 20));
    let open = Policy::new(log.clone(), vec![], 0).unwrap();
    assert_eq!(open.check(&note).unwrap().time(), None);
    // Without the log, witnesses are not enough.
    let mut unsigned = Note::sign(checkpoint(5, 7).to_string(), &[witness(1)], TIME).unwrap();
    unsigned.add(&witness(2), TIME).unwrap();
    assert!(policy.check(&unsigned).is_err());
    // The log's key signs for its own log only.
    let foreign = Checkpoint::new("example.com/other", 5, B256::ZERO).to_string();
    let foreign = Note::sign(foreign, &keys()[..1], TIME).unwrap();
    assert!(open.check(&signed(5, 7)).is_ok());
    assert!(open.check(&foreign).is_err());
    // A wrong signature under a known name spoils the note.
    let good = witness(1).sign(&checkpoint(6, 7).to_string(), TIME).unwrap();
    let spoiled: Note = format!("{note}{good}").parse().unwrap();
    assert!(policy.check(&spoiled).is_err());

    assert!(Policy::new(log.clone(), witnesses.clone(), 4).is_err());
    assert!(Policy::new(log.clone(), vec![log.clone()], 1).is_err(), "no witness's key");
    assert!(Policy::new(witnesses[0].clone(), vec![], 0).is_err(), "no log's key");
    let renamed = VerifierKey::new("again", witnesses[0].key()).unwrap();
    assert!(Policy::new(log, vec![witnesses[0].clone(), renamed], 1).is_err());
}

#[test]
fn answers_of_witnesses_are_merged() {
    let mut note = signed(5, 7);
    let known = [witness(1).verifier().clone()];
    let good = witness(1).sign(note.text(), TIME).unwrap();
    let later = witness(1).sign(note.text(), TIME + 1).unwrap();
    let stranger = witness(2).sign(note.text(), TIME).unwrap();
    let wrong = witness(1).sign(&checkpoint(6, 7).to_string(), TIME).unwrap();
    assert_eq!(note.merge(&format!("{stranger}{good}{wrong}"), &known), Ok(1));
    assert_eq!(note.merge(&later.to_string(), &known), Ok(1));
    assert_eq!(note.signatures().len(), 3);
    assert_eq!(note.verify(&known), Ok(vec![(0, Some(TIME + 1))]));
    assert!(note.merge("", &known).is_err());
    assert!(note.merge("no line\n", &known).is_err());
}

proptest! {
    #[test]
    fn what_parses_is_written_back(text in "(og/1\n|7\n|[A-Za-z0-9+/]{43}=\n|\n|— a [A-Za-z0-9+/]{8}\n|x){0,12}") {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_string(), text.clone());
        }
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.to_string(), text);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Note::parse(&bytes);
        let _ = Equivocation::decode(&bytes);
        if let Ok(text) = str::from_utf8(&bytes) {
            let _ = (Checkpoint::parse(text), text.parse::<VerifierKey>(), text.parse::<NodeOrigin>());
        }
    }
}
