//! A node's account for audits: it pays auditors for verdicts on the node's answers. A part of what clients pay goes there by itself;
//! a new node, or one whose model few auditors hold, pays in advance.

use crate::court::Court;
use client::contracts::Audits;
use tracing::info;
use types::U256;

/// Verdicts that the account should be able to pay. Auditors are obliged only to batches whose verdicts it can pay.
const VERDICTS: u64 = 4_000;
/// Finished batches whose leftovers are taken back before coins are added.
const SWEEP: u64 = 64;

/// Fills the account of this node when it is less than half full and the node has coins for it.
///
/// # Errors
/// When the ledger cannot be read, or refuses the coins.
pub(crate) async fn keep(court: &Court) -> anyhow::Result<()> {
    let (node, audits) = (court.me(), court.network.contracts.audits);
    let full = court.rpc.view(audits, &Audits::FEECall {}).await? * U256::from(VERDICTS);
    let account = Audits::accountsCall { node };
    if court.rpc.view(audits, &account).await? * U256::from(2) >= full {
        return Ok(());
    }
    // Half of the coins stay for fees of transactions.
    if court.rpc.balance(node).await? < full * U256::from(2) {
        return Ok(());
    }
    let call = Audits::sweepCall { node, count: U256::from(SWEEP) };
    court.send(audits, U256::ZERO, call).await?;
    let held = court.rpc.view(audits, &account).await?;
    let missing = full.saturating_sub(held);
    if held * U256::from(2) >= full {
        return Ok(());
    }
    court.send(audits, missing, Audits::fundForCall { node }).await?;
    info!(wei = %missing, "paid auditors in advance");
    Ok(())
}
