//! From a position's last row to the token that is chosen there (`kernels/SPEC.md`, section 6).

use crate::{
    OpKind, Program, Reader, RefereeError,
    eval::{Cells, u32_at},
    program::SCAN,
};
use kernels::{exp, uniform};
use std::cmp::Ordering;
use types::Sampling;

/// Stands for no token and no rank.
pub(crate) const NONE: u32 = u32::MAX;

/// A weight that stands for a token that left.
const LEFT: f32 = -1.0;

/// Appends the vectors of the choice behind `p.position`.
pub(crate) fn program(p: &mut Program, options: bool) {
    let (width, vocabulary, last) = (p.shape.width, p.shape.vocabulary, p.shape.layers.len() - 1);
    let steps = vocabulary.div_ceil(SCAN);
    let Sampling { temperature, top_p, presence_penalty, frequency_penalty, .. } = p.sampling;
    let input = p.push(OpKind::Row { layer: last }, width, 4);
    let normed = p.normed(input, "output_norm.weight".into());
    let head = p.shape.head_tensor().to_owned();
    let mut x = p.product(normed, width, vec![(head, vocabulary)]);
    if p.shape.final_cap.is_some() {
        x = p.push(OpKind::Softcap { x }, vocabulary, 4);
    }
    let generated = p.position + 1 - p.prompt;
    let penalised = presence_penalty != 0.0 || frequency_penalty != 0.0;
    let history = (penalised && generated > 0).then(|| p.push(OpKind::History, generated, 4));
    if history.is_some() || options {
        x = p.push(OpKind::Adjusted { x, history }, vocabulary, 4);
    }
    if options {
        let mask = p.push(OpKind::Mask, vocabulary.div_ceil(8), 1);
        x = p.push(OpKind::Masked { x, mask }, vocabulary, 4);
    }
    let best = p.push(OpKind::Best { x }, steps, 8);
    if temperature == 0.0 {
        p.push(OpKind::Token { best, draw: None }, 1, 4);
        return;
    }
    let weight = p.push(OpKind::Weight { x, best }, vocabulary, 4);
    let order = p.push(OpKind::Order { x }, vocabulary, 4);
    let mut kept = p.push(OpKind::Kept { x, weight, order }, vocabulary, 4);
    if top_p < 1.0 {
        let sum = p.push(OpKind::Sum { x: kept }, steps, 4);
        let below = p.push(OpKind::Below { order, kept }, vocabulary, 4);
        let cut = p.push(OpKind::Cut { order, kept, below, sum }, vocabulary.div_ceil(SCAN), 4);
        kept = p.push(OpKind::Final { x, order, kept, cut }, vocabulary, 4);
    }
    let sum = p.push(OpKind::Sum { x: kept }, steps, 4);
    let draw = p.push(OpKind::Draw { weights: kept, sum }, steps, 8);
    p.push(OpKind::Token { best, draw: Some(draw) }, 1, 4);
}

