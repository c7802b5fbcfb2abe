//! What is simulated. All amounts are in prices of an average answer, all shares and chances in 0..=1.

use serde::{Deserialize, Serialize};

/// What an answer is worth and how the world around the protocol behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Market {
    /// Honest cost of an answer.
    pub cost: f64,
    /// What a wrong answer saves of that cost (at most all of it).
    pub saving: f64,
    /// What a fault in the text (a prompt cut short, an answer withheld) saves of that cost.
    pub text_saving: f64,
    /// Cost of replaying an answer, as a share of `cost`.
    pub replay: f64,
    /// Answers that a listed node gives in an hour.
    pub requests_per_hour: u32,
    /// Length of the simulation in days.
    pub days: u32,
    /// Price (and cost, and saving) of the largest answer, in average answers.
    pub big_answer: u32,
    /// Chance that a client replays its answer itself.
    pub client_checks: f64,
    /// A client that replays does so within this many hours, evenly spread.
    pub client_hours: u32,
    /// An auditor's dispute is open within this many hours, evenly spread.
    pub audit_hours: u32,
    /// Chance that an honest auditor misses a draw.
    pub miss: f64,
    /// Chance that a copying auditor learns what an honest one of the same receipt will reveal.
    pub leak: f64,
    /// Chance that a node is away for a whole move of a dispute.
    pub offline: f64,
    /// What answering or opening a dispute costs (fees and computation).
    pub dispute_cost: f64,
    /// Interest on locked stake, a year.
    pub interest: f64,
    /// Chance with which the strategy `sometimes` cheats.
    pub cheat_chance: f64,
    /// Hours before its exit in which the strategy `last-day` cheats.
    pub last_hours: u32,
    /// Identities of one sybil.
    pub sybil_identities: u32,
}

impl Default for Market {
    fn default() -> Self {
        Self {
            cost: 0.6,
            saving: 0.5,
            text_saving: 0.5,
            replay: 0.15,
            requests_per_hour: 4,
            days: 20,
            big_answer: 20,
            client_checks: 0.0,
            client_hours: 24,
            audit_hours: 12,
            miss: 0.01,
            leak: 0.2,
            offline: 0.002,
            dispute_cost: 0.5,
            interest: 0.08,
            cheat_chance: 0.1,
            last_hours: 24,
            sybil_identities: 8,
        }
    }
}

/// The protocol's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Protocol {
    /// RATE_MAX: expected auditors of an answer of a node without history.
    pub rate_max: f64,
    /// RATE_MIN: expected auditors of an answer of a node with the best history.
    pub rate_min: f64,
    /// Smallest stake of a node.
    pub min_stake: f64,
    /// FRAUD_SLASH as a share of the smallest stake.
    pub fraud_slash: f64,
    /// TIMEOUT_SLASH as a share of the smallest stake.
    pub timeout_slash: f64,
    /// TEXT_SLASH as a share of the smallest stake.
    pub text_slash: f64,
    /// Share of a slash that the challenger gets.
    pub bounty: f64,
    /// BOND of a challenge.
    pub bond: f64,
    /// FEE of a verdict.
    pub fee: f64,
    /// Share of every payment that goes to the audit pool.
    pub audit_share: f64,
    /// Stake of an auditor.
    pub auditor_stake: f64,
    /// LAZY_SLASH: what an auditor loses that said "right" about a wrong answer.
    pub lazy_slash: f64,
    /// MISS_PENALTY of a draw without a verdict.
    pub miss_penalty: f64,
    /// Canaries as a share of all answers.
    pub canary_rate: f64,
    /// Bond of a canary.
    pub canary_bond: f64,
    /// Whether the payment for an answer that was a canary goes back to its payer.
    pub canary_refund: bool,
    /// WINDOW: hours until a payment is released, and in which an answer can be disputed.
    pub window_hours: u32,
    /// Hours from an exit until the stake can be withdrawn.
    pub unbonding_hours: u32,
    /// JURY_RATE: expected jurors.
    pub jury_rate: f64,
    /// JURY_MIN: fewest votes that decide.
    pub jury_min: u32,
    /// Bond of an escalation to a jury.
    pub jury_bond: f64,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            rate_max: 0.1,
            rate_min: 0.02,
            min_stake: 2600.0,
            fraud_slash: 0.5,
            timeout_slash: 0.5,
            text_slash: 0.5,
            bounty: 0.1,
            bond: 1.0,
            fee: 0.18,
            audit_share: 0.013,
            auditor_stake: 500.0,
            lazy_slash: 50.0,
            miss_penalty: 0.18,
            canary_rate: 0.0036,
            canary_bond: 40.0,
            canary_refund: true,
            window_hours: 24,
            unbonding_hours: 336,
            jury_rate: 31.0,
            jury_min: 15,
            jury_bond: 2.0,
        }
    }
}

