//! Takes faults to their judges, until one has them.

use super::{Bench, Verdict, store::Fault};
use crate::court::{KIND_TEXT, KIND_WITHHELD, Place};
use anyhow::Context as _;
use client::contracts::{Audits, Jury, LoggedClaim};
use referee::Opening;
use std::{collections::HashMap, sync::Arc, time::Instant};
use tracing::{info, warn};
use types::U256;

/// Numbers of `Audits.Mark`: verdicts that must go to a judge.
const FLAGGED: std::ops::RangeInclusive<u8> = 2..=4;

/// Faults on their way to a judge.
pub(super) struct Faults {
    bench: Arc<Bench>,
    /// When each was tried last.
    tried: HashMap<(types::Address, u64), Instant>,
}

impl Faults {
    pub(super) fn new(bench: Arc<Bench>) -> Self {
        Self { bench, tried: HashMap::new() }
    }

    /// Brings what is due. A fault is done when a judge has it or its time is over.
    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        let faults = self.bench.store.faults()?;
        if faults.is_empty() {
            self.tried.clear();
            return Ok(());
        }
        let time = self.bench.court.rpc.block_time().await?;
        let pause = self.bench.rules.pause();
        for fault in faults {
            let key = (fault.node, fault.index);
            if time > fault.until {
                warn!(node = %fault.node, index = fault.index, "no judge took a fault in time");
                self.bench.store.drop_fault(&fault)?;
                continue;
            }
            // Verdicts are revealed first.
            if self.tried.get(&key).is_some_and(|last| last.elapsed() < pause)
                || time <= fault.until - self.bench.rules.reveal_seconds - self.bench.rules.back_seconds
            {
                continue;
            }
            self.tried.insert(key, Instant::now());
            match bring(&self.bench, &fault).await {
                Ok(true) => self.bench.store.drop_fault(&fault)?,
                Ok(false) => (),
                Err(e) => {
                    let (node, index) = key;
                    warn!(%node, index, "a fault is not with its judge yet: {e:#}; trying again");
                }
            }
        }
        Ok(())
    }
}

/// True when a judge has the fault, or nobody wants it.
async fn bring(bench: &Bench, fault: &Fault) -> anyhow::Result<bool> {
    let Fault { node, size, index, verdict, .. } = *fault;
    let audits = bench.court.network.contracts.audits;
    let known = bench.store.case_at(node, index)?;
    let withheld = verdict == Verdict::Withheld as u8;
    let model = known.as_ref().filter(|_| !withheld).map(|c| c.answer.receipt.claim.model);
    let call = Audits::markOfCall { node, model: model.unwrap_or_default(), index, auditor: bench.me() };
    let mark = bench.court.rpc.view(audits, &call).await?;
    if !FLAGGED.contains(&mark) {
        // Not revealed yet, or settled.
        return Ok(mark != 0);
    }
    // Who withholds the answer may still show the claim, and then it is named.
    let logged = match &known {
        Some(case) => case.answer.logged()?,
        None => LoggedClaim::default(),
    };
    let own = if verdict == Verdict::WrongComputation as u8 {
        dispute(bench, fault, logged.clone()).await
    } else {
        let kind = if withheld { KIND_WITHHELD } else { KIND_TEXT };
        let bond = bench.court.rpc.view(bench.court.network.contracts.jury, &Jury::BONDCall {}).await?;
        let call = Jury::escalateCall { node, size, index, kind, logged: logged.clone() };
        let jury = bench.court.network.contracts.jury;
        let sent = bench.court.send_by(fault.until, jury, bond, call).await;
        sent.map(|_| info!(%node, index, "called a jury")).context("calling a jury")
    };
    // A jury that is called says so to the audits; what somebody else brought counts as brought.
    if own.is_ok() && verdict != Verdict::WrongComputation as u8 {
        return Ok(true);
    }
    let logged = if withheld { LoggedClaim::default() } else { logged };
    let call = Audits::backCall { node, size, index, logged };
    match (bench.court.send_by(fault.until, audits, U256::ZERO, call).await, own) {
        (Ok(_), _) => Ok(true),
        (Err(e), Ok(())) => Err(e).context("showing that it was disputed"),
        (Err(_), Err(own)) => Err(own),
    }
}

/// Opens a dispute about a wrong computation.
async fn dispute(bench: &Bench, fault: &Fault, logged: LoggedClaim) -> anyhow::Result<()> {
    let Fault { node, size, index, .. } = *fault;
    let case = bench.store.case_at(node, index)?.context("the answer is no longer known")?;
    let claim = case.answer.receipt.claim.clone();
    let model =
        bench.models.iter().find(|m| m.id().0 == claim.model).cloned().context("no such model here")?;
    let disclosed = case.answer.disclosure.clone().context("an answer that was not shown")?;
    let opening = tokio::task::spawn_blocking(move || -> anyhow::Result<Opening> {
        // A claim that contradicts itself needs no computation.
        if claim.computed_price() != Some(claim.price) || claim.completion_tokens > claim.max_tokens {
            return Ok(Opening::Trace);
        }
        let player = crate::court::case::player(&model, &claim, &disclosed, false)?;
        player.allegation().context("this machine computes the same")
    })
    .await??;
    let place = Place { node, size, index, receipt: case.answer.receipt.claim.receipt_id().0 };
    bench.court.dispute(place, logged, opening.encode().into()).await.context("opening a dispute")?;
    info!(%node, index, "opened a dispute");
    Ok(())
}
