//! Witnesses and tiles: every outcome of the protocol, races, logs that lie, and the files of a log.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use std::{collections::HashMap, sync::Mutex};
use types::tlog::{
    Checkpoint, NodeOrigin, Note, Policy, SigningKey, VerifierKey, node_keys,
    tiles::{self, TilePath},
    witness::*,
    witness_seed,
};
use types::{B256, merkle, signing};

const TIME: u64 = 1_795_000_000;

#[derive(Debug, Default)]
struct Memory {
    seen: Mutex<HashMap<String, Seen>>,
    /// What somebody else writes just before the next `advance`.
    race: Mutex<Option<Seen>>,
    broken: bool,
}

impl WitnessStore for Memory {
    fn latest(&self, origin: &str) -> Result<Option<Seen>, StoreError> {
        if self.broken {
            return Err("the disk is full".into());
        }
        Ok(self.seen.lock().unwrap().get(origin).cloned())
    }

    fn advance(&self, origin: &str, old_size: u64, new: &Seen) -> Result<bool, StoreError> {
        let mut seen = self.seen.lock().unwrap();
        if let Some(other) = self.race.lock().unwrap().take() {
            seen.insert(origin.to_owned(), other);
        }
        if seen.get(origin).map_or(0, |s| s.size) != old_size {
            return Ok(false);
        }
        seen.insert(origin.to_owned(), new.clone());
        Ok(true)
    }
}

/// Follows the logs of one chain, by their accounts and the one Ed25519 key of these tests.
#[derive(Debug)]
struct Chain(u64);

impl KnownLogs for Chain {
    fn keys(&self, origin: &str) -> Option<Vec<VerifierKey>> {
        let origin: NodeOrigin = origin.parse().ok()?;
        let [log, _] = &Node::new(self.0).keys;
        (origin.chain_id == self.0).then(|| vec![VerifierKey::of_account(&origin), log.verifier().clone()])
    }
}

struct Node {
    origin: NodeOrigin,
    keys: [SigningKey; 2],
    log: merkle::Log,
}

impl Node {
    fn new(chain_id: u64) -> Self {
        let secret = B256::repeat_byte(0x11);
        let node = signing::address_of(&secret).unwrap();
        let origin = NodeOrigin { chain_id, genesis: B256::repeat_byte(0xab), node };
        Self { keys: node_keys(&origin, &secret).unwrap(), origin, log: merkle::Log::default() }
    }

    fn grow(&mut self, to: u64) -> &mut Self {
        while self.log.len() < to {
            let index = self.log.len();
            self.log.push(merkle::leaf_hash(&index.to_be_bytes()));
        }
        self
    }

    fn note_of(&self, size: u64, root: B256) -> Note {
        Note::sign(Checkpoint::new(self.origin.to_string(), size, root).to_string(), &self.keys, TIME)
            .unwrap()
    }

    fn note(&self, size: u64) -> Note {
        self.note_of(size, self.log.root_at(size).unwrap())
    }

    fn request(&self, old_size: u64, size: u64) -> AddCheckpoint {
        let path = self.log.consistency_path(old_size, size).unwrap();
        AddCheckpoint { old_size, path, note: self.note(size) }
    }
}

fn witness() -> Witness<Memory, Chain> {
    let key = SigningKey::cosigner("witness.example/w1", &witness_seed(&B256::repeat_byte(1))).unwrap();
    Witness::new(key, Memory::default(), Chain(7))
}

fn ask(witness: &Witness<Memory, Chain>, request: &AddCheckpoint) -> Result<String, Refusal> {
    witness.add_checkpoint(request.to_string().as_bytes(), TIME)
}

fn status(got: Result<String, Refusal>) -> (u16, Option<u64>) {
    got.map_or_else(|r| (r.status(), r.known_size()), |_| (200, None))
}

#[test]
fn a_log_that_grows_is_cosigned_at_every_size() {
    let (mut node, witness) = (Node::new(7), witness());
    node.grow(70);
    let [log, _] = &node.keys;
    let policy = Policy::new(log.verifier().clone(), vec![witness.verifier().clone()], 1).unwrap();
    let mut old = 0;
    for size in [0, 0, 1, 2, 3, 7, 8, 8, 33, 64, 70, 70] {
        let answer = ask(&witness, &node.request(old, size)).unwrap();
        let mut note = node.note(size);
        assert!(policy.check(&note).is_err());
        assert_eq!(note.merge(&answer, &[witness.verifier().clone()]), Ok(1));
        assert_eq!(policy.check(&note).unwrap().time(), Some(TIME));
        old = size;
    }
    let seen = witness.store().latest(&node.origin.to_string()).unwrap().unwrap();
    assert_eq!((seen.size, Some(seen.root)), (70, node.log.root_at(70)));
}