/// How many agents of each kind there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Population {
    /// Honest nodes; every other one has a long history.
    pub honest: u32,
    /// Cheat in every answer, without history.
    pub always: u32,
    /// Cheat now and then.
    pub sometimes: u32,
    /// Cheat in every answer once the rate of audits has fallen to its minimum.
    pub after_history: u32,
    /// Cheat in the last hours before their exit, again and again under new names.
    pub last_day: u32,
    /// Give one big wrong answer and leave, again and again under new names.
    pub big_answer: u32,
    /// Cheat in every answer with the help of the colluding auditors, and dispute themselves for the bounty.
    pub collude: u32,
    /// Cheat in every answer under many names in turn.
    pub sybil: u32,
    /// Cheat in every answer and never answer a dispute.
    pub silent: u32,
    /// Cheat in the text, which only a jury can judge.
    pub text: u32,
    /// Cheat in every answer and declare each a canary.
    pub shield: u32,
    /// Honest auditors.
    pub auditors_honest: u32,
    /// Auditors that say "right" without work.
    pub auditors_lazy: u32,
    /// Auditors that reveal what an honest one told them, or "right".
    pub auditors_copying: u32,
    /// Auditors that say "right" about the nodes of their cartel, and are honest otherwise.
    pub auditors_colluding: u32,
    /// Spammers that each open a challenge without ground every day.
    pub spammers: u32,
}

impl Default for Population {
    fn default() -> Self {
        Self {
            honest: 1000,
            always: 200,
            sometimes: 200,
            after_history: 200,
            last_day: 400,
            big_answer: 1500,
            collude: 200,
            sybil: 60,
            silent: 200,
            text: 200,
            shield: 200,
            auditors_honest: 130,
            auditors_lazy: 20,
            auditors_copying: 20,
            auditors_colluding: 30,
            spammers: 50,
        }
    }
}

impl Population {
    /// Auditors of all kinds; each holds one unit of the stake from which is drawn.
    #[must_use]
    pub fn auditors(&self) -> u32 {
        self.auditors_honest + self.auditors_lazy + self.auditors_copying + self.auditors_colluding
    }

    fn counts(&self) -> [(&'static str, u32); 16] {
        [
            ("population.honest", self.honest),
            ("population.always", self.always),
            ("population.sometimes", self.sometimes),
            ("population.after_history", self.after_history),
            ("population.last_day", self.last_day),
            ("population.big_answer", self.big_answer),
            ("population.collude", self.collude),
            ("population.sybil", self.sybil),
            ("population.silent", self.silent),
            ("population.text", self.text),
            ("population.shield", self.shield),
            ("population.auditors_honest", self.auditors_honest),
            ("population.auditors_lazy", self.auditors_lazy),
            ("population.auditors_copying", self.auditors_copying),
            ("population.auditors_colluding", self.auditors_colluding),
            ("population.spammers", self.spammers),
        ]
    }

    /// Agents of all kinds.
    #[must_use]
    pub fn agents(&self) -> u32 {
        self.counts().iter().map(|(_, count)| count).sum()
    }
}

/// The cells that are simulated: every combination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grid {
    /// RATE_MIN; RATE_MAX is in the same proportion as in the protocol.
    pub rates: Vec<f64>,
    /// Smallest stakes; the slashes are shares of them.
    pub stakes: Vec<f64>,
    /// Windows in hours.
    pub windows: Vec<u32>,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            rates: vec![0.0, 0.005, 0.02, 0.1],
            stakes: vec![20.0, 200.0, 2000.0, 20_000.0],
            windows: vec![3, 12, 48],
        }
    }
}

