//! Who may see the answer behind a receipt.

use super::{Shared, internal, now_ms};
use api::ports::{AuditorPass, InferenceFault, Shown};
use types::{B256, Disclose, signing};

/// Oldest signature of an auditor's request, in seconds.
const PASS_AGE_MAX: u64 = 120;

/// The receipt at `index`, and the answer when the client allowed it to be shown to the asker.
pub(super) async fn show(
    shared: &Shared,
    index: u64,
    size: u64,
    pass: Option<AuditorPass>,
) -> Result<Option<Shown>, InferenceFault> {
    let Some((receipt, kept)) = shared.log.entry(index).map_err(internal)? else { return Ok(None) };
    // Whoever reads what others of its group computed could commit to it.
    if !shared.shows(receipt.claim.receipt_id()) {
        return Err(InferenceFault::KeptBack);
    }
    let Some(kept) = kept else {
        return Ok(Some(Shown { receipt, disclose: Disclose::None, disclosure: None }));
    };
    let may = match (kept.disclose, pass) {
        (Disclose::Public, _) => true,
        (Disclose::Auditors, Some(pass)) => {
            check(shared, index, size, receipt.claim.model, &pass).await?;
            true
        }
        _ => false,
    };
    Ok(Some(Shown { receipt, disclose: kept.disclose, disclosure: may.then_some(kept.disclosure) }))
}

/// The asker signed just now, and the ledger says that it is drawn.
async fn check(
    shared: &Shared,
    index: u64,
    size: u64,
    model: B256,
    pass: &AuditorPass,
) -> Result<(), InferenceFault> {
    let forbidden = |why: &str| InferenceFault::Forbidden(why.into());
    let (node, genesis) = (shared.identity.producer.address(), shared.identity.genesis);
    let digest = signing::audit_request(&genesis, &node, index, pass.time);
    if signing::recover(digest, &pass.signature).ok() != Some(pass.auditor) {
        return Err(forbidden("the signature in og-auditor is not the auditor's"));
    }
    if (now_ms() / 1000).abs_diff(pass.time) > PASS_AGE_MAX {
        return Err(forbidden("the signature in og-auditor is too old"));
    }
    match shared.court.may_see(node, size, index, model, pass.auditor).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(forbidden("this auditor is not drawn for this receipt")),
        Err(e) => Err(internal(e)),
    }
}
