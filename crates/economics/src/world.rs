//! One simulated network: nodes, hour by hour.

use crate::{
    audit::{Counts, Env},
    config::{Market, Population, Protocol},
    money::{Money, money, prices},
    strategy::{AuditorKind, Strategy},
};

/// The rates of audits by history: level `i` holds from 32·i audits without fault on, the last one for ever.
#[must_use]
pub fn rates(protocol: &Protocol) -> Vec<f64> {
    let mut out = Vec::new();
    // A minimum of zero is never reached; a thousand steps are close.
    for step in 0..1000_u32 {
        let rate = protocol.rate_max / f64::from(1 + step);
        if rate <= protocol.rate_min {
            break;
        }
        out.push(rate);
    }
    out.push(protocol.rate_min);
    out
}

/// Who opens a dispute.
enum Challenger {
    Auditor(u16),
    Client,
}

/// A wrong answer that was noticed in time.
struct Fault {
    due: u32,
    price: Money,
    challenger: Challenger,
    right: Vec<u16>,
}

struct Node {
    strategy: Strategy,
    owner: usize,
    /// Index of the owner among all owners.
    who: usize,
    stake: usize,
    escrow: usize,
    /// Unreleased payments by hour, as a ring.
    buckets: Vec<Money>,
    ok: u32,
    listed: bool,
    exit: Option<u32>,
    pending: Vec<Fault>,
}

/// What became of one owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) strategy: Strategy,
    account: usize,
    /// What an honest node would have earned with the same answers.
    baseline: Money,
    /// What its cartel saved and lost.
    side: Money,
    /// Identities that attacked.
    pub(crate) attacks: u64,
    /// Attacks in which at least one answer was convicted.
    pub(crate) caught: u64,
    convicted: bool,
    pub(crate) convictions: u64,
    pub(crate) wrong: u64,
}

/// A network of agents. The same arguments give the same run.
pub struct World {
    env: Env,
    nodes: Vec<Node>,
    pub(crate) owners: Vec<Owner>,
    /// Listed identities of each sybil.
    sybils: Vec<Vec<usize>>,
    honest: Vec<usize>,
    spammers: u32,
    hour: u32,
    end: u32,
    drain: u32,
}

impl World {
    /// All agents with their stakes, before the first hour.
    #[must_use]
    pub fn new(market: &Market, protocol: &Protocol, population: &Population, seed: u64) -> Self {
        let env = Env::new(market, protocol, population, seed);
        let end = market.days * 24;
        let drain = protocol.window_hours.max(market.audit_hours).max(market.client_hours) + 1;
        let mut world = Self {
            env,
            nodes: Vec::new(),
            owners: Vec::new(),
            sybils: Vec::new(),
            honest: Vec::new(),
            spammers: population.spammers,
            hour: 0,
            end,
            drain,
        };
        for strategy in Strategy::ALL {
            for i in 0..strategy.count(population) {
                world.join(strategy, i);
            }
        }
        world
    }

    fn join(&mut self, strategy: Strategy, i: u32) {
        let env = &mut self.env;
        let account = env.ledger.open(false);
        let who = self.owners.len();
        let attacks = u64::from(!matches!(strategy, Strategy::LastDay | Strategy::BigAnswer));
        self.owners.push(Owner {
            strategy,
            account,
            baseline: 0,
            side: 0,
            attacks,
            caught: 0,
            convicted: false,
            convictions: 0,
            wrong: 0,
        });
        let identities = if strategy == Strategy::Sybil { env.market.sybil_identities } else { 1 };
        let first = self.nodes.len();
        for identity in 0..identities {
            let (stake, escrow) = (env.ledger.open(true), env.ledger.open(true));
            env.ledger.pay(account, stake, env.terms.stake);
            if identity > 0 {
                env.ledger.pay(account, env.outside, env.terms.term_cost);
            }
            let has_history = strategy.has_history() || strategy == Strategy::Honest && i.is_multiple_of(2);
            self.nodes.push(Node {
                strategy,
                owner: account,
                who,
                stake,
                escrow,
                buckets: vec![0; env.protocol.window_hours.max(1) as usize],
                ok: if has_history { env.best_history() } else { 0 },
                listed: true,
                exit: None,
                pending: Vec::new(),
            });
        }
        match strategy {
            Strategy::Sybil => self.sybils.push((first..self.nodes.len()).collect()),
            Strategy::Honest => self.honest.push(first),
            _ => {}
        }
    }

