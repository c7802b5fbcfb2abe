//! The cheapest parameters under which every strategy loses money.

use crate::{
    analysis::{self, always_gain, burst_gain},
    audit::chance_of_dispute,
    config::{Config, ConfigError, Market, Protocol},
    report::{Cell, simulate},
    strategy::Strategy,
};
use serde::{Deserialize, Serialize};

/// Parameters under which cheating loses money even if it saved `Bounds::safety` times as much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The parameters.
    pub protocol: Protocol,
    /// Audits of a node with history, in per cent of the cost of inference.
    pub audit_percent: f64,
    /// Interest on the stake at the configured load, in per cent of the cost of inference.
    pub capital_percent: f64,
    /// Stake for each answer that a node gives in an hour, so that what it gives before the first verdict is covered too.
    pub stake_per_hourly_answer: f64,
    /// Chance that a wrong answer of a node with history is disputed in time.
    pub chance_of_dispute: f64,
    /// Canary bond that is needed if payments for canaries are not refunded.
    pub canary_bond_without_refund: f64,
    /// The simulation at these parameters, with savings times the safety factor and no client checking.
    pub cell: Cell,
    /// How often the closed forms were not enough and the stake was raised by a quarter.
    pub raised: u32,
}

impl Recommendation {
    /// Audits and capital together, in per cent of the cost of inference.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.audit_percent + self.capital_percent
    }
}

/// Searches `config.bounds`: closed forms give the least stake for each rate of audits, the cheapest pair is simulated, and
/// its stake raised until every strategy loses by three standard errors. None when the largest stake is not enough.
///
/// # Errors
/// When the configuration cannot be simulated.
pub fn recommend(config: &Config) -> Result<Option<Recommendation>, ConfigError> {
    config.validate()?;
    let safety = config.bounds.safety;
    // Nobody may count on clients that check.
    let honest = Market { client_checks: 0.0, ..config.market.clone() };
    let market =
        Market { saving: honest.saving * safety, text_saving: honest.text_saving * safety, ..honest.clone() };
    let mut best: Option<(f64, Protocol)> = None;
    for &rate in &config.bounds.rates {
        let Some(protocol) = least_stake(config, &market, rate) else { continue };
        let percent = audit_percent(&honest, &protocol) + capital_percent(&honest, &protocol);
        if best.as_ref().is_none_or(|(least, _)| percent < *least) {
            best = Some((percent, protocol));
        }
    }
    let Some((_, mut protocol)) = best else { return Ok(None) };
    let mut raised = 0;
    while protocol.min_stake <= config.bounds.max_stake && raised < 100 {
        let (cell, _) = simulate(&market, &protocol, &config.population, config.seed ^ 0x5eed);
        if cell.is_safe() {
            let pd = chance_of_dispute(
                Strategy::AfterHistory,
                protocol.rate_min,
                &honest,
                &protocol,
                &config.population,
            );
            return Ok(Some(Recommendation {
                audit_percent: audit_percent(&honest, &protocol),
                capital_percent: capital_percent(&honest, &protocol),
                stake_per_hourly_answer: analysis::stake_in_flight(
                    market.audit_hours,
                    pd,
                    1.0 - protocol.audit_share,
                    market.saving,
                ),
                chance_of_dispute: pd,
                canary_bond_without_refund: f64::from(market.big_answer) * market.saving / pd,
                protocol,
                cell,
                raised,
            }));
        }
        raised += 1;
        protocol = with_stake(config, &protocol, protocol.min_stake * 1.25);
    }
    Ok(None)
}

/// Audits and canaries for an answer of a node with history.
fn audit_percent(market: &Market, p: &Protocol) -> f64 {
    (p.rate_min * p.fee + p.canary_rate * p.rate_min.min(1.0) * p.canary_bond) / market.cost * 100.0
}

/// Interest for an answer: on the stake, and on the payment while it waits.
fn capital_percent(market: &Market, p: &Protocol) -> f64 {
    let stake = p.min_stake * market.interest / 8760.0 / f64::from(market.requests_per_hour);
    let payment = market.interest * f64::from(p.window_hours) / 8760.0;
    (stake + payment) / market.cost * 100.0
}