#[test]
fn every_refusal_has_its_status_and_changes_nothing() {
    let (mut node, witness) = (Node::new(7), witness());
    node.grow(20);
    assert_eq!(status(ask(&witness, &node.request(0, 10))), (200, None));
    let origin = node.origin.to_string();
    let before = witness.store().latest(&origin).unwrap();

    // 400: not a request, or sizes in the wrong order.
    for body in [&b""[..], b"old 10\n", b"old 10\n\nnonsense\n", b"\xff\n\n"] {
        assert_eq!(status(witness.add_checkpoint(body, TIME)), (400, None));
    }
    let not_a_checkpoint = Note::sign("hello\n", &node.keys[..1], 0).unwrap();
    let body = AddCheckpoint { old_size: 0, path: vec![], note: not_a_checkpoint };
    assert_eq!(status(ask(&witness, &body)), (400, None));
    let above = AddCheckpoint { old_size: 16, path: vec![], note: node.note(15) };
    assert_eq!(status(ask(&witness, &above)), (400, None));

    // 403: signed by nobody whom the witness trusts for this log.
    let text = Checkpoint::new(origin.clone(), 12, node.log.root_at(12).unwrap()).to_string();
    let stranger = SigningKey::ed25519(origin.clone(), &B256::repeat_byte(5)).unwrap();
    let path = node.log.consistency_path(10, 12).unwrap();
    let by = |key: &[SigningKey]| AddCheckpoint {
        old_size: 10,
        path: path.clone(),
        note: Note::sign(&text, key, 0).unwrap(),
    };
    assert_eq!(status(ask(&witness, &by(&[stranger]))), (403, None));
    let forged = by(&node.keys[1..]).to_string();
    let line = node.note_of(12, B256::ZERO).to_string();
    let (good, bad) = (forged.lines().last().unwrap(), line.lines().last().unwrap());
    let forged = forged.replace(good, bad);
    assert_eq!(status(witness.add_checkpoint(forged.as_bytes(), TIME)), (403, None));

    // 404: another chain's log.
    assert_eq!(status(ask(&witness, &Node::new(8).grow(5).request(0, 5))), (404, None));

    // 409: from a size that is not the latest, with that size.
    for old in [0, 9, 11] {
        assert_eq!(status(ask(&witness, &node.request(old, 20))), (409, Some(10)));
    }
    assert_eq!(status(ask(&witness, &node.request(0, 5))), (409, Some(10)), "a rollback");

    // 422: no proof that it grew.
    let mut other = node.request(10, 20);
    other.path[0] = B256::ZERO;
    assert_eq!(status(ask(&witness, &other)), (422, None));
    other.path.pop();
    assert_eq!(status(ask(&witness, &other)), (422, None));
    other.path.clear();
    assert_eq!(status(ask(&witness, &other)), (422, None));
    let mut same = node.request(10, 10);
    same.path.push(B256::ZERO);
    assert_eq!(status(ask(&witness, &same)), (422, None));

    assert_eq!(witness.store().latest(&origin).unwrap(), before);
    assert_eq!(status(ask(&witness, &node.request(10, 20))), (200, None));
}

#[test]
fn a_first_proof_must_be_empty() {
    let (mut node, witness) = (Node::new(7), witness());
    let mut first = node.grow(5).request(0, 5);
    first.path.push(B256::ZERO);
    assert_eq!(status(ask(&witness, &first)), (422, None));
    let empty = AddCheckpoint { old_size: 0, path: vec![], note: node.note_of(0, B256::ZERO) };
    assert_eq!(status(ask(&witness, &empty)), (409, Some(0)), "an empty tree has one root");
}

#[test]
fn a_log_that_signs_two_roots_convicts_itself() {
    let (mut node, witness) = (Node::new(7), witness());
    node.grow(10);
    ask(&witness, &node.request(0, 10)).unwrap();
    for old_size in [0, 10] {
        let lie = AddCheckpoint { old_size, path: vec![], note: node.note_of(10, B256::repeat_byte(9)) };
        let refusal = ask(&witness, &lie).unwrap_err();
        assert_eq!((refusal.status(), refusal.known_size()), (409, Some(10)));
        let Refusal::Contradiction { evidence: Some(evidence), .. } = refusal else { panic!("{refusal}") };
        let proved = evidence.verify().unwrap();
        assert_eq!(proved.key, VerifierKey::of_account(&node.origin));
        assert_eq!((proved.size, proved.origin), (10, node.origin.to_string()));
    }
}