    /// Whether the simulation is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.hour >= self.end + self.drain
    }

    /// The sum of all accounts (zero, always), and whether stakes and pool are covered, escrow is the sum of its buckets,
    /// and every bond of the hour has been settled.
    #[must_use]
    pub fn audit_of_money(&self) -> (Money, bool) {
        let escrows =
            self.nodes.iter().all(|n| n.buckets.iter().sum::<Money>() == self.env.ledger.balance(n.escrow));
        let settled = self.env.ledger.balance(self.env.bonds) == 0;
        (self.env.ledger.sum(), escrows && settled && self.env.ledger.is_solvent())
    }

    /// What was burnt until now, in prices.
    #[must_use]
    pub fn burnt(&self) -> f64 {
        prices(self.env.ledger.balance(self.env.burnt))
    }

    /// One hour: verdicts that are due, releases, exits, then new answers.
    pub fn step(&mut self) {
        let t = self.hour;
        let serving = t < self.end;
        let mut on_turn = Vec::with_capacity(self.sybils.len());
        for names in &mut self.sybils {
            names.retain(|&n| self.nodes[n].listed);
            on_turn.extend(names.get(t as usize % names.len().max(1)));
        }
        for i in 0..self.nodes.len() {
            let node = &mut self.nodes[i];
            let owner = &mut self.owners[node.who];
            while let Some(at) = node.pending.iter().position(|f| f.due <= t) {
                let fault = node.pending.swap_remove(at);
                convict(&mut self.env, node, owner, fault);
            }
            let slot = t as usize % node.buckets.len();
            let released = std::mem::take(&mut node.buckets[slot]);
            self.env.ledger.pay(node.escrow, node.owner, released);
            if !node.listed && node.exit.is_none() {
                node.exit = Some(t);
            }
            if node.exit.is_some_and(|at| at + self.env.protocol.unbonding_hours <= t) {
                let left = self.env.ledger.balance(node.stake);
                self.env.ledger.pay(node.stake, node.owner, left);
            }
            let its_turn = node.strategy != Strategy::Sybil || on_turn.binary_search(&i).is_ok();
            if serving && its_turn {
                serve_hour(&mut self.env, node, owner, t);
            }
        }
        if serving && t.is_multiple_of(24) && !self.honest.is_empty() {
            for _ in 0..self.spammers {
                let at = self.env.rng.below(self.honest.len() as u32) as usize;
                let node = &self.nodes[self.honest[at]];
                self.env.spam(node.owner, node.stake);
            }
        }
        self.hour += 1;
    }

    /// Runs to the end and gives everybody back what is left of stakes and escrow.
    pub fn run(&mut self) {
        while !self.is_over() {
            self.step();
        }
        for node in &mut self.nodes {
            node.buckets.fill(0);
            for custody in [node.stake, node.escrow] {
                let left = self.env.ledger.balance(custody);
                self.env.ledger.pay(custody, node.owner, left);
            }
        }
    }

    /// Gains over an honest node, in prices, one for each owner of this strategy. Call after [`World::run`].
    #[must_use]
    pub fn gains(&self, strategy: Strategy) -> Vec<f64> {
        let of = |o: &Owner| prices(self.env.ledger.balance(o.account) - o.baseline + o.side);
        self.owners.iter().filter(|o| o.strategy == strategy).map(of).collect()
    }

    /// Profit per verdict, in prices, one for each auditor of this kind that gave any.
    #[must_use]
    pub fn auditor_profits(&self, kind: AuditorKind) -> Vec<f64> {
        let stake = money(self.env.protocol.auditor_stake);
        self.env
            .auditors
            .iter()
            .filter(|a| a.kind == kind && a.verdicts > 0)
            .map(|a| prices(self.env.ledger.balance(a.account) + stake) / a.verdicts as f64)
            .collect()
    }

    /// Profit of all auditors of this kind, in prices, and how many verdicts they gave.
    #[must_use]
    pub fn auditor_total(&self, kind: AuditorKind) -> (f64, u64) {
        let stake = money(self.env.protocol.auditor_stake);
        self.env.auditors.iter().filter(|a| a.kind == kind).fold((0.0, 0), |(profit, verdicts), a| {
            (profit + prices(self.env.ledger.balance(a.account) + stake), verdicts + a.verdicts)
        })
    }

    pub(crate) fn counts(&self) -> Counts {
        self.env.counts
    }

    /// Result of all canary planters and of all spammers, in prices.
    pub(crate) fn planters_and_spammers(&self) -> (f64, f64) {
        (
            prices(self.env.ledger.balance(self.env.planter)),
            prices(self.env.ledger.balance(self.env.spammers)),
        )
    }

    /// What is left in the audit pool, in prices.
    pub(crate) fn pool(&self) -> f64 {
        prices(self.env.ledger.balance(self.env.pool))
    }
}

