//! What attacks on the rules themselves cost and bring, in coins: not cheating within the rules, as in the simulation, but closing the court,
//! ejecting the auditors, capturing the jury, being paid for nothing, and overcharging. Closed forms, once with the rules under which these
//! attacks were carried out on a running network, once with today's.

use crate::analysis::binomial;
use serde::{Deserialize, Serialize};

/// The rules that decide these attacks. Coins and seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Smallest stake of a node.
    pub node_stake: f64,
    /// What a node loses for a wrong answer.
    pub fraud_slash: f64,
    /// Part of a slash that goes to who reports it.
    pub bounty: f64,
    /// Bond of a dispute.
    pub bond: f64,
    /// Most open disputes about a node, each with a bond that is larger by `bond` than the one before; `None` for any number at one bond.
    pub open_max: Option<u32>,
    /// Longest game.
    pub game_seconds: f64,
    /// Time in which an answer can be disputed.
    pub window_seconds: f64,
    /// Stake of an auditor that follows the defaults.
    pub auditor_stake: f64,
    /// Stake below which an auditor is drawn no more.
    pub auditor_floor: f64,
    /// What a missed draw costs an auditor.
    pub miss_penalty: f64,
    /// Missed draws in a window that cost nothing.
    pub misses_free: f64,
    /// Missed draws in a window after which more cost nothing.
    pub misses_max: f64,
    /// Whether draws are for registered models only.
    pub by_model: bool,
    /// Expected jurors of a case.
    pub jurors: f64,
    /// Fewest jurors of a verdict.
    pub jurors_min: u32,
    /// Least stake of all jurors together with which there are verdicts at all.
    pub bench_stake: f64,
    /// Pay for a verdict.
    pub fee: f64,
    /// Whether a verdict is paid by the node whose answer it is about, and counts only then.
    pub fee_by_node: bool,
    /// Largest price that a proxy pays, as a multiple of the median offer; `None` for any.
    pub price_multiple: Option<f64>,
}

impl Rules {
    /// The rules of networks of format 3, under which every one of these attacks succeeded.
    #[must_use]
    pub fn before() -> Self {
        Self {
            node_stake: 100.0,
            fraud_slash: 50.0,
            bounty: 0.1,
            bond: 0.1,
            open_max: Some(16),
            game_seconds: 32.0 * HOUR,
            window_seconds: 24.0 * HOUR,
            auditor_stake: 20.0,
            auditor_floor: 20.0,
            miss_penalty: 0.001,
            misses_free: 0.0,
            misses_max: f64::INFINITY,
            by_model: false,
            jurors: 31.0,
            jurors_min: 15,
            bench_stake: 0.0,
            fee: 1e-6,
            fee_by_node: false,
            price_multiple: None,
        }
    }

    /// The defaults of public networks.
    #[must_use]
    pub fn today() -> Self {
        Self {
            open_max: None,
            game_seconds: 17.0 * HOUR,
            auditor_stake: 40.0,
            auditor_floor: 10.0,
            misses_free: 16.0,
            misses_max: 272.0,
            by_model: true,
            jurors_min: 20,
            bench_stake: 1_000.0,
            fee_by_node: true,
            price_multiple: Some(4.0),
            ..Self::before()
        }
    }
}

/// The size of the network that is attacked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Honest auditors.
    pub auditors: u32,
    /// Receipts of nothing that are posted.
    pub imaginary: f64,
    /// Price of an answer at the median offer, in coins.
    pub price: f64,
    /// What the attacker asks instead, as a multiple.
    pub gouging: f64,
    /// Part of the attacked proxy's answers that the attacker gives.
    pub share: f64,
}

impl Default for Target {
    /// The network of the attacks that were carried out.
    fn default() -> Self {
        Self { auditors: 30, imaginary: 768.0, price: 6.9e-8, gouging: 435_000.0, share: 5.0 / 8.0 }
    }
}

/// What one attack costs and brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    /// What is attacked.
    pub name: String,
    /// Coins that are lost by attacking; infinite when no amount suffices.
    pub cost: f64,
    /// Coins that are locked meanwhile and come back.
    pub locked: f64,
    /// Coins that the attacker gains.
    pub gain: f64,
    /// Coins that an honest victim loses.
    pub damage: f64,
    /// In words.
    pub what: String,
}