/// Within which the cheapest parameters are sought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Candidates for RATE_MIN.
    pub rates: Vec<f64>,
    /// RATE_MAX is this many times RATE_MIN.
    pub rate_ratio: f64,
    /// Largest stake of a node.
    pub max_stake: f64,
    /// Slashes, as a share of the stake.
    pub slash: f64,
    /// Cheating must lose money even if it saved this many times as much.
    pub safety: f64,
    /// Largest LAZY_SLASH.
    pub max_lazy_slash: f64,
    /// Largest chance that a jury convicts an honest node when a third of the stake is hostile.
    pub max_capture: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            rates: vec![0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2],
            rate_ratio: 5.0,
            max_stake: 100_000.0,
            slash: 0.5,
            safety: 2.0,
            max_lazy_slash: 50.0,
            max_capture: 1e-4,
        }
    }
}

/// Everything that a run depends on: the same configuration gives the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Seed of all randomness.
    pub seed: u64,
    /// The world around the protocol.
    pub market: Market,
    /// The parameters of the detailed run, and of the grid apart from its axes.
    pub protocol: Protocol,
    /// The agents.
    pub population: Population,
    /// The grid.
    pub grid: Grid,
    /// What is allowed in a recommendation.
    pub bounds: Bounds,
}

/// A configuration that cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A number is out of its range.
    #[error("{name} is {value}; it must be between {min} and {max}")]
    Range {
        /// Which number.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The least it may be.
        min: f64,
        /// The most it may be.
        max: f64,
    },
    /// The run would take too long.
    #[error("{answers} answers would be simulated, at most {max} are; take fewer nodes, days or cells")]
    TooLarge {
        /// An upper bound of the answers in the run.
        answers: u64,
        /// The limit.
        max: u64,
    },
}

/// Most answers of a run: some minutes of work.
const MAX_ANSWERS: u64 = 10_000_000_000;

/// Largest amount, in prices: a million agents' sums still fit 64 bits.
const MAX_AMOUNT: f64 = 1e6;

