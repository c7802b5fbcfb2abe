//! Runs a configuration and gathers what it says.

use crate::{
    analysis,
    audit::chance_of_dispute,
    config::{Config, ConfigError, Market, Population, Protocol},
    recommend::{Recommendation, recommend},
    strategy::{AuditorKind, Strategy},
    world::World,
};
use serde::{Deserialize, Serialize};

/// What one strategy gains over honest nodes with the same answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The strategy.
    pub strategy: Strategy,
    /// Owners that follow it.
    pub owners: u32,
    /// Mean gain of an owner in the whole run, in prices; below zero it loses money.
    pub mean: f64,
    /// Standard error of the mean.
    pub error: f64,
    /// Attacks under one name, and how many of them were convicted at least once.
    pub attacks: u64,
    /// See `attacks`.
    pub caught: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Convictions.
    pub convictions: u64,
}

impl Row {
    /// Whether the strategy wins money, by more than three standard errors.
    #[must_use]
    pub fn wins(&self) -> bool {
        self.mean > 3.0 * self.error
    }

    /// Whether it loses money, by more than three standard errors.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.mean < -3.0 * self.error
    }
}

/// One set of parameters and what became of the strategies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// RATE_MIN.
    pub rate_min: f64,
    /// RATE_MAX.
    pub rate_max: f64,
    /// Smallest stake of a node.
    pub stake: f64,
    /// Window in hours.
    pub window_hours: u32,
    /// One row for each strategy that has owners.
    pub rows: Vec<Row>,
}

impl Cell {
    /// Whether every strategy but the honest one loses money.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.rows.iter().all(|r| r.strategy == Strategy::Honest || r.loses())
    }

    /// The row of a strategy.
    #[must_use]
    pub fn row(&self, strategy: Strategy) -> Option<&Row> {
        self.rows.iter().find(|r| r.strategy == strategy)
    }
}

/// What auditors of one kind earn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditorRow {
    /// The kind.
    pub kind: AuditorKind,
    /// How many gave verdicts.
    pub auditors: u32,
    /// Mean profit of a verdict in prices.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
}

/// A number of the simulation beside its closed form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What is compared.
    pub name: String,
    /// From the simulation.
    pub simulated: f64,
    /// Standard error of that.
    pub error: f64,
    /// From `analysis`.
    pub formula: f64,
}

impl Comparison {
    /// Difference in standard errors; without an error (a chance of one), zero when both are the same.
    #[must_use]
    pub fn z(&self) -> f64 {
        let difference = self.simulated - self.formula;
        match self.error > 0.0 {
            true => difference / self.error,
            false if difference.abs() < 1e-9 => 0.0,
            false => f64::INFINITY,
        }
    }
}

/// The chances of a jury of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JuryRow {
    /// Expected jurors.
    pub rate: f64,
    /// Fewest votes that decide.
    pub min: u32,
    /// Share of the stake that is hostile.
    pub adversary: f64,
    /// Chance that it convicts an honest node (jurors by sortition).
    pub capture: f64,
    /// Chance that it does not convict a guilty one.
    pub blocked: f64,
    /// Chance that it convicts an honest node, if it were a committee of exactly that size.
    pub committee: f64,
}

/// Smallest stake of the grid at which a strategy loses money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// RATE_MIN.
    pub rate_min: f64,
    /// Window in hours.
    pub window_hours: u32,
    /// The strategy.
    pub strategy: Strategy,
    /// The stake; none when no stake of the grid is enough.
    pub stake: Option<f64>,
}

/// All that a run says. Amounts in prices of an average answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was run.
    pub config: Config,
    /// Agents in every cell.
    pub agents: u32,
    /// The grid.
    pub grid: Vec<Cell>,
    /// Break-even stakes of the grid.
    pub break_even: Vec<BreakEven>,
    /// The configured parameters.
    pub detail: Cell,
    /// Auditors under the configured parameters.
    pub auditors: Vec<AuditorRow>,
    /// Result of one canary for who plants it.
    pub canary_planter: f64,
    /// Result of one challenge without ground for who opens it.
    pub spam: f64,
    /// What is left in the audit pool.
    pub pool: f64,
    /// Verdicts that the pool could not pay.
    pub unpaid_verdicts: u64,
    /// Smallest canary rate at which a lazy auditor loses, by the closed form.
    pub canary_break_even: f64,
    /// Simulation beside closed forms.
    pub comparisons: Vec<Comparison>,
    /// Juries.
    pub juries: Vec<JuryRow>,
    /// The cheapest safe parameters; none when there are none within the bounds.
    pub recommendation: Option<Recommendation>,
}