/// The parameters that follow from the market, and the least stake that the closed forms allow at this rate.
fn least_stake(config: &Config, market: &Market, rate_min: f64) -> Option<Protocol> {
    let (bounds, population) = (&config.bounds, &config.population);
    let replay = market.cost * market.replay;
    let rate_max = rate_min * bounds.rate_ratio;
    let fee = bounds.safety * replay;
    let lazy_slash = bounds.max_lazy_slash;
    let units = population.auditors();
    let (jury_rate, jury_min) = [9_u32, 15, 21, 31, 41, 51, 61, 81, 101]
        .into_iter()
        .map(|size| (f64::from(size), size / 2))
        .find(|&(rate, min)| analysis::jury(rate, min, units, 1.0 / 3.0).convicts <= bounds.max_capture)?;
    let mut base = Protocol {
        rate_max,
        rate_min,
        fraud_slash: bounds.slash,
        timeout_slash: bounds.slash,
        text_slash: bounds.slash,
        bounty: 0.1,
        fee,
        // Between the cost of a new node and that of an old one, with a fifth to spare for juries; in thousandths.
        audit_share: ((rate_min + rate_max) / 2.0 * fee * 1.2 * 1000.0).ceil() / 1000.0,
        lazy_slash,
        miss_penalty: fee,
        canary_rate: round_up(bounds.safety * analysis::canary_break_even(replay, lazy_slash)),
        canary_bond: 0.0,
        canary_refund: true,
        window_hours: (2 * market.audit_hours).max(market.client_hours),
        jury_rate,
        jury_min,
        ..config.protocol.clone()
    };
    let pd = |s| chance_of_dispute(s, rate_min, market, &base, population);
    let kept = 1.0 - base.audit_share;
    let size = f64::from(market.big_answer);
    let one = pd(Strategy::BigAnswer);
    let big = analysis::slash_when_clawed_back(one, kept * size, market.saving * size);
    let cartel =
        analysis::slash_when_clawed_back(pd(Strategy::Collude), kept, market.saving) / (1.0 - base.bounty);
    let guilty = population.auditors_honest + population.auditors_colluding;
    let convicts =
        analysis::jury(jury_rate, jury_min, units, f64::from(guilty) / f64::from(units.max(1))).convicts;
    let text = analysis::slash_when_clawed_back(pd(Strategy::Text) * convicts, kept, market.text_saving);
    // A canary declared to hide a wrong answer saves its cost and earns what lazy auditors lose; it loses the payment, and
    // the bond when an honest auditor is drawn. In any case the bond exceeds the largest price.
    let lazy = f64::from(population.auditors_lazy + population.auditors_copying) / f64::from(units.max(1));
    let hidden = size * (market.saving - kept) + rate_min * lazy * lazy_slash;
    base.canary_bond = round_up((hidden / one).max(bounds.safety * size));
    let mut stake = big.max(cartel).max(text) / bounds.slash;
    // The first verdict ends both kinds of attack.
    let in_flight = market.audit_hours * market.requests_per_hour;
    let last = in_flight.min(market.last_hours * market.requests_per_hour);
    loop {
        stake = round_up(stake);
        if stake.is_nan() || stake > bounds.max_stake {
            return None;
        }
        let slash = stake * bounds.slash;
        let burst = burst_gain(last, one, slash, stake, kept, market.saving);
        let always = always_gain(one, in_flight, slash, stake, kept, market.saving);
        if burst < 0.0 && always < 0.0 {
            return Some(with_stake(config, &base, stake));
        }
        stake *= 1.1;
    }
}

/// The same parameters with another stake, and the bonds that depend on it.
fn with_stake(config: &Config, base: &Protocol, stake: f64) -> Protocol {
    let (market, safety) = (&config.market, config.bounds.safety);
    let min_stake = round_up(stake);
    let spam = analysis::spam_bond(market.offline, base.bounty, min_stake * base.timeout_slash);
    let bond = round_up(safety * spam.max(market.dispute_cost));
    Protocol { min_stake, bond, jury_bond: 2.0 * bond, ..base.clone() }
}

/// Up to two digits.
fn round_up(x: f64) -> f64 {
    if !(x > 0.0 && x.is_finite()) {
        return x;
    }
    let mut unit = 1.0;
    while x < 10.0 * unit {
        unit /= 10.0;
    }
    while x >= 100.0 * unit {
        unit *= 10.0;
    }
    // Division gives the decimal number itself where multiplication by a tenth would not.
    let digits = (x / unit - 1e-9).ceil();
    if unit < 1.0 { digits / (1.0 / unit).round() } else { digits * unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_keeps_two_digits() {
        assert_eq!(round_up(1234.0), 1300.0);
        assert_eq!(round_up(0.003_61), 0.0037);
        assert_eq!(round_up(40.0), 40.0);
        assert_eq!(round_up(0.0), 0.0);
        assert_eq!(round_up(9.91), 10.0);
    }
}
