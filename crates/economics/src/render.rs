//! The report as plain text, under 100 columns.

use crate::{
    attacks::{Rules, Target, attacks},
    config::Protocol,
    report::Report,
    strategy::Strategy,
};
use std::fmt::{self, Display, Formatter};

impl Report {
    /// The report as plain text, under 100 columns.
    #[must_use]
    pub fn render(&self) -> String {
        self.to_string()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let m = &self.config.market;
        writeln!(
            f,
            "{} agents, {} days, seed {}. Unit: the price of an average answer, which costs {} and of which",
            self.agents, m.days, self.config.seed, m.cost
        )?;
        writeln!(f, "a wrong one saves {}. Amounts are means of an owner in the whole run.\n", m.saving)?;
        grid(self, f)?;
        break_even(self, f)?;
        detail(self, f)?;
        auditors(self, f)?;
        writeln!(f, "SIMULATION BESIDE CLOSED FORMS")?;
        writeln!(f, "{:<40}{:>14}{:>12}{:>14}{:>8}", "", "simulated", "error", "formula", "z")?;
        for c in &self.comparisons {
            let z = c.z();
            writeln!(f, "{:<40}{:>14.5}{:>12.5}{:>14.5}{z:>8.1}", c.name, c.simulated, c.error, c.formula)?;
        }
        writeln!(
            f,
            "\nJURIES: chance to convict an honest node (capture) and not to convict a guilty one (blocked)"
        )?;
        writeln!(
            f,
            "{:>8}{:>8}{:>10}{:>14}{:>14}{:>22}",
            "jurors", "min", "hostile", "capture", "blocked", "committee captured"
        )?;
        for j in &self.juries {
            writeln!(
                f,
                "{:>8}{:>8}{:>9.0}%{:>14.2e}{:>14.2e}{:>22.2e}",
                j.rate,
                j.min,
                j.adversary * 100.0,
                j.capture,
                j.blocked,
                j.committee
            )?;
        }
        recommendation(self, f)?;
        rules(f)
    }
}

/// What attacks on the rules cost and bring.
fn rules(f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "\nATTACKS ON THE RULES, in coins: with the rules of format 3, and with today's")?;
    writeln!(f, "{:<26}{:>10}{:>11}{:>11}{:>11}", "", "lost", "locked", "gain", "damage")?;
    let target = Target::default();
    let both = attacks(&Rules::before(), &target).into_iter().zip(attacks(&Rules::today(), &target));
    for (before, today) in both {
        for (when, a) in [("before", before), ("today", today)] {
            let name = if when == "before" { a.name.as_str() } else { "" };
            let coins = |x: f64| if x.is_infinite() { "any".to_owned() } else { format!("{x:.3e}") };
            let (lost, locked, gain, damage) =
                (coins(a.cost), coins(a.locked), coins(a.gain), coins(a.damage));
            writeln!(f, "{name:<18}{when:<8}{lost:>10}{locked:>11}{gain:>11}{damage:>11}")?;
            for line in wrapped(&a.what, 72) {
                writeln!(f, "{:<26}{line}", "")?;
            }
        }
    }
    Ok(())
}

/// An amount in at most seven characters.
fn short(x: f64) -> String {
    match x.abs() {
        a if a >= 99_999.5 => format!("{:.0}k", x / 1000.0),
        a if a >= 99.95 => format!("{x:.0}"),
        _ => format!("{x:.1}"),
    }
}

fn heads(f: &mut Formatter<'_>, strategies: &[Strategy]) -> fmt::Result {
    write!(f, "{:>6}{:>7}{:>4} ", "rate", "stake", "h")?;
    for s in strategies {
        write!(f, "{:>8}", s.name())?;
    }
    writeln!(f)
}

fn grid(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let Some(first) = report.grid.first() else { return Ok(()) };
    let strategies: Vec<_> =
        first.rows.iter().map(|r| r.strategy).filter(|s| *s != Strategy::Honest).collect();
    writeln!(f, "GAIN OVER HONEST by rate (RATE_MIN), stake and window (h); second line: standard error")?;
    heads(f, &strategies)?;
    for cell in &report.grid {
        write!(f, "{:>6}{:>7}{:>4} ", cell.rate_min, cell.stake, cell.window_hours)?;
        for s in &strategies {
            write!(f, "{:>8}", cell.row(*s).map(|r| short(r.mean)).unwrap_or_default())?;
        }
        write!(f, "\n{:>18}", if cell.is_safe() { "safe " } else { "" })?;
        for s in &strategies {
            write!(f, "{:>8}", cell.row(*s).map(|r| short(r.error)).unwrap_or_default())?;
        }
        writeln!(f)?;
    }
    writeln!(f)
}