/// Simulates the grid, the configured parameters and the recommendation.
///
/// # Errors
/// When the configuration cannot be simulated.
pub fn run(config: &Config) -> Result<Report, ConfigError> {
    config.validate()?;
    let ratio = if config.protocol.rate_min > 0.0 {
        config.protocol.rate_max / config.protocol.rate_min
    } else {
        1.0
    };
    let mut grid = Vec::new();
    for &rate_min in &config.grid.rates {
        for &min_stake in &config.grid.stakes {
            for &window_hours in &config.grid.windows {
                let rate_max = rate_min * ratio;
                let protocol =
                    Protocol { rate_min, rate_max, min_stake, window_hours, ..config.protocol.clone() };
                let seed = config.seed ^ (grid.len() as u64 + 1) << 32;
                grid.push(simulate(&config.market, &protocol, &config.population, seed).0);
            }
        }
    }
    let (detail, world) = simulate(&config.market, &config.protocol, &config.population, config.seed);
    let counts = world.counts();
    let (planters, spammers) = world.planters_and_spammers();
    let auditors = AuditorKind::ALL.into_iter().filter_map(|kind| {
        let profits = world.auditor_profits(kind);
        let (mean, error) = mean_and_error(&profits);
        (!profits.is_empty()).then_some(AuditorRow { kind, auditors: profits.len() as u32, mean, error })
    });
    let replay = config.market.cost * config.market.replay;
    Ok(Report {
        agents: config.population.agents(),
        break_even: break_even(config, &grid),
        grid,
        detail,
        auditors: auditors.collect(),
        canary_planter: planters / (counts.canaries.max(1) as f64),
        spam: spammers / (counts.spam.max(1) as f64),
        pool: world.pool(),
        unpaid_verdicts: counts.unpaid,
        canary_break_even: analysis::canary_break_even(replay, config.protocol.lazy_slash),
        comparisons: compare(config),
        juries: juries(config.population.auditors()),
        recommendation: recommend(config)?,
        config: config.clone(),
    })
}

/// Runs one world to its end. The arguments must have passed [`Config::validate`].
pub fn simulate(market: &Market, protocol: &Protocol, population: &Population, seed: u64) -> (Cell, World) {
    let mut world = World::new(market, protocol, population, seed);
    world.run();
    let rows = Strategy::ALL.into_iter().filter(|s| s.count(population) > 0).map(|strategy| {
        let gains = world.gains(strategy);
        let (mean, error) = mean_and_error(&gains);
        let mut row = Row {
            strategy,
            owners: gains.len() as u32,
            mean,
            error,
            attacks: 0,
            caught: 0,
            wrong: 0,
            convictions: 0,
        };
        for owner in world.owners.iter().filter(|o| o.strategy == strategy) {
            row.attacks += owner.attacks;
            row.caught += owner.caught;
            row.wrong += owner.wrong;
            row.convictions += owner.convictions;
        }
        row
    });
    let cell = Cell {
        rate_min: protocol.rate_min,
        rate_max: protocol.rate_max,
        stake: protocol.min_stake,
        window_hours: protocol.window_hours,
        rows: rows.collect(),
    };
    (cell, world)
}

/// Mean and standard error of the mean; the error of fewer than two values is zero.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 })
}

fn break_even(config: &Config, grid: &[Cell]) -> Vec<BreakEven> {
    let mut out = Vec::new();
    for &rate_min in &config.grid.rates {
        for &window_hours in &config.grid.windows {
            for strategy in Strategy::ALL.into_iter().skip(1) {
                let stake = grid
                    .iter()
                    .filter(|c| c.rate_min == rate_min && c.window_hours == window_hours)
                    .filter(|c| c.row(strategy).is_some_and(Row::loses))
                    .map(|c| c.stake)
                    .reduce(f64::min);
                out.push(BreakEven { rate_min, window_hours, strategy, stake });
            }
        }
    }
    out
}

fn juries(units: u32) -> Vec<JuryRow> {
    let mut out = Vec::new();
    for size in [9_u32, 15, 21, 31, 41, 61, 81] {
        for adversary in [0.2, 0.33] {
            let (rate, min) = (f64::from(size), size / 2);
            out.push(JuryRow {
                rate,
                min,
                adversary,
                capture: analysis::jury(rate, min, units, adversary).convicts,
                blocked: 1.0 - analysis::jury(rate, min, units, 1.0 - adversary).convicts,
                committee: analysis::committee_capture(size, units, adversary),
            });
        }
    }
    out
}