const HOUR: f64 = 3600.0;

/// All attacks under some rules.
#[must_use]
pub fn attacks(rules: &Rules, target: &Target) -> Vec<Attack> {
    vec![
        closed_court(rules),
        ejected_auditors(rules, target),
        captured_jury(rules, target),
        roots_of_nothing(rules, target),
        price_gouging(rules, target),
    ]
}

/// A friend of a cheating node holds all places for disputes with games as slow as the rules allow, until the window is over.
fn closed_court(rules: &Rules) -> Attack {
    let name = "closed court".into();
    let Some(places) = rules.open_max else {
        // There is no place to hold: every honest challenger opens its own game.
        return Attack {
            name,
            cost: f64::INFINITY,
            locked: 0.0,
            gain: 0.0,
            damage: 0.0,
            what: "no number of open games keeps another one from being opened".into(),
        };
    };
    let places = f64::from(places);
    let bonds = rules.bond * places * (places + 1.0) / 2.0;
    let rounds = (rules.window_seconds / rules.game_seconds).ceil();
    Attack {
        name,
        // Half of a lost bond is burnt, the other half comes back to the node, which is the friend's.
        cost: rounds * bonds / 2.0,
        locked: bonds,
        gain: 0.0,
        damage: 0.0,
        what: format!(
            "every answer of {:.0} h can be wrong, instead of costing {:.0} coins",
            rules.window_seconds / HOUR,
            rules.fraud_slash
        ),
    }
}

/// A node logs receipts for a model that only it holds; the drawn auditors cannot check them and are reported.
fn ejected_auditors(rules: &Rules, target: &Target) -> Attack {
    let name = "ejected auditors".into();
    if rules.by_model {
        return Attack {
            name,
            cost: f64::INFINITY,
            locked: rules.node_stake,
            gain: 0.0,
            damage: 0.0,
            what: "nobody is drawn for a model that they did not register".into(),
        };
    }
    let slack = (rules.auditor_stake - rules.auditor_floor).max(0.0);
    // The first miss below the floor ends the service.
    let misses = (slack / rules.miss_penalty).floor() + 1.0;
    let each = misses * rules.miss_penalty;
    let auditors = f64::from(target.auditors);
    Attack {
        name,
        cost: 0.0,
        locked: rules.node_stake,
        // Half of each penalty was the reporter's.
        gain: auditors * each / 2.0,
        damage: auditors * each,
        what: format!(
            "{auditors:.0} of {auditors:.0} auditors are out with {:.0} reports",
            auditors * misses
        ),
    }
}

/// Windows in which a buried auditor, which misses as much as can be charged to it, goes from its stake to the floor.
#[must_use]
pub fn windows_to_the_floor(rules: &Rules) -> f64 {
    let a_window = (rules.misses_max - rules.misses_free) * rules.miss_penalty;
    ((rules.auditor_stake - rules.auditor_floor) / a_window).floor()
}

/// The attacker is the jury, or enough of it to convict an honest node.
fn captured_jury(rules: &Rules, target: &Target) -> Attack {
    // Where the honest auditors can be ejected first, the attacker is the only one left, and needs no more than the fewest jurors.
    let honest = match rules.by_model {
        true => f64::from(target.auditors) * rules.auditor_stake,
        false => 0.0,
    };
    let needed = match honest > 0.0 {
        // Two thirds of what votes, when all honest jurors vote not guilty.
        true => (2.0 * honest).max(rules.bench_stake - honest),
        false => (f64::from(rules.jurors_min) + 1.0) * rules.auditor_stake,
    };
    Attack {
        name: "captured jury".into(),
        cost: 0.0,
        locked: needed,
        gain: rules.fraud_slash * rules.bounty,
        damage: rules.fraud_slash,
        what: match honest > 0.0 {
            true => format!(
                "twice the stake of all honest jurors, for a week before the case; a third of all stake gets {} jurors of its own in {:.0e} of cases",
                rules.jurors_min,
                chance_of_own_quorum(rules)
            ),
            false => format!("{} jurors of one party convict a node for a right answer", rules.jurors_min),
        },
    }
}

/// Chance that a party with a third of all stake gets as many jurors of its own as a verdict needs.
#[must_use]
pub fn chance_of_own_quorum(rules: &Rules) -> f64 {
    const UNITS: u32 = 3_000;
    let own = binomial(UNITS / 3, rules.jurors / f64::from(UNITS));
    own.iter().skip(rules.jurors_min as usize).sum()
}