#[test]
fn nobody_replaces_evidence_by_a_note_with_fewer_signatures() {
    let (mut node, witness) = (Node::new(7), witness());
    node.grow(10);
    ask(&witness, &node.request(0, 10)).unwrap();
    let (origin, mut again) = (node.origin.to_string(), node.request(10, 10));
    let before = witness.store().latest(&origin).unwrap().unwrap();
    assert_eq!(before.note.parse::<Note>().unwrap().signatures().len(), 2);
    again.note = Note::sign(again.note.text(), &node.keys[..1], TIME).unwrap();
    ask(&witness, &again).unwrap();
    assert_eq!(witness.store().latest(&origin).unwrap(), Some(before));
    // A lie that only the other key signed convicts that key.
    let text = Checkpoint::new(origin, 10, B256::ZERO).to_string();
    let note = Note::sign(text, &node.keys[..1], TIME).unwrap();
    let refusal = ask(&witness, &AddCheckpoint { old_size: 10, path: vec![], note }).unwrap_err();
    let Refusal::Contradiction { evidence: Some(evidence), .. } = refusal else { panic!("{refusal}") };
    assert_eq!(&evidence.verify().unwrap().key, node.keys[0].verifier());
}

#[test]
fn of_two_requests_at_once_one_wins() {
    let (mut node, witness) = (Node::new(7), witness());
    node.grow(30);
    ask(&witness, &node.request(0, 10)).unwrap();
    let other = Seen { size: 30, root: node.log.root_at(30).unwrap(), note: node.note(30).to_string() };
    *witness.store().race.lock().unwrap() = Some(other.clone());
    assert_eq!(status(ask(&witness, &node.request(10, 20))), (409, Some(30)), "no rollback, no cosignature");
    assert_eq!(witness.store().latest(&node.origin.to_string()).unwrap(), Some(other.clone()));
    // Nor is a size cosigned again that is no longer the latest.
    node.grow(40);
    let newest = Seen { size: 40, root: node.log.root_at(40).unwrap(), note: node.note(40).to_string() };
    *witness.store().race.lock().unwrap() = Some(newest);
    assert_eq!(status(ask(&witness, &node.request(30, 30))), (409, Some(40)));
}

#[test]
fn without_its_store_a_witness_signs_nothing() {
    let mut node = Node::new(7);
    let key = SigningKey::cosigner("w", &B256::repeat_byte(1)).unwrap();
    let witness = Witness::new(key, Memory { broken: true, ..Memory::default() }, Chain(7));
    assert_eq!(status(ask(&witness, &node.grow(3).request(0, 3))), (500, None));
}

#[test]
fn requests_have_one_spelling() {
    let mut node = Node::new(7);
    let good = node.grow(20).request(10, 20).to_string();
    assert_eq!(AddCheckpoint::parse(good.as_bytes()).unwrap().to_string(), good);
    let hash = good.lines().nth(1).unwrap();
    let long = |n: usize| good.replacen(hash, &vec![hash; n].join("\n"), 1);
    let others = good.split("\n\n").next().unwrap().lines().count() - 2;
    assert!(AddCheckpoint::parse(long(63 - others).as_bytes()).is_ok());
    for wrong in [
        long(64 - others),
        good.replace("old 10", "old 010"),
        good.replace("old 10", "old  10"),
        good.replace("old 10", "old -1"),
        good.replace("old 10", "old 18446744073709551616"),
        good.replace("old 10", "new 10"),
        good.replacen('\n', "\r\n", 1),
        good.replacen(hash, &hash[1..], 1),
        good.replacen("\n\n", "\n", 1),
        format!("{good}\n"),
        "x".repeat(REQUEST_BYTES_MAX + 1),
    ] {
        assert!(AddCheckpoint::parse(wrong.as_bytes()).is_err(), "{}", &wrong[..wrong.len().min(80)]);
    }
}

#[test]
fn paths_of_tiles_have_one_spelling() {
    let tile = |level, index, width| TilePath::Tile { level, index, width };
    for (text, path) in [
        ("tile/0/000", tile(0, 0, 256)),
        ("tile/8/x001/x234/067", tile(8, 1_234_067, 256)),
        ("tile/63/x001/000.p/1", tile(63, 1000, 1)),
        ("tile/0/999.p/255", tile(0, 999, 255)),
        ("tile/1/x018/x446/x744/x073/x709/x551/615", tile(1, u64::MAX, 256)),
        ("tile/entries/x273/000.p/112", TilePath::Entries { index: 273_000, width: 112 }),
        ("tile/entries/067", TilePath::Entries { index: 67, width: 256 }),
    ] {
        assert_eq!(text.parse(), Ok(path));
        assert_eq!(path.to_string(), text);
    }
    for wrong in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/x000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x1/000",
        "tile/0/X001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/.p/1",
        "tile/0/000/",
        "/tile/0/000",
        "tile//000",
        "tile/data/000",
        "tile/0/0 0",
        "tile/0/٠٠٠",
        "tile/1/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/entries/../0/000",
    ] {
        assert!(wrong.parse::<TilePath>().is_err(), "{wrong}");
    }
}