/// The simulation beside the closed forms, each in a world in which the formula applies: no interest, nobody else.
#[must_use]
pub fn compare(config: &Config) -> Vec<Comparison> {
    let market = Market { interest: 0.0, ..config.market.clone() };
    let protocol = &config.protocol;
    let nobody = Population {
        auditors_honest: config.population.auditors_honest,
        auditors_lazy: config.population.auditors_lazy,
        auditors_copying: config.population.auditors_copying,
        auditors_colluding: config.population.auditors_colluding,
        ..empty()
    };
    let mut out = Vec::new();
    let mut push = |name: &str, simulated: f64, error: f64, formula: f64| {
        out.push(Comparison { name: name.to_owned(), simulated, error, formula });
    };
    let size = f64::from(market.big_answer);
    let slash = protocol.min_stake * protocol.fraud_slash;
    let pd = |s| chance_of_dispute(s, protocol.rate_min, &market, protocol, &config.population);

    let big = Population { big_answer: 4000, ..nobody.clone() };
    for (name, share, run) in [
        ("one big answer, payment clawed back", protocol.audit_share, 1),
        ("... nothing to claw back", 1.0, 6),
    ] {
        let terms = Protocol { audit_share: share, ..protocol.clone() };
        let (cell, _) = simulate(&market, &terms, &big, config.seed ^ run);
        if let Some(row) = cell.row(Strategy::BigAnswer) {
            let each = row.attacks as f64 / f64::from(row.owners);
            let chance = pd(Strategy::BigAnswer);
            let formula = analysis::single_gain(chance, slash, (1.0 - share) * size, market.saving * size);
            push(name, row.mean / each, row.error / each, formula);
        }
    }
    let last = Population { last_day: 1500, ..nobody.clone() };
    if let Some(row) = simulate(&market, protocol, &last, config.seed ^ 2).0.row(Strategy::LastDay) {
        let n = market.last_hours * market.requests_per_hour;
        let formula = analysis::detection_of_any(pd(Strategy::LastDay), n);
        let seen = row.caught as f64 / row.attacks as f64;
        push(
            "last day: chance of any conviction",
            seen,
            (formula * (1.0 - formula) / row.attacks as f64).sqrt(),
            formula,
        );
    }
    let honest = Population { honest: 1000, ..nobody.clone() };
    let terms = Protocol { audit_share: 0.2, ..protocol.clone() };
    let (_, world) = simulate(&market, &terms, &honest, config.seed ^ 3);
    let (profit, verdicts) = world.auditor_total(AuditorKind::Lazy);
    if verdicts > 0 {
        let n = verdicts as f64;
        let wrong = protocol.canary_rate / (1.0 + protocol.canary_rate);
        let error = protocol.lazy_slash * (wrong * (1.0 - wrong) / n).sqrt();
        push(
            "lazy auditor: profit of a verdict",
            profit / n,
            error,
            protocol.fee - wrong * protocol.lazy_slash,
        );
    }
    let text = Population { text: 1500, ..nobody.clone() };
    let always_there = Market { miss: 0.0, ..market.clone() };
    let counts = simulate(&always_there, protocol, &text, config.seed ^ 4).1.counts();
    let units = f64::from(nobody.auditors());
    let share = f64::from(nobody.auditors_honest + nobody.auditors_colluding) / units;
    let formula = analysis::jury(protocol.jury_rate, protocol.jury_min, nobody.auditors(), share).convicts;
    let all = counts.juries.iter().sum::<u64>() as f64;
    if all > 0.0 {
        let error = (formula * (1.0 - formula) / all).sqrt();
        push("jury: chance to convict the guilty", counts.juries[0] as f64 / all, error, formula);
    }
    let spam = Population { honest: 300, spammers: 2000, ..nobody };
    let away = Market { offline: market.offline.max(0.01), ..market.clone() };
    let (_, world) = simulate(&away, protocol, &spam, config.seed ^ 5);
    let n = world.counts().spam as f64;
    let prize = protocol.bond + protocol.bounty * protocol.min_stake * protocol.timeout_slash;
    let error = prize * (away.offline * (1.0 - away.offline) / n).sqrt();
    let formula = away.offline * prize - protocol.bond - market.dispute_cost;
    push("spam: result of a challenge", world.planters_and_spammers().1 / n, error, formula);
    out
}

/// Nobody at all.
fn empty() -> Population {
    Population {
        honest: 0,
        always: 0,
        sometimes: 0,
        after_history: 0,
        last_day: 0,
        big_answer: 0,
        collude: 0,
        sybil: 0,
        silent: 0,
        text: 0,
        shield: 0,
        auditors_honest: 0,
        auditors_lazy: 0,
        auditors_copying: 0,
        auditors_colluding: 0,
        spammers: 0,
    }
}
