//! A log and its witness over HTTP: a real tree behind the ports, and an outside client that reads it.
#![allow(missing_docs, clippy::unwrap_used)]

use api::ports::{TransparencyLog, Witness};
use reqwest::{Response, StatusCode};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
};
use types::{
    B256, hex, log_leaf, merkle, signing,
    tlog::{
        Checkpoint, NodeOrigin, Note, Policy, SigningKey, VerifierKey, node_keys, tiles,
        witness::{self, AddCheckpoint, KnownLogs, Refusal, Seen, StoreError, WitnessStore},
        witness_seed,
    },
};

const TIME: u64 = 1_795_000_000;

/// A node's log in memory.
struct MemoryLog {
    origin: NodeOrigin,
    keys: [SigningKey; 2],
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    entries: Vec<Vec<u8>>,
    tree: merkle::Log,
    note: String,
}

impl MemoryLog {
    fn new() -> Self {
        let secret = B256::repeat_byte(0x11);
        let node = signing::address_of(&secret).unwrap();
        let origin = NodeOrigin { chain_id: 7, genesis: B256::repeat_byte(0xab), node };
        let keys = node_keys(&origin, &secret).unwrap();
        let log = Self { origin, keys, state: Mutex::default() };
        log.publish(log.sign(0));
        log
    }

    /// Appends entries up to this size, and publishes.
    fn grow(&self, size: u64) {
        let mut state = self.state.lock().unwrap();
        while state.tree.len() < size {
            let index = state.tree.len();
            let leaf = log_leaf(merkle::leaf_hash(&index.to_be_bytes()), &[index as u8; 65]);
            state.tree.push(merkle::leaf_hash(&leaf));
            state.entries.push(leaf);
        }
        drop(state);
        self.publish(self.sign(size));
    }

    fn sign(&self, size: u64) -> Note {
        let root = self.state.lock().unwrap().tree.root_at(size).unwrap();
        self.sign_root(size, root)
    }

    fn sign_root(&self, size: u64, root: B256) -> Note {
        let checkpoint = Checkpoint::new(self.origin.to_string(), size, root);
        Note::sign(checkpoint.to_string(), &self.keys, TIME).unwrap()
    }

    fn publish(&self, note: Note) {
        self.state.lock().unwrap().note = note.to_string();
    }

    fn request(&self, old_size: u64, size: u64) -> AddCheckpoint {
        let path = self.state.lock().unwrap().tree.consistency_path(old_size, size).unwrap();
        AddCheckpoint { old_size, path, note: self.sign(size) }
    }

    fn verifier(&self) -> &VerifierKey {
        self.keys[0].verifier()
    }
}

impl TransparencyLog for MemoryLog {
    fn checkpoint(&self) -> String {
        self.state.lock().unwrap().note.clone()
    }

    fn tile(&self, level: u8, index: u64, width: u16) -> Option<Vec<u8>> {
        let tree = &self.state.lock().unwrap().tree;
        tiles::tile(tree, tree.len(), level, index, width)
    }

    fn entries(&self, index: u64, width: u16) -> Option<Vec<u8>> {
        let entries = &self.state.lock().unwrap().entries;
        let from = usize::try_from(index).ok()?.checked_mul(256)?;
        tiles::bundle(entries.get(from..from.checked_add(width.into())?)?).ok()
    }
}

#[derive(Default)]
struct Memory(Mutex<HashMap<String, Seen>>);

impl WitnessStore for Memory {
    fn latest(&self, origin: &str) -> Result<Option<Seen>, StoreError> {
        Ok(self.0.lock().unwrap().get(origin).cloned())
    }

    fn advance(&self, origin: &str, old_size: u64, new: &Seen) -> Result<bool, StoreError> {
        let mut seen = self.0.lock().unwrap();
        if seen.get(origin).map_or(0, |s| s.size) != old_size {
            return Ok(false);
        }
        seen.insert(origin.to_owned(), new.clone());
        Ok(true)
    }
}

/// Follows the logs of chain 7.
struct Chain;

impl KnownLogs for Chain {
    fn keys(&self, origin: &str) -> Option<Vec<VerifierKey>> {
        let origin: NodeOrigin = origin.parse().ok()?;
        (origin.chain_id == 7).then(|| vec![VerifierKey::of_account(&origin)])
    }
}

struct Cosigner(witness::Witness<Memory, Chain>);

impl Witness for Cosigner {
    fn add_checkpoint(&self, body: &[u8]) -> Result<String, Refusal> {
        self.0.add_checkpoint(body, TIME)
    }
}

fn witness_key() -> SigningKey {
    SigningKey::cosigner("witness.example/w1", &witness_seed(&B256::repeat_byte(1))).unwrap()
}

/// A running log, its URL without a path, and a folder of its own for the test's files.
struct Site {
    log: Arc<MemoryLog>,
    url: String,
    folder: PathBuf,
}