fn serve_hour(env: &mut Env, node: &mut Node, owner: &mut Owner, t: u32) {
    let many = env.market.requests_per_hour;
    let attack = match node.strategy {
        Strategy::LastDay => env.market.last_hours,
        Strategy::BigAnswer => 1,
        _ => 0,
    };
    if attack > 0 {
        let phase = t % (attack + env.protocol.window_hours + 1);
        if phase == 0 {
            renew(env, node, owner, t);
        }
        if phase == attack {
            node.exit = Some(t);
        }
        if phase >= attack {
            return;
        }
    }
    if !node.listed {
        return;
    }
    if node.strategy == Strategy::BigAnswer {
        let size = i64::from(env.market.big_answer);
        return answer(env, node, owner, t, size, true);
    }
    for _ in 0..many {
        let wrong = match node.strategy {
            Strategy::Honest => false,
            Strategy::Sometimes => env.rng.chance(env.terms.cheat),
            _ => true,
        };
        answer(env, node, owner, t, 1, wrong);
        if node.strategy == Strategy::Honest && env.rng.chance(env.terms.canary) {
            env.plant_canary(node.ok);
        }
    }
}

/// The next attack under a new name: what is left of the old stake is locked until it can be withdrawn.
fn renew(env: &mut Env, node: &mut Node, owner: &mut Owner, t: u32) {
    owner.attacks += 1;
    owner.convicted = false;
    if t > 0 {
        let left = env.ledger.balance(node.stake);
        env.ledger.pay(node.stake, node.owner, left);
        env.ledger.pay(node.owner, node.stake, env.terms.stake);
        env.ledger.pay(node.owner, env.outside, env.terms.lock_cost);
    }
    node.ok = env.best_history();
    node.listed = true;
    node.exit = None;
}