/// `Less` when `a` comes before `b` in the order of tokens: larger logits first, equal ones by ascending id.
pub(crate) fn order(a: (u32, f32), b: (u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Element `cell` of a vector that belongs to the choice of a token.
pub(crate) fn eval(
    p: &Program,
    kind: &OpKind,
    cell: usize,
    hint: u32,
    r: &dyn Reader,
) -> Result<Vec<u8>, RefereeError> {
    let cells = Cells(r);
    let s = &p.sampling;
    let v = p.shape.vocabulary;
    let step = || cell * SCAN..v.min((cell + 1) * SCAN);
    Ok(match kind {
        OpKind::History => r.token(p.prompt + cell)?.to_le_bytes().to_vec(),
        OpKind::Adjusted { x, history } => {
            let mut logit = cells.f32(*x, cell)?;
            for bias in r.biases()? {
                if bias.token as usize == cell {
                    logit += f32::from_bits(bias.bits);
                }
            }
            if let Some(history) = history {
                let tokens = cells.all(*history, p.ops[*history].bytes())?;
                let count = (0..tokens.len() / 4).filter(|i| u32_at(&tokens, *i) as usize == cell).count();
                if count > 0 {
                    logit -= s.presence_penalty + s.frequency_penalty * (count as f32);
                }
            }
            logit.to_le_bytes().to_vec()
        }
        OpKind::Mask => match r.grammar()? {
            false => vec![0xff],
            // The node's word: no other is known here.
            true => r.cells(hint_mask(p), cell..cell + 1)?.into_owned(),
        },
        OpKind::Masked { x, mask } => {
            let bits = r.cells(*mask, cell / 8..cell / 8 + 1)?;
            let allowed = bits.first().is_some_and(|b| b >> (cell % 8) & 1 == 1);
            let logit = if allowed { cells.f32(*x, cell)? } else { f32::NEG_INFINITY };
            logit.to_le_bytes().to_vec()
        }
        OpKind::Best { x } => {
            let logits = cells.f32s(*x, step())?;
            let mut best = match cell {
                0 => (0, logits.first().copied().unwrap_or(f32::NEG_INFINITY)),
                _ => cells.pair(p.best_of(*x)?, cell - 1)?,
            };
            for (t, logit) in step().zip(logits) {
                if logit > best.1 {
                    best = (t as u32, logit);
                }
            }
            [best.0.to_le_bytes(), best.1.to_le_bytes()].concat()
        }
        OpKind::Weight { x, best } => {
            let logit = cells.f32(*x, cell)?;
            let (_, largest) = cells.pair(*best, p.ops[*best].cells - 1)?;
            let left = logit.partial_cmp(&f32::NEG_INFINITY) != Some(Ordering::Greater);
            let weight = if left { LEFT } else { exp((logit - largest) / s.temperature) };
            weight.to_le_bytes().to_vec()
        }
        OpKind::Order { x } => return check_order(p, *x, cell, hint, r),
        OpKind::Kept { x, weight, order: ranks } => {
            let mut w = cells.f32(*weight, cell)?;
            if s.top_k > 0 && (s.top_k as usize) < v && w >= 0.0 {
                let last = cells.u32(*ranks, s.top_k as usize - 1)?;
                if last != NONE {
                    let own = (cell as u32, cells.f32(*x, cell)?);
                    if order(own, (last, cells.f32_of(*x, last, v)?)) == Ordering::Greater {
                        w = LEFT;
                    }
                }
            }
            // A NaN leaves, as in the engine's `retain`.
            if s.min_p > 0.0 && w.partial_cmp(&s.min_p).is_none_or(Ordering::is_lt) {
                w = LEFT;
            }
            w.to_le_bytes().to_vec()
        }
        OpKind::Sum { x } => {
            let mut sum = match cell {
                0 => 0.0,
                _ => cells.f32(p.index_of(kind)?, cell - 1)?,
            };
            for w in cells.f32s(*x, step())? {
                if w >= 0.0 {
                    sum += w;
                }
            }
            sum.to_le_bytes().to_vec()
        }
        OpKind::Below { order: ranks, kept } => {
            let mut below = match cell {
                0 => 0.0,
                _ => cells.f32(p.index_of(kind)?, cell - 1)?,
            };
            let token = cells.u32(*ranks, cell)?;
            if token != NONE {
                let w = cells.f32_of(*kept, token, v)?;
                if w >= 0.0 {
                    below += w;
                }
            }
            below.to_le_bytes().to_vec()
        }
        OpKind::Cut { below, sum, .. } => {
            // A rank whose token left adds nothing to the sum, so the first rank that reaches the goal is one that was kept,
            // unless the goal is zero, which no sum of weights of at least exp(-87) gives.
            let goal = cells.f32(*sum, p.ops[*sum].cells - 1)? * s.top_p;
            let found = match cell {
                0 => NONE,
                _ => cells.u32(p.index_of(kind)?, cell - 1)?,
            };
            let found = if found != NONE {
                found
            } else {
                let sums = cells.f32s(*below, step())?;
                step().zip(sums).find(|(_, b)| *b >= goal).map_or(NONE, |(rank, _)| rank as u32)
            };
            found.to_le_bytes().to_vec()
        }
        OpKind::Final { x, order: ranks, kept, cut } => {
            let mut w = cells.f32(*kept, cell)?;
            let cut = cells.u32(*cut, p.ops[*cut].cells - 1)?;
            if w >= 0.0 && cut != NONE {
                let last = cells.u32_of(*ranks, cut, v)?;
                if last != NONE {
                    let own = (cell as u32, cells.f32(*x, cell)?);
                    if order(own, (last, cells.f32_of(*x, last, v)?)) == Ordering::Greater {
                        w = LEFT;
                    }
                }
            }
            w.to_le_bytes().to_vec()
        }
        OpKind::Draw { weights, sum } => {
            let own = p.index_of(kind)?;
            let (mut found, mut last) = match cell {
                0 => (NONE, NONE),
                _ => {
                    let before = r.cells(own, (cell - 1) * 8..cell * 8)?;
                    (u32_at(&before, 0), u32_at(&before, 1))
                }
            };
            let total = cells.f32(*sum, p.ops[*sum].cells - 1)?;
            let mut below = if cell == 0 { 0.0 } else { cells.f32(*sum, cell - 1)? };
            let index = (p.position + 1 - p.prompt) as u64;
            let target = uniform(s.seed, index, 0) * total;
            for (token, w) in step().zip(cells.f32s(*weights, step())?) {
                if w >= 0.0 {
                    below += w;
                    last = token as u32;
                    if found == NONE && target < below {
                        found = token as u32;
                    }
                }
            }
            [found.to_le_bytes(), last.to_le_bytes()].concat()
        }
        OpKind::Token { best, draw } => {
            let (best, _) = cells.pair(*best, p.ops[*best].cells - 1)?;
            let token = match draw {
                None => best,
                Some(draw) => {
                    let at = (p.ops[*draw].cells - 1) * 8;
                    let drawn = r.cells(*draw, at..at + 8)?;
                    [u32_at(&drawn, 0), u32_at(&drawn, 1), best]
                        .into_iter()
                        .find(|t| *t != NONE)
                        .unwrap_or(best)
                }
            };
            token.to_le_bytes().to_vec()
        }
        _ => return Err(RefereeError::BadMove("not a vector of a choice")),
    })
}

/// Index of the mask.
fn hint_mask(p: &Program) -> usize {
    p.ops.iter().position(|o| o.kind == OpKind::Mask).unwrap_or_default()
}

/// Whether rank `cell` holds what it must. No single element can be computed from few others here, so the challenger's hint names a token that
/// should stand there or before; the result is the node's own element when nothing refutes it, else another.
fn check_order(
    p: &Program,
    x: usize,
    cell: usize,
    hint: u32,
    r: &dyn Reader,
) -> Result<Vec<u8>, RefereeError> {
    let cells = Cells(r);
    let v = p.shape.vocabulary;
    let own = p.ops.iter().position(|o| matches!(o.kind, OpKind::Order { .. })).unwrap_or_default();
    let claimed = cells.u32(own, cell)?;
    let key = |token: u32| -> Result<(u32, f32), RefereeError> { Ok((token, cells.f32_of(x, token, v)?)) };
    let there = |k: (u32, f32)| k.1 > f32::NEG_INFINITY;
    let before = match cell {
        0 => None,
        _ => Some(cells.u32(own, cell - 1)?),
    };
    let follows = |k: (u32, f32)| -> Result<bool, RefereeError> {
        Ok(match before {
            None => true,
            Some(NONE) => false,
            Some(b) => order(key(b)?, k) == Ordering::Less,
        })
    };
    let mut refuted = false;
    if claimed != NONE {
        refuted = claimed as usize >= v || !there(key(claimed)?) || !follows(key(claimed)?)?;
    }
    if !refuted && (hint as usize) < v {
        // A token that should come between the one before and the claimed one.
        let k = key(hint)?;
        let earlier = claimed == NONE || order(k, key(claimed)?) == Ordering::Less;
        refuted = there(k) && follows(k)? && earlier;
    }
    Ok(if refuted { (!claimed).to_le_bytes().to_vec() } else { claimed.to_le_bytes().to_vec() })
}

impl Program {
    pub(crate) fn index_of(&self, kind: &OpKind) -> Result<usize, RefereeError> {
        self.ops
            .iter()
            .position(|o| o.kind == *kind)
            .ok_or(RefereeError::BadMove("a vector of another program"))
    }

    fn best_of(&self, x: usize) -> Result<usize, RefereeError> {
        self.index_of(&OpKind::Best { x })
    }
}
