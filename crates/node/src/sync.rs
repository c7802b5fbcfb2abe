//! State sync: a new validator takes the state of a recent block from another node instead of executing the whole chain.
//!
//! Nothing is believed: validator sets are followed from the genesis block, the block must be final, and the state must have the root in
//! its header.

use crate::{files, network_file::NetworkFile};
use alloy_consensus::ReceiptEnvelope;
use anyhow::{Context as _, bail, ensure};
use api::ports::ChainFault;
use client::{RpcClient, light::Trusted};
use consensus::Chain;
use ledger::{Anchor, Block, Cursor, Import, Ledger, Part, Retention, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use types::{B256, Bytes, FinalityCertificate, Handover, hex, keccak256};

/// Headers before the block whose hashes contracts can ask for.
const HEADERS: u64 = 256;
/// A block and all that a new node needs of the past.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    number: u64,
    /// RLP of the block.
    block: Bytes,
    /// RLP.
    turn: Bytes,
    /// RLP list.
    receipts: Bytes,
    certificate: FinalityCertificate,
    handovers: Vec<Handover>,
    /// RLP of the headers before it, newest first.
    headers: Vec<Bytes>,
}

fn internal(e: impl std::fmt::Display) -> ChainFault {
    ChainFault::Internal(e.to_string())
}

/// Where a part of a snapshot begins, as `og_syncRange` is told.
pub(crate) fn cursor(text: &str) -> Result<Cursor, ChainFault> {
    let malformed = || ChainFault::Rejected("malformed cursor".into());
    match text {
        "" => Ok(Cursor::default()),
        text => {
            let bytes = hex::decode(text).map_err(|_| malformed())?;
            alloy_rlp::decode_exact(bytes).map_err(|_| malformed())
        }
    }
}

/// `og_syncPoint`: the newest snapshot whose block is certified.
pub(crate) fn point(chain: &Chain) -> Result<Value, ChainFault> {
    let store = chain.store();
    let none = || ChainFault::NotFinalised("this node has no snapshot yet; replay the chain instead".into());
    let number = store.snapshot().map_err(internal)?.ok_or_else(none)?;
    let certificate = store.certificate(number).map_err(internal)?.ok_or_else(none)?;
    let block = store.block(number).map_err(internal)?.ok_or_else(none)?;
    let turn = store.turn(number).map_err(internal)?.unwrap_or_default();
    let mut receipts = Vec::new();
    alloy_rlp::encode_list(&store.receipts(number).map_err(internal)?.unwrap_or_default(), &mut receipts);
    let before = (number.saturating_sub(HEADERS)..number).rev();
    let headers = before
        .map_while(|n| store.header(n).transpose())
        .map(|h| Ok(alloy_rlp::encode(h.map_err(internal)?).into()))
        .collect::<Result<_, ChainFault>>()?;
    serde_json::to_value(Point {
        number,
        block: block.encode().into(),
        turn: alloy_rlp::encode(turn).into(),
        receipts: receipts.into(),
        handovers: chain.handovers(certificate.epoch).map_err(internal)?,
        certificate,
        headers,
    })
    .map_err(internal)
}

/// What a sync did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// The block whose state was taken.
    pub(crate) number: u64,
    /// Accounts and slots.
    pub(crate) entries: u64,
    /// Bytes of parts.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

/// True when the folder has no ledger yet.
pub(crate) fn is_fresh(dir: &Path) -> bool {
    !dir.join("blocks.redb").exists()
}