fn break_even(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let Some(first) = report.grid.first() else { return Ok(()) };
    let strategies: Vec<_> =
        first.rows.iter().map(|r| r.strategy).filter(|s| *s != Strategy::Honest).collect();
    writeln!(f, "BREAK-EVEN: smallest stake of the grid at which the strategy loses by 3 standard errors")?;
    heads(f, &strategies)?;
    for &rate in &report.config.grid.rates {
        for &window in &report.config.grid.windows {
            write!(f, "{rate:>6}{:>7}{window:>4} ", "")?;
            for s in &strategies {
                let found = report
                    .break_even
                    .iter()
                    .find(|b| b.rate_min == rate && b.window_hours == window && b.strategy == *s);
                let stake = found.and_then(|b| b.stake).map_or_else(|| "-".to_owned(), |x| format!("{x:.0}"));
                write!(f, "{stake:>8}")?;
            }
            writeln!(f)?;
        }
    }
    writeln!(f)
}

fn rows(cell: &crate::report::Cell, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "{:<10}{:>8}{:>14}{:>12}{:>10}{:>10}{:>12}{:>12}",
        "strategy", "owners", "gain", "error", "attacks", "caught", "wrong", "convicted"
    )?;
    for r in &cell.rows {
        writeln!(
            f,
            "{:<10}{:>8}{:>14.2}{:>12.2}{:>10}{:>10}{:>12}{:>12}",
            r.strategy.name(),
            r.owners,
            r.mean,
            r.error,
            r.attacks,
            r.caught,
            r.wrong,
            r.convictions
        )?;
    }
    writeln!(f)
}

fn detail(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let c = &report.detail;
    writeln!(
        f,
        "CONFIGURED PARAMETERS: rate {}..{}, stake {}, window {} h, slash {:.0} %",
        c.rate_min,
        c.rate_max,
        c.stake,
        c.window_hours,
        report.config.protocol.fraud_slash * 100.0
    )?;
    rows(c, f)
}

fn auditors(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "AUDITORS: profit of a verdict")?;
    for a in &report.auditors {
        writeln!(f, "{:<12}{:>6}{:>12.4} +- {:.4}", a.kind.name(), a.auditors, a.mean, a.error)?;
    }
    writeln!(
        f,
        "canary rate {} (a lazy verdict loses from {:.5} on); a canary costs its planter {:.2}",
        report.config.protocol.canary_rate, report.canary_break_even, -report.canary_planter
    )?;
    writeln!(f, "a challenge without ground costs its opener {:.3}", -report.spam)?;
    writeln!(f, "audit pool: {:.0} left, {} verdicts unpaid\n", report.pool, report.unpaid_verdicts)
}

fn recommendation(report: &Report, f: &mut Formatter<'_>) -> fmt::Result {
    let bounds = &report.config.bounds;
    let Some(r) = &report.recommendation else {
        return writeln!(f, "\nRECOMMENDATION: none within the bounds; allow a larger stake or more audits");
    };
    writeln!(
        f,
        "\nRECOMMENDATION: cheating loses even if it saved {} times as much, and no client checks",
        bounds.safety
    )?;
    parameters(&r.protocol, f)?;
    writeln!(
        f,
        "cost: audits {:.2} % and capital {:.2} % of inference; a wrong answer is disputed with chance {:.4}",
        r.audit_percent, r.capital_percent, r.chance_of_dispute
    )?;
    writeln!(
        f,
        "large nodes: {:.1} of stake for each answer an hour; canary bond without refunds: {:.0}; raised {}",
        r.stake_per_hourly_answer, r.canary_bond_without_refund, r.raised
    )?;
    rows(&r.cell, f)
}

fn parameters(p: &Protocol, f: &mut Formatter<'_>) -> fmt::Result {
    let slash = |share: f64| format!("{} ({:.0} % of the stake)", p.min_stake * share, share * 100.0);
    for (name, value) in [
        ("RATE_MAX", p.rate_max.to_string()),
        ("RATE_MIN", p.rate_min.to_string()),
        ("MIN_STAKE", p.min_stake.to_string()),
        ("FRAUD_SLASH", slash(p.fraud_slash)),
        ("TIMEOUT_SLASH", slash(p.timeout_slash)),
        ("TEXT_SLASH", slash(p.text_slash)),
        ("BOUNTY", format!("{:.0} % of a slash", p.bounty * 100.0)),
        ("BOND", p.bond.to_string()),
        ("FEE", p.fee.to_string()),
        ("AUDIT_SHARE", format!("{:.1} % of payments", p.audit_share * 100.0)),
        ("AUDITOR_STAKE", p.auditor_stake.to_string()),
        ("LAZY_SLASH", p.lazy_slash.to_string()),
        ("MISS_PENALTY", p.miss_penalty.to_string()),
        ("CANARY_RATE", p.canary_rate.to_string()),
        ("CANARY_BOND", p.canary_bond.to_string()),
        ("WINDOW", format!("{} h", p.window_hours)),
        ("UNBONDING", format!("{} h", p.unbonding_hours)),
        ("JURY_RATE", p.jury_rate.to_string()),
        ("JURY_MIN", p.jury_min.to_string()),
        ("JURY_BOND", p.jury_bond.to_string()),
    ] {
        writeln!(f, "  {name:<16}{value}")?;
    }
    Ok(())
}

/// Words in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("never empty");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
