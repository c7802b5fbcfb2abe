//! Looking at one answer: fetched and computed again until there is a verdict, or no time is left.

use super::{
    Bench, Refuted, Verdict,
    fetch::{self, FetchError, Place},
    patience::Patience,
};
use std::time::{Duration, Instant};
use tracing::{info, warn};
use types::B256;

/// A verdict, and the model that it names.
pub(super) type Found = (Verdict, B256);

/// Looks at the receipt at `place`, for which this auditor is drawn if it is of one of `models`. `None` when it has nothing to say: the
/// receipt is of another model or does not submit to audits, or this machine could not look.
pub(super) async fn look(bench: &Bench, place: Place, models: &[B256], left: Duration) -> Option<Found> {
    let start = Instant::now();
    let mut patience = Patience::new(left, start);
    let mut last = None;
    // The last quarter is for sending what was found.
    while start.elapsed() < left * 3 / 4 {
        match attempt(bench, place, models).await {
            Ok(found) => return found,
            Err(e) => {
                patience.record(&e, Instant::now());
                last = Some(e);
            }
        }
        if let (true, Some(e)) = (patience.is_over(Instant::now(), bench.is_online()), &last) {
            info!(node = %place.node, index = place.index, "withheld: {e}");
            return Some((Verdict::Withheld, *models.first()?));
        }
        tokio::time::sleep(patience.pause()).await;
    }
    if let Some(e) = last {
        warn!(node = %place.node, index = place.index, "no verdict: {e}");
    }
    None
}

async fn attempt(bench: &Bench, place: Place, models: &[B256]) -> Result<Option<Found>, FetchError> {
    let permit = bench.fetch_place(place.node);
    let _permit = permit.acquire().await.map_err(|e| FetchError::Own(e.to_string()))?;
    // The receipt is public; it says whether we are drawn.
    let receipt = fetch::answer(bench, place, false).await?;
    bench.answered();
    let model = receipt.receipt.claim.model;
    if !receipt.is_open() || !models.contains(&model) {
        return Ok(None);
    }
    let answer = match receipt.disclosure {
        Some(_) => receipt,
        None => fetch::answer(bench, place, true).await?,
    };
    let Some(disclosure) = answer.disclosure.clone() else { return Ok(None) };
    let _turn = bench.compute_place().await;
    let judged = bench.judge(answer.receipt.claim.clone(), disclosure).await;
    let Some((verdict, words)) = judged.map_err(|e| FetchError::Own(e.to_string()))? else { return Ok(None) };
    if verdict != Verdict::Right {
        warn!(node = %place.node, index = place.index, "a wrong answer: {words}");
    }
    // Also what is right may be disputed later, by others, and then our word counts.
    let Place { node, size, index, .. } = place;
    bench.note(&Refuted { node, size, index, answer }).map_err(|e| FetchError::Own(e.to_string()))?;
    Ok(Some((verdict, model)))
}
