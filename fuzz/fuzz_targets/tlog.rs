//! Transparency logs: signed notes, checkpoints, keys, paths, requests to witnesses, evidence and proofs: an error, or
//! text that is written back byte for byte; and proofs that hold only for what was proved.
#![no_main]

use types::{
    B256, merkle,
    tlog::{Checkpoint, Equivocation, NodeOrigin, Note, VerifierKey, tiles, witness::AddCheckpoint},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes);
    }
    if let Ok(request) = AddCheckpoint::parse(bytes) {
        assert_eq!(request.to_string().as_bytes(), bytes);
    }
    if let Ok((evidence, _)) = Equivocation::decode(bytes) {
        assert_eq!(evidence.encode().as_deref(), Ok(bytes));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(checkpoint) = Checkpoint::parse(text) {
            assert_eq!(checkpoint.to_string(), text);
        }
        if let Ok(key) = text.parse::<VerifierKey>() {
            assert_eq!(key.to_string(), text);
            let _ = key.verify("o\n1\n", bytes);
        }
        if let Ok(origin) = text.parse::<NodeOrigin>() {
            assert_eq!(origin.to_string(), text);
        }
        if let Ok(path) = text.parse::<tiles::TilePath>() {
            assert_eq!(path.to_string(), text);
        }
    }
    let Some((numbers, rest)) = bytes.split_first_chunk::<16>() else { return };
    let number = |from: usize| numbers[from..from + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
    let (a, b) = (number(0), number(8));
    if let Ok(entries) = tiles::parse_bundle(rest, numbers[0].into()) {
        assert_eq!(tiles::bundle(&entries).as_deref(), Ok(rest));
    }
    let hashes: Vec<B256> = rest.chunks_exact(32).map(B256::from_slice).collect();
    let (one, two) = hashes.split_at(hashes.len().min(usize::from(numbers[15] % 8)));
    let _ = merkle::verify_consistency(a, B256::ZERO, b, B256::repeat_byte(1), &hashes);
    let _ = merkle::root_from_range(one, a, b, two);
    // A tree of as many leaves as there are hashes, and everything about it that the numbers name.
    let n = hashes.len() as u64;
    let (old, from) = (a % (n + 1), b % (n + 1));
    let mut log = merkle::Log::default();
    hashes.iter().for_each(|h| _ = log.push(*h));
    let (whole, part) = (merkle::root(&hashes), merkle::root(&hashes[..old as usize]));
    let path = log.consistency_path(old, n).unwrap_or_default();
    assert_eq!(merkle::verify_consistency(old, part, n, whole, &path), Ok(()));
    let to = from.max(old);
    if let Some(path) = log.range_path(from..to, n) {
        let run = &hashes[from as usize..to as usize];
        assert_eq!(merkle::root_from_range(run, from, n, &path), Ok(whole));
    }
});