impl Site {
    async fn start(name: &str) -> Self {
        let log = Arc::new(MemoryLog::new());
        let witness = witness::Witness::new(witness_key(), Memory::default(), Chain);
        // Merged into one that has a fallback of its own, as in a node.
        let router = axum::Router::new()
            .fallback(|| async { (StatusCode::IM_A_TEAPOT, "elsewhere") })
            .merge(api::tlog::log_router(log.clone()))
            .merge(api::tlog::witness_router(Arc::new(Cosigner(witness))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tlog-{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self { log, url, folder }
    }

    async fn get(&self, path: &str) -> Response {
        reqwest::get(format!("{}{path}", self.url)).await.unwrap()
    }

    async fn ask(&self, body: impl Into<reqwest::Body>) -> Response {
        let url = format!("{}/witness/add-checkpoint", self.url);
        reqwest::Client::new().post(url).body(body).send().await.unwrap()
    }

    /// Runs the outside client; it remembers checkpoints in the test's folder.
    async fn outside(&self, more: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/tlog_check.py");
        let mut command = tokio::process::Command::new("python3");
        command.arg("-B").arg(script).arg(format!("{}/log", self.url)).arg(self.log.verifier().to_string());
        command.arg("--since").arg(self.folder.join("checkpoint")).args(more);
        command.output().await.expect("python3 must be installed")
    }

    /// The outside client must be content; its summary.
    async fn agreed(&self, more: &[&str]) -> serde_json::Value {
        let done = self.outside(more).await;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// The outside client must complain, in words that have `reason`.
    async fn refused(&self, more: &[&str], reason: &str) {
        let done = self.outside(more).await;
        let words = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{words}");
        assert!(words.contains(reason) && !words.contains("Traceback"), "{words}");
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

#[tokio::test]
async fn files_have_their_types_and_caching() {
    let site = Site::start("files").await;
    site.log.grow(600);
    let response = site.get("/log/checkpoint").await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(header(&response, "cache-control"), "no-cache");
    let note: Note = response.text().await.unwrap().parse().unwrap();
    assert_eq!(note, site.log.sign(600));

    for (path, width) in [
        ("/log/tile/0/000", 256),
        ("/log/tile/0/002.p/88", 88),
        ("/log/tile/0/002.p/1", 1),
        ("/log/tile/1/000.p/2", 2),
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(header(&response, "content-type"), "application/octet-stream");
        assert!(header(&response, "cache-control").contains("immutable"));
        assert_eq!(response.bytes().await.unwrap().len(), 32 * width);
    }
    let response = site.get("/log/tile/entries/002.p/88").await;
    assert_eq!(header(&response, "content-type"), "application/octet-stream");
    let bytes = response.bytes().await.unwrap();
    let entries = tiles::parse_bundle(&bytes, 88).unwrap();
    assert!(entries.iter().all(|e| e.len() == 97));
    assert_eq!(Some(merkle::leaf_hash(entries[87])), site.log.state.lock().unwrap().tree.leaf(599));
}

#[tokio::test]
async fn what_is_not_there_is_404_and_not_cached() {
    let site = Site::start("missing").await;
    site.log.grow(600);
    for path in [
        "/log/tile/0/002",
        "/log/tile/0/002.p/89",
        "/log/tile/0/003.p/1",
        "/log/tile/1/000",
        "/log/tile/2/000.p/1",
        "/log/tile/64/000",
        "/log/tile/0/0",
        "/log/tile/0/%3000",
        "/log/tile/0/000/",
        "/log/tile/0/x018/x446/x744/x073/x709/x551/615",
        "/log/tile/entries/002",
        "/log/tile/entries/x018/x446/x744/x073/x709/x551/615.p/255",
        "/log/tile/nonsense",
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(header(&response, "cache-control"), "no-store");
        assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
        assert!(response.text().await.unwrap().ends_with('\n'));
    }
    assert_eq!(site.get("/witness/add-checkpoint").await.status(), 405);
    assert_eq!(site.get("/log").await.status(), StatusCode::IM_A_TEAPOT, "not ours");
}

#[tokio::test]
async fn the_witness_answers_as_the_specification_says() {
    let site = Site::start("witness").await;
    let log = &site.log;
    log.grow(20);
    let response = site.ask(log.request(0, 10).to_string()).await;
    assert_eq!(response.status(), 200);
    let lines = response.text().await.unwrap();
    let mut note = log.sign(10);
    let known = [witness_key().verifier().clone()];
    assert_eq!(note.merge(&lines, &known), Ok(1));
    Policy::new(log.verifier().clone(), known.to_vec(), 1).unwrap().check(&note).unwrap();

    let response = site.ask(log.request(0, 20).to_string()).await;
    assert_eq!(response.status(), 409);
    assert_eq!(header(&response, "content-type"), "text/x.tlog.size");
    assert_eq!(response.text().await.unwrap(), "10\n");
    let lie = AddCheckpoint { old_size: 10, path: vec![], note: log.sign_root(10, B256::ZERO) };
    let response = site.ask(lie.to_string()).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (409, "text/x.tlog.size"));

    let mut wrong = log.request(10, 20);
    wrong.path.reverse();
    assert_eq!(site.ask(wrong.to_string()).await.status(), 422);
    assert_eq!(site.ask(vec![0xff; 100]).await.status(), 400);
    assert_eq!(site.ask("").await.status(), 400);
    assert_eq!(site.ask(vec![b'a'; witness::REQUEST_BYTES_MAX + 1]).await.status(), 413);
    let text = Checkpoint::new(log.origin.to_string(), 20, B256::ZERO).to_string();
    let stranger = SigningKey::ed25519("stranger", &B256::repeat_byte(5)).unwrap();
    let unsigned = |text: String| Note::sign(text, std::slice::from_ref(&stranger), 0).unwrap();
    let request = |note| AddCheckpoint { old_size: 10, path: vec![], note }.to_string();
    assert_eq!(site.ask(request(unsigned(text))).await.status(), 403);
    let unknown = Checkpoint::new("example.com/log", 20, B256::ZERO).to_string();
    assert_eq!(site.ask(request(unsigned(unknown))).await.status(), 404);
    assert_eq!(site.ask(log.request(10, 20).to_string()).await.status(), 200);
}

#[tokio::test]
async fn an_outside_client_follows_the_log() {
    let site = Site::start("outside").await;
    let witness = witness_key().verifier().to_string();
    let mut old = 0;
    for size in [0, 1, 2, 3, 255, 256, 257, 300, 300, 512, 1000, 66_000] {
        site.log.grow(size);
        let answer = site.ask(site.log.request(old, size).to_string()).await;
        let mut note = site.log.sign(size);
        note.merge(&answer.text().await.unwrap(), &[witness_key().verifier().clone()]).unwrap();
        site.log.publish(note);
        let summary = site.agreed(&["--witness", &witness, "--threshold", "1"]).await;
        assert_eq!((&summary["size"], &summary["since"]), (&size.into(), &old.into()));
        assert_eq!(summary["origin"], site.log.origin.to_string());
        old = size;
    }
    let entry = site.log.state.lock().unwrap().entries[700].clone();
    site.agreed(&["--entry", &format!("700:{}", hex::encode(&entry))]).await;
    site.refused(&["--entry", &format!("701:{}", hex::encode(&entry))], "inclusion").await;
    site.refused(&["--entry", &format!("70000:{}", hex::encode(&entry))], "no entry 70000").await;
}

#[tokio::test]
async fn an_outside_client_sees_every_lie() {
    let site = Site::start("lies").await;
    site.log.grow(700);
    site.agreed(&[]).await;
    let honest = site.log.state.lock().unwrap().clone();
    let (other, good) = (merkle::leaf_hash(b"other"), honest.tree.root_at(700).unwrap());
    let set = |state: State| *site.log.state.lock().unwrap() = state;

    // Another root for the same size; a smaller tree.
    let sign = |size, root| State { note: site.log.sign_root(size, root).to_string(), ..honest.clone() };
    set(sign(700, other));
    site.refused(&[], "the signed root").await;
    set(sign(600, honest.tree.root_at(600).unwrap()));
    site.refused(&[], "shrank").await;

    // An entry that is not the one of the tree.
    let mut state = honest.clone();
    state.entries[650][3] ^= 1;
    set(state);
    site.refused(&[], "bundle 2").await;

    // A whole other history, in itself without fault.
    let mut state = State::default();
    for (i, entry) in honest.entries.iter().enumerate() {
        let mut entry = entry.clone();
        entry[0] ^= u8::from(i == 13);
        state.tree.push(merkle::leaf_hash(&entry));
        state.entries.push(entry);
    }
    let rewritten = state.clone();
    state.note = site.log.sign_root(700, state.tree.root_at(700).unwrap()).to_string();
    set(state);
    site.refused(&[], "two roots").await;
    set(rewritten);
    site.log.grow(800);
    site.refused(&[], "rewritten").await;

    // Nobody's signature, a changed one, a missing witness.
    set(honest.clone());
    let text = Checkpoint::new(site.log.origin.to_string(), 700, good).to_string();
    let stranger = SigningKey::ed25519(site.log.origin.to_string(), &B256::repeat_byte(5)).unwrap();
    site.log.publish(Note::sign(text, &[stranger], 0).unwrap());
    site.refused(&[], "has not signed").await;
    let note = site.log.sign(700).to_string();
    set(State { note: note.replacen("\n700\n", "\n699\n", 1), ..honest.clone() });
    site.refused(&[], "signature is wrong").await;
    set(State { note, ..honest });
    let witness = witness_key().verifier().to_string();
    site.refused(&["--witness", &witness, "--threshold", "1"], "0 witnesses").await;
    site.agreed(&[]).await;
}