impl Config {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first number that is out of its range, or says that the run is too large.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (m, p, n) = (&self.market, &self.protocol, &self.population);
        let f = f64::from;
        check("market.cost", m.cost, 0.0, 1.0)?;
        check("market.saving", m.saving, 0.0, m.cost * 100.0)?;
        check("market.text_saving", m.text_saving, 0.0, m.cost * 100.0)?;
        check("market.requests_per_hour", f(m.requests_per_hour), 1.0, 10_000.0)?;
        check("market.days", f(m.days), 1.0, 400.0)?;
        check("market.big_answer", f(m.big_answer), 1.0, 10_000.0)?;
        check("market.client_hours", f(m.client_hours), 1.0, 1000.0)?;
        check("market.audit_hours", f(m.audit_hours), 1.0, 1000.0)?;
        check("market.last_hours", f(m.last_hours), 1.0, 1000.0)?;
        check("market.sybil_identities", f(m.sybil_identities), 1.0, 100.0)?;
        check("market.offline", m.offline, 0.0, 0.99)?;
        for (name, share) in [
            ("market.replay", m.replay),
            ("market.client_checks", m.client_checks),
            ("market.miss", m.miss),
            ("market.leak", m.leak),
            ("market.interest", m.interest),
            ("market.cheat_chance", m.cheat_chance),
            ("protocol.fraud_slash", p.fraud_slash),
            ("protocol.timeout_slash", p.timeout_slash),
            ("protocol.text_slash", p.text_slash),
            ("protocol.bounty", p.bounty),
            ("protocol.audit_share", p.audit_share),
            ("protocol.canary_rate", p.canary_rate),
            ("bounds.slash", self.bounds.slash),
            ("bounds.max_capture", self.bounds.max_capture),
        ] {
            check(name, share, 0.0, 1.0)?;
        }
        check("bounds.slash", self.bounds.slash, 0.01, 1.0)?;
        check("bounds.max_stake", self.bounds.max_stake, 0.0, MAX_AMOUNT)?;
        check("bounds.max_lazy_slash", self.bounds.max_lazy_slash, 0.01, p.auditor_stake)?;
        check("bounds.safety", self.bounds.safety, 1.0, 100.0)?;
        check("bounds.rate_ratio", self.bounds.rate_ratio, 1.0, 1000.0)?;
        for (name, amount) in [
            ("market.dispute_cost", m.dispute_cost),
            ("protocol.min_stake", p.min_stake),
            ("protocol.bond", p.bond),
            ("protocol.fee", p.fee),
            ("protocol.auditor_stake", p.auditor_stake),
            ("protocol.canary_bond", p.canary_bond),
            ("protocol.jury_bond", p.jury_bond),
        ] {
            check(name, amount, 0.0, MAX_AMOUNT)?;
        }
        check("protocol.lazy_slash", p.lazy_slash, 0.0, p.auditor_stake)?;
        check("protocol.miss_penalty", p.miss_penalty, 0.0, p.auditor_stake)?;
        check("protocol.rate_max", p.rate_max, 0.0, 20.0)?;
        check("protocol.rate_min", p.rate_min, 0.0, p.rate_max)?;
        check("protocol.window_hours", f(p.window_hours), 1.0, 1000.0)?;
        check("protocol.unbonding_hours", f(p.unbonding_hours), 0.0, 10_000.0)?;
        check("protocol.jury_rate", p.jury_rate, 1.0, 500.0)?;
        check("protocol.jury_min", f(p.jury_min), 1.0, 500.0)?;
        for (name, count) in n.counts() {
            check(name, f(count), 0.0, 1e6)?;
        }
        check("population.auditors", f(n.auditors()), 1.0, 2000.0)?;
        for (name, len) in [
            ("grid.rates (how many)", self.grid.rates.len()),
            ("grid.stakes (how many)", self.grid.stakes.len()),
            ("grid.windows (how many)", self.grid.windows.len()),
            ("bounds.rates (how many)", self.bounds.rates.len()),
        ] {
            check(name, len as f64, 0.0, 100.0)?;
        }
        for &rate in self.grid.rates.iter().chain(&self.bounds.rates) {
            check("a rate", rate, 0.0, 4.0)?;
        }
        for &stake in &self.grid.stakes {
            check("grid.stakes", stake, 0.0, MAX_AMOUNT)?;
        }
        for &window in &self.grid.windows {
            check("grid.windows", f(window), 1.0, 1000.0)?;
        }
        let cells = (self.grid.rates.len() * self.grid.stakes.len() * self.grid.windows.len()) as u64 + 16;
        let nodes = u64::from(n.agents()) + u64::from(n.sybil) * u64::from(m.sybil_identities);
        let hours = u64::from(m.days) * 24 * u64::from(m.requests_per_hour);
        let answers = cells.saturating_mul(nodes).saturating_mul(hours);
        if answers > MAX_ANSWERS {
            return Err(ConfigError::TooLarge { answers, max: MAX_ANSWERS });
        }
        check("answers of the last hours", f(m.last_hours) * f(m.requests_per_hour), 1.0, 1e6)?;
        // Whatever moves in a cell must fit 63 bits of millionths.
        let stake = self.grid.stakes.iter().copied().fold(p.min_stake.max(self.bounds.max_stake), f64::max);
        let names = (nodes * (u64::from(m.days) * 8 + 2)) as f64;
        let bonds = p.bond + p.jury_bond + p.canary_bond + p.lazy_slash + p.fee + m.dispute_cost;
        let size = f(m.big_answer) * (1.0 + m.cost + m.saving.max(m.text_saving) * self.bounds.safety);
        let moved = stake * names + (bonds + size) * (nodes * hours) as f64;
        check("money moved in a cell", moved, 0.0, 9e12)
    }
}

fn check(name: &'static str, value: f64, min: f64, max: f64) -> Result<(), ConfigError> {
    // Written so that NaN is refused.
    if value >= min && value <= max { Ok(()) } else { Err(ConfigError::Range { name, value, min, max }) }
}