#[test]
fn a_tree_of_70000_has_the_tiles_of_the_specification() {
    let size = 70_000;
    assert_eq!(tiles::width_at(size, 0, 272), 256);
    assert_eq!(tiles::width_at(size, 0, 273), 112);
    assert_eq!(tiles::width_at(size, 0, 274), 0);
    assert_eq!([0, 1, 2].map(|i| tiles::width_at(size, 1, i)), [256, 17, 0]);
    assert_eq!([0, 1].map(|i| tiles::width_at(size, 2, i)), [1, 0]);
    assert_eq!(tiles::width_at(size, 3, 0), 0);
    assert_eq!(tiles::width_at(256, 0, 0), 256);
    assert_eq!(tiles::width_at(256, 1, 0), 1);
    for level in [0, 7, 8, 63] {
        assert_eq!(tiles::width_at(u64::MAX, level, u64::MAX), 0);
    }
    assert_eq!(tiles::width_at(u64::MAX, 7, 0), 255);
    assert_eq!(tiles::width_at(u64::MAX, 8, 0), 0);

    let mut log = merkle::Log::default();
    let leaves: Vec<_> = (0..size).map(|i: u64| merkle::leaf_hash(&i.to_be_bytes())).collect();
    leaves.iter().for_each(|l| _ = log.push(*l));
    // Each hash of a tile is the root of its run of leaves.
    for (level, index, width) in [(0u8, 273u64, 112u16), (0, 0, 256), (1, 0, 256), (1, 1, 17), (2, 0, 1)] {
        let bytes = tiles::tile(&log, size, level, index, width).unwrap();
        let run = 256usize.pow(level.into());
        for (i, hash) in tiles::parse_tile(&bytes, width).unwrap().into_iter().enumerate() {
            let from = (index as usize * 256 + i) * run;
            assert_eq!(hash, merkle::root(&leaves[from..from + run]));
        }
        assert!(tiles::parse_tile(&bytes, width - 1).is_err());
        assert!(tiles::parse_tile(&bytes[1..], width).is_err());
    }
    // Narrower tiles of older trees are there; wider and empty ones are not, nor is anything past the published size.
    assert!(tiles::tile(&log, size, 0, 273, 1).is_some());
    assert!(tiles::tile(&log, size, 0, 0, 255).is_some());
    for (size, level, index, width) in [
        (size, 0, 273, 113),
        (size, 0, 273, 256),
        (size, 0, 273, 0),
        (size, 0, 274, 1),
        (size, 1, 1, 18),
        (size, 2, 0, 2),
        (size, 2, 0, 256),
        (size, 3, 0, 1),
        (size, 63, 0, 1),
        (size, 0, u64::MAX, 1),
        (size - 1, 0, 273, 112),
        (255, 0, 0, 256),
        (255, 1, 0, 1),
        (size + 1, 0, 0, 256),
    ] {
        assert_eq!(tiles::tile(&log, size, level, index, width), None, "{size} {level} {index} {width}");
    }
}

#[test]
fn bundles_hold_what_fits() {
    let entries = [vec![], vec![7; 97], vec![1; 65_535]];
    let bytes = tiles::bundle(&entries).unwrap();
    assert_eq!(bytes[..5], [0, 0, 0, 97, 7]);
    assert_eq!(tiles::parse_bundle(&bytes, 3).unwrap(), entries);
    assert!(tiles::parse_bundle(&bytes, 2).is_err());
    assert!(tiles::parse_bundle(&bytes, 4).is_err());
    assert!(tiles::parse_bundle(&bytes[..bytes.len() - 1], 3).is_err());
    assert!(tiles::parse_bundle(&bytes, 257).is_err());
    assert!(tiles::bundle(&[vec![0; 65_536]]).is_err());
    assert!(tiles::bundle(&vec![vec![]; 257]).is_err());
}

proptest! {
    #[test]
    fn paths_round_trip(level in 0u8..64, index: u64, shift in 0u32..64, width in 1u16..=256, entries: bool) {
        let index = index >> shift;
        let path = if entries { TilePath::Entries { index, width } } else { TilePath::Tile { level, index, width } };
        prop_assert_eq!(path.to_string().parse(), Ok(path));
    }

    #[test]
    fn what_parses_as_a_path_is_written_back(text in "tile/(entries|[0-9]{1,2})/(x[0-9]{3}/){0,7}[0-9]{3}(\\.p/[0-9]{1,3})?") {
        if let Ok(path) = text.parse::<TilePath>() {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn arbitrary_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), index: u64, width: u16) {
        let _ = witness().add_checkpoint(&bytes, TIME);
        let _ = tiles::parse_bundle(&bytes, width);
        let _ = tiles::parse_tile(&bytes, width);
        let _ = tiles::tile(&merkle::Log::default(), index, 0, index, width);
    }
}