/// One answer of `size` average answers: payment, cost, audits.
fn answer(env: &mut Env, node: &mut Node, owner: &mut Owner, t: u32, size: i64, wrong: bool) {
    env.counts.answers += 1;
    let price = size * crate::money::PRICE;
    let share = money(env.protocol.audit_share) * size;
    let cost = size * env.terms.cost;
    env.ledger.pay(env.clients, env.pool, share);
    env.ledger.pay(env.clients, node.escrow, price - share);
    let slot = t as usize % node.buckets.len();
    node.buckets[slot] += price - share;
    owner.baseline += price - share - cost;
    let saved = match (wrong, node.strategy) {
        (false, _) => 0,
        (true, Strategy::Text) => env.terms.text_saving,
        (true, _) => env.terms.saving,
    };
    // Savings beyond the cost model a gain from elsewhere, such as a bribe.
    let spent = cost - size * saved;
    let (from, to) = if spent >= 0 { (node.owner, env.outside) } else { (env.outside, node.owner) };
    env.ledger.pay(from, to, spent.abs());
    owner.side += env.audit(node.strategy, wrong, node.ok);
    node.ok = node.ok.saturating_add(env.right.len() as u32);
    if !wrong {
        return;
    }
    owner.wrong += 1;
    if node.strategy == Strategy::Shield {
        env.open_canary(node.owner);
        if env.protocol.canary_refund {
            refund(env, node, t + 1, price);
        }
        return;
    }
    let mut first: Option<(u32, Challenger)> = None;
    for i in 0..env.found.len() {
        let delay = 1 + env.rng.below(env.market.audit_hours);
        if first.as_ref().is_none_or(|(d, _)| delay < *d) {
            first = Some((delay, Challenger::Auditor(env.found[i])));
        }
    }
    if node.strategy != Strategy::Text && env.terms.client > 0 && env.rng.chance(env.terms.client) {
        env.ledger.pay(env.clients, env.outside, money(env.market.cost * env.market.replay) * size);
        let delay = 1 + env.rng.below(env.market.client_hours);
        if first.as_ref().is_none_or(|(d, _)| delay < *d) {
            first = Some((delay, Challenger::Client));
        }
    }
    // Older answers cannot be disputed.
    if let Some((delay, challenger)) = first.filter(|(delay, _)| *delay <= env.protocol.window_hours) {
        node.pending.push(Fault { due: t + delay, price, challenger, right: env.right.clone() });
    }
}

/// Pays clients back out of the node's unreleased payments of the hours before `t`, newest first; returns how much.
fn refund(env: &mut Env, node: &mut Node, t: u32, price: Money) -> Money {
    let mut left = price;
    let len = node.buckets.len();
    for back in 1..=len {
        let slot = (t as usize + len - back) % len;
        let part = node.buckets[slot].min(left);
        node.buckets[slot] -= part;
        left -= part;
        if left == 0 {
            break;
        }
    }
    env.ledger.pay(node.escrow, env.clients, price - left)
}

/// A dispute over a wrong answer, which the node cannot win.
fn convict(env: &mut Env, node: &mut Node, owner: &mut Owner, fault: Fault) {
    let challenger = match fault.challenger {
        Challenger::Auditor(a) => env.auditors[usize::from(a)].account,
        Challenger::Client => env.clients,
    };
    let slash = match (node.strategy, &fault.challenger) {
        (Strategy::Text, Challenger::Auditor(a)) => {
            if !env.try_fault(*a, node.owner) {
                return;
            }
            env.terms.text_slash
        }
        (Strategy::Silent, _) => env.terms.timeout_slash,
        _ => env.terms.fraud_slash,
    };
    // A cartel that sees the dispute coming opens its own first, and gets the bounty.
    let challenger = if node.strategy == Strategy::Collude { node.owner } else { challenger };
    env.ledger.pay(challenger, env.bonds, env.terms.bond);
    env.ledger.pay(challenger, env.outside, env.terms.dispute_cost);
    owner.convictions += 1;
    if !owner.convicted {
        owner.convicted = true;
        owner.caught += 1;
    }
    let back = refund(env, node, fault.due, fault.price);
    let taken = env.ledger.pay(node.stake, env.bonds, slash);
    let bounty = money(env.protocol.bounty * prices(taken)).min(taken);
    env.ledger.pay(env.bonds, challenger, bounty + env.terms.bond);
    let to_client = (taken - bounty).min(fault.price - back);
    env.ledger.pay(env.bonds, env.clients, to_client);
    env.ledger.pay(env.bonds, env.burnt, taken - bounty - to_client);
    owner.side -= env.punish(&fault.right, node.strategy);
    node.ok = 0;
    if env.ledger.balance(node.stake) < env.terms.stake {
        node.listed = false;
    }
}
