//! Why the header of a proof is final: votes that lead to it from genesis or a checkpoint.

use crate::{
    light::{self, Trusted},
    trust::Trust,
};
use types::ProofFile;

const DAY: u64 = 24 * 3600;

/// Checks that the header is final for a reader with this trust. Gives a sentence that says why.
pub(super) fn check(file: &ProofFile, trust: &Trust) -> Result<String, String> {
    let (config, name, ledger) = (&file.network, file.receipt.claim.genesis, &file.ledger);
    let Some(proof) = &ledger.checkpoint else {
        if let Some(checkpoint) = trust.checkpoint {
            return Err(format!(
                "this file starts at genesis and does not touch your checkpoint; get it with `og receipt get ID --checkpoint {checkpoint}`"
            ));
        }
        return voted(file, Trusted::genesis(config, &file.genesis_header, name)?);
    };
    let start = light::header(&proof.header)?;
    let Some(checkpoint) = trust.checkpoint else {
        return Err(format!(
            "this file is for readers who trust block {number}:{hash}; if you do, add --checkpoint {number}:{hash}",
            number = start.0.number,
            hash = start.1
        ));
    };
    let trusted = light::checkpoint_header(checkpoint, &proof.header)?;
    if proof.header == ledger.header {
        return Ok(format!("block {} is your checkpoint", trusted.number));
    }
    voted(file, Trusted::checkpoint(config, name, &trusted, &proof.members)?)
}

/// Follows the votes from `trusted` to the header.
fn voted(file: &ProofFile, mut trusted: Trusted) -> Result<String, String> {
    let ledger = &file.ledger;
    let certificate = ledger.certificate.as_ref().ok_or("the certificate is missing")?;
    ledger.handovers.iter().try_for_each(|handover| trusted.follow(handover))?;
    let (header, signers) = trusted.final_header(&ledger.header, certificate)?;
    let changes = match ledger.handovers.len() {
        0 => String::new(),
        1 => ", after 1 change of validators".into(),
        n => format!(", after {n} changes of validators"),
    };
    let of = trusted.set().members.len();
    Ok(format!("block {} was finalised by {signers} of {of} validators{changes}", header.number))
}

/// How old the keys are on which a proof from genesis rests, for people. The first validators vouch for the second ones, and so on: whoever
/// holds two thirds of any set's keys can forge all that comes after it, and a stake that was given back punishes nobody.
pub(super) fn age_of_keys(file: &ProofFile, now: Option<u64>) -> String {
    let first = file.ledger.handovers.first().map_or(&file.ledger.header, |h| &h.header);
    let sets = file.ledger.handovers.len() + 1;
    let which = match sets {
        1 => "the keys of the first validators".to_owned(),
        n => format!("the keys of {n} sets of validators"),
    };
    let unbonding = file.network.unbonding_seconds;
    let (Some(now), Ok((header, _))) = (now, light::header(first)) else {
        return format!("this rests on {which}; stakes stay punishable for {} days", unbonding / DAY);
    };
    let age = now.saturating_sub(header.timestamp);
    let advice = match age > unbonding {
        true => format!(
            "longer than the {} days for which a stake stays punishable: those who left may have sold their keys, so use a newer checkpoint (--checkpoint)",
            unbonding / DAY
        ),
        false => format!("their stakes stay punishable for {} days", unbonding / DAY),
    };
    format!("this rests on {which}; the oldest signed {} days ago; {advice}", age / DAY)
}