/// Fills the empty folder `dir` with the state of a recent block from the node at `url`. `None` when that node has no snapshot: then the chain
/// is so short that replaying it is quick.
pub(crate) async fn run(
    dir: &Path,
    file: &NetworkFile,
    url: &str,
    progress: impl Fn(u64, u64),
) -> anyhow::Result<Option<Done>> {
    ensure!(is_fresh(dir), "{} has a ledger already; a sync needs a fresh folder", dir.display());
    let began = Instant::now();
    let rpc = RpcClient::new(url);
    let genesis = file.genesis.execute(&file.network)?;
    let genesis_header = Bytes::from(alloy_rlp::encode(genesis.header()));
    let theirs = rpc.network().await?;
    let found = keccak256(&theirs.genesis_header);
    ensure!(found == genesis.hash(), "{url} serves network {found}, not {}", genesis.hash());

    let point: Point = match rpc.call("og_syncPoint", json!([])).await {
        Ok(point) => point,
        Err(e) if e.to_string().contains("no snapshot") => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let finalized = rpc.finalized().await?;
    let mut trusted =
        Trusted::genesis(&file.network, &genesis_header, genesis.hash()).map_err(anyhow::Error::msg)?;
    for handover in &point.handovers {
        trusted
            .follow(handover)
            .map_err(anyhow::Error::msg)
            .context("the chain of validator sets is broken")?;
    }
    let block = Block::decode(&point.block)?;
    let header = Bytes::from(alloy_rlp::encode(&block.header));
    trusted
        .final_header(&header, &point.certificate)
        .map_err(anyhow::Error::msg)
        .context("the snapshot's block is not final")?;
    ensure!(block.header.number == point.number, "the block has another number than the snapshot");
    ensure!(
        block.header.transactions_root
            == alloy_consensus::proofs::calculate_transaction_root(&block.transactions),
        "the block does not have the transactions of its header"
    );
    let hashes = follow_parents(&block, &point.headers, genesis.hash())?;

    // Beside the final place, so that an interrupted sync leaves nothing that looks like a ledger.
    let draft = dir.join("sync");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    files::private_dir(&draft)?;
    let store = Store::open(&draft, Retention::Full)?;
    let mut import = Import::new(store, point.number);
    let (mut entries, mut bytes, mut cursor) = (0, 0, String::new());
    loop {
        let range: Value = rpc.call("og_syncRange", json!([format!("{:#x}", point.number), cursor])).await?;
        let part: Bytes = serde_json::from_value(range["part"].clone()).context("malformed part")?;
        bytes += part.len() as u64;
        let part = Part::decode(&part)?;
        entries += part.len() as u64;
        import = tokio::task::spawn_blocking(move || import.add(part).map(|()| import)).await??;
        progress(entries, bytes);
        match range["next"].as_str() {
            Some(next) if next != cursor => cursor = next.to_owned(),
            Some(_) => bail!("{url} sends the same part again and again"),
            None => break,
        }
    }
    // Votes cast before the disk was lost are forgotten; voting again in the same epoch could contradict them.
    let tip = finalized.certificate.epoch.max(point.certificate.epoch);
    let anchor = Anchor {
        genesis: Block::clone(genesis.block()),
        turn: alloy_rlp::decode_exact(&point.turn).context("malformed turn")?,
        receipts: alloy_rlp::decode_exact::<Vec<ReceiptEnvelope>>(&point.receipts)
            .context("malformed receipts")?,
        certificate: point.certificate,
        hashes,
        first: file.network.first_set(),
        handovers: point.handovers,
        votes_from: tip + 1,
        block,
    };
    let number = point.number;
    tokio::task::spawn_blocking(move || import.finish(&anchor)).await??;
    let params = file.genesis.params(&file.network);
    let ledger = Ledger::new(params, genesis.hash());
    let store = Arc::new(Store::open(&draft, Retention::Full)?);
    store.recover(&ledger)?.context("the synced ledger is empty")?;
    drop(store);
    fs::rename(draft.join("state.redb"), dir.join("state.redb"))?;
    fs::rename(draft.join("blocks.redb"), dir.join("blocks.redb"))?;
    fs::remove_dir_all(&draft)?;
    Ok(Some(Done { number, entries, bytes, took: began.elapsed() }))
}

/// Hashes of the blocks before `block`, each named by the one after it.
fn follow_parents(block: &Block, headers: &[Bytes], genesis: B256) -> anyhow::Result<Vec<(u64, B256)>> {
    let needed = HEADERS.min(block.header.number) as usize;
    ensure!(headers.len() == needed, "{} headers before the snapshot instead of {needed}", headers.len());
    let mut expected = block.header.parent_hash;
    let mut out = vec![(0, genesis)];
    for bytes in headers {
        let (header, hash) = client::light::header(bytes).map_err(anyhow::Error::msg)?;
        ensure!(hash == expected, "block {} is not the parent of the one after it", header.number);
        out.push((header.number, hash));
        expected = header.parent_hash;
    }
    Ok(out)
}