/// A node posts roots over receipts that do not exist, and its own auditors call them right.
fn roots_of_nothing(rules: &Rules, target: &Target) -> Attack {
    let name = "roots of nothing".into();
    match rules.fee_by_node {
        true => Attack {
            name,
            cost: target.imaginary * rules.fee,
            locked: rules.node_stake + rules.auditor_stake,
            gain: target.imaginary * rules.fee,
            damage: 0.0,
            what: "the fees come out of what the node itself paid in: it pays itself".into(),
        },
        false => Attack {
            name,
            cost: 0.0,
            locked: rules.node_stake + rules.auditor_stake,
            gain: target.imaginary * rules.fee,
            damage: target.imaginary * rules.fee,
            what: format!("{:.0} fees out of everybody's pool, and a good history", target.imaginary),
        },
    }
}

/// A registered node asks many times the usual price of clients whose proxy chooses it.
fn price_gouging(rules: &Rules, target: &Target) -> Attack {
    let multiple = rules.price_multiple.unwrap_or(f64::INFINITY).min(target.gouging);
    // A thousand answers of one proxy.
    let loss = 1_000.0 * target.share * target.price * (multiple - 1.0);
    Attack {
        name: "price gouging".into(),
        cost: 0.0,
        locked: rules.node_stake,
        gain: loss,
        damage: loss,
        what: match rules.price_multiple {
            Some(most) => format!(
                "a node above {most:.0} times the median is not asked; shown: the most that one below it takes of 1,000 answers"
            ),
            None => {
                format!("{multiple:.0} times the usual price is paid without a word; shown: of 1,000 answers")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_name(rules: &Rules, name: &str) -> Attack {
        attacks(rules, &Target::default())
            .into_iter()
            .find(|a| a.name == name)
            .expect("an attack of that name")
    }

    #[test]
    fn the_old_rules_give_what_was_measured() {
        let old = Rules::before();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * b.abs().max(1.0);
        let court = by_name(&old, "closed court");
        // Measured: 6.8 coins burnt, 13.6 locked, for a day of fraud.
        assert!(close(court.cost, 6.8) && close(court.locked, 13.6), "{court:?}");
        // Measured: 30 of 30 auditors with 30 reports, 0.0005 coins a report.
        let ejected = by_name(&old, "ejected auditors");
        assert!(close(ejected.damage, 0.03) && close(ejected.gain, 0.015), "{ejected:?}");
        assert!(ejected.what.contains("with 30 reports"));
        // Measured: 16 auditors with 320 coins, victim 100 -> 50, plaintiff 5 more.
        let jury = by_name(&old, "captured jury");
        assert!(close(jury.locked, 320.0) && close(jury.gain, 5.0) && close(jury.damage, 50.0), "{jury:?}");
        // Measured: 768 fees.
        assert!(close(by_name(&old, "roots of nothing").damage, 768e-6));
        // Measured: 0.030 coins an answer.
        let gouging = by_name(&old, "price gouging");
        assert!((gouging.damage / (1_000.0 * 0.625) - 0.030).abs() < 1e-4, "{gouging:?}");
    }

    #[test]
    fn under_todays_rules_none_of_them_pays() {
        let today = Rules::today();
        for name in ["closed court", "ejected auditors"] {
            assert!(by_name(&today, name).cost.is_infinite(), "{name}");
        }
        let jury = by_name(&today, "captured jury");
        assert!(
            jury.locked >= 2.0 * 30.0 * today.auditor_stake && jury.locked > 100.0 * jury.gain,
            "{jury:?}"
        );
        assert!(chance_of_own_quorum(&today) < 5e-3 && chance_of_own_quorum(&Rules::before()) > 5e-2);
        let nothing = by_name(&today, "roots of nothing");
        assert!(nothing.gain <= nothing.cost && nothing.damage == 0.0);
        let (old, new) = (by_name(&Rules::before(), "price gouging"), by_name(&today, "price gouging"));
        assert!(new.damage < old.damage / 100_000.0, "{new:?}");
        assert!(today.window_seconds > today.game_seconds);
        assert!(windows_to_the_floor(&today) > 100.0);
    }
}
