//! Auditors, canaries and juries: what happens after an answer was logged.

use crate::{
    config::{Market, Population, Protocol},
    money::{Ledger, Money, money},
    rng::{Binomial, Rng, threshold},
    strategy::{AuditorKind, Strategy},
    world::rates,
};

/// One auditor.
pub(crate) struct Auditor {
    pub(crate) kind: AuditorKind,
    pub(crate) account: usize,
    pub(crate) stake: usize,
    pub(crate) verdicts: u64,
}

/// Amounts and thresholds in the units of the simulation.
pub(crate) struct Terms {
    pub(crate) stake: Money,
    pub(crate) fraud_slash: Money,
    pub(crate) timeout_slash: Money,
    pub(crate) text_slash: Money,
    pub(crate) bond: Money,
    pub(crate) jury_bond: Money,
    pub(crate) dispute_cost: Money,
    pub(crate) cost: Money,
    pub(crate) saving: Money,
    pub(crate) text_saving: Money,
    /// What locking a stake for the unbonding time costs.
    pub(crate) lock_cost: Money,
    /// What locking a stake for the whole simulation and the unbonding time costs.
    pub(crate) term_cost: Money,
    pub(crate) cheat: u64,
    pub(crate) client: u64,
    pub(crate) offline: u64,
    pub(crate) canary: u64,
    replay: Money,
    fee: Money,
    lazy_slash: Money,
    miss_penalty: Money,
    canary_bond: Money,
    miss: u64,
    leak: u64,
}

impl Terms {
    fn new(m: &Market, p: &Protocol) -> Self {
        let years = |hours: u32| f64::from(hours) / 8760.0;
        let locked = p.min_stake * m.interest;
        Self {
            stake: money(p.min_stake),
            fraud_slash: money(p.min_stake * p.fraud_slash),
            timeout_slash: money(p.min_stake * p.timeout_slash),
            text_slash: money(p.min_stake * p.text_slash),
            bond: money(p.bond),
            jury_bond: money(p.jury_bond),
            dispute_cost: money(m.dispute_cost),
            cost: money(m.cost),
            saving: money(m.saving),
            text_saving: money(m.text_saving),
            lock_cost: money(locked * years(p.unbonding_hours)),
            term_cost: money(locked * years(p.unbonding_hours + m.days * 24)),
            cheat: threshold(m.cheat_chance),
            client: threshold(m.client_checks),
            offline: threshold(m.offline),
            canary: threshold(p.canary_rate),
            replay: money(m.cost * m.replay),
            fee: money(p.fee),
            lazy_slash: money(p.lazy_slash),
            miss_penalty: money(p.miss_penalty),
            canary_bond: money(p.canary_bond),
            miss: threshold(m.miss),
            leak: threshold(m.leak),
        }
    }
}

/// What is counted beside the money.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Answers given.
    pub(crate) answers: u64,
    /// Verdicts for which the pool had no money.
    pub(crate) unpaid: u64,
    /// Verdicts of all auditors.
    pub(crate) verdicts: u64,
    /// Canaries planted.
    pub(crate) canaries: u64,
    /// Verdicts on canaries.
    pub(crate) canary_verdicts: u64,
    /// Challenges without ground.
    pub(crate) spam: u64,
    /// Juries that convicted, acquitted, or were too small.
    pub(crate) juries: [u64; 3],
}

/// Everything but the nodes.
pub(crate) struct Env {
    pub(crate) ledger: Ledger,
    pub(crate) rng: Rng,
    pub(crate) terms: Terms,
    pub(crate) protocol: Protocol,
    pub(crate) market: Market,
    pub(crate) auditors: Vec<Auditor>,
    pub(crate) counts: Counts,
    pub(crate) clients: usize,
    pub(crate) outside: usize,
    pub(crate) burnt: usize,
    pub(crate) pool: usize,
    pub(crate) bonds: usize,
    pub(crate) planter: usize,
    pub(crate) spammers: usize,
    tables: Vec<Binomial>,
    jury: Binomial,
    drawn: Vec<u16>,
    /// Auditors that found the answer of the last call of `audit` wrong by their own work.
    pub(crate) found: Vec<u16>,
    /// Those that say so because they were told.
    echoed: Vec<u16>,
    /// Those that said "right".
    pub(crate) right: Vec<u16>,
}

impl Env {
    pub(crate) fn new(market: &Market, protocol: &Protocol, population: &Population, seed: u64) -> Self {
        let mut ledger = Ledger::default();
        let [clients, outside, burnt, planter, spammers] = std::array::from_fn(|_| ledger.open(false));
        let [pool, bonds] = std::array::from_fn(|_| ledger.open(true));
        let mut auditors = Vec::new();
        for kind in AuditorKind::ALL {
            for _ in 0..kind.count(population) {
                let (account, stake) = (ledger.open(false), ledger.open(true));
                ledger.pay(account, stake, money(protocol.auditor_stake));
                auditors.push(Auditor { kind, account, stake, verdicts: 0 });
            }
        }
        let units = auditors.len() as u32;
        let table = |rate: f64| Binomial::new(units, (rate / f64::from(units)).min(1.0));
        Self {
            terms: Terms::new(market, protocol),
            tables: rates(protocol).into_iter().map(table).collect(),
            jury: table(protocol.jury_rate),
            ledger,
            rng: Rng::new(seed),
            protocol: protocol.clone(),
            market: market.clone(),
            auditors,
            counts: Counts::default(),
            clients,
            outside,
            burnt,
            pool,
            bonds,
            planter,
            spammers,
            drawn: Vec::new(),
            found: Vec::new(),
            echoed: Vec::new(),
            right: Vec::new(),
        }
    }

    /// The count of audits without fault from which on the rate is the minimum.
    pub(crate) fn best_history(&self) -> u32 {
        32 * (self.tables.len() as u32 - 1)
    }

    fn level(&self, ok: u32) -> usize {
        ((ok / 32) as usize).min(self.tables.len() - 1)
    }

    /// `count` distinct auditors into `drawn`.
    fn pick(&mut self, count: usize) {
        self.drawn.clear();
        let all = self.auditors.len() as u32;
        while self.drawn.len() < count {
            let a = self.rng.below(all) as u16;
            if !self.drawn.contains(&a) {
                self.drawn.push(a);
            }
        }
    }

    /// Draws auditors for an answer of a node with `ok` audits without fault, takes their verdicts and pays them. Fills
    /// `found` and `right`. Returns what the node's cartel saved by not replaying.
    pub(crate) fn audit(&mut self, strategy: Strategy, wrong: bool, ok: u32) -> Money {
        self.found.clear();
        self.echoed.clear();
        self.right.clear();
        let count = self.tables[self.level(ok)].draw(&mut self.rng);
        if count == 0 {
            return 0;
        }
        self.pick(count);
        let drawn = std::mem::take(&mut self.drawn);
        let mut saved = 0;
        for &a in &drawn {
            let auditor = &self.auditors[usize::from(a)];
            let (kind, account) = (auditor.kind, auditor.account);
            let cartel = kind == AuditorKind::Colluding && strategy == Strategy::Collude;
            if cartel {
                saved += self.terms.replay;
            }
            if matches!(kind, AuditorKind::Lazy | AuditorKind::Copying) || cartel {
                self.right.push(a);
            } else if self.rng.chance(self.terms.miss) {
                self.penalty(a);
                continue;
            } else {
                self.ledger.pay(account, self.outside, self.terms.replay);
                if wrong { &mut self.found } else { &mut self.right }.push(a);
            }
            self.fee(a);
        }
        if !self.found.is_empty() {
            let (mut kept, mut echoed) = (Vec::new(), Vec::new());
            for a in std::mem::take(&mut self.right) {
                let copies = self.auditors[usize::from(a)].kind == AuditorKind::Copying;
                if copies && self.rng.chance(self.terms.leak) { &mut echoed } else { &mut kept }.push(a);
            }
            (self.right, self.echoed) = (kept, echoed);
        }
        self.drawn = drawn;
        saved
    }

    fn fee(&mut self, a: u16) {
        let auditor = &mut self.auditors[usize::from(a)];
        auditor.verdicts += 1;
        self.counts.verdicts += 1;
        let account = auditor.account;
        if self.ledger.pay(self.pool, account, self.terms.fee) < self.terms.fee {
            self.counts.unpaid += 1;
        }
    }

    fn penalty(&mut self, a: u16) {
        self.slash_auditor(a, self.terms.miss_penalty, self.pool);
    }

    /// Takes an amount from an auditor's stake, which it tops up.
    fn slash_auditor(&mut self, a: u16, amount: Money, to: usize) {
        let (account, stake) = (self.auditors[usize::from(a)].account, self.auditors[usize::from(a)].stake);
        let taken = self.ledger.pay(stake, to, amount);
        self.ledger.pay(account, stake, taken);
    }

    /// Slashes those who said "right" about an answer that was found wrong; returns what the node's cartel lost.
    pub(crate) fn punish(&mut self, right: &[u16], strategy: Strategy) -> Money {
        let mut lost = 0;
        for &a in right {
            self.slash_auditor(a, self.terms.lazy_slash, self.pool);
            let cartel = self.auditors[usize::from(a)].kind == AuditorKind::Colluding;
            if cartel && strategy == Strategy::Collude {
                lost += self.terms.lazy_slash;
            }
        }
        lost
    }

    /// Opens a canary that `planter` put into the log, after `audit` has taken the verdicts: who said "right" pays, first
    /// to the planter up to the bond; who did not shares the bond; without such the bond goes back.
    pub(crate) fn open_canary(&mut self, planter: usize) {
        let bond = self.terms.canary_bond;
        self.ledger.pay(planter, self.bonds, bond);
        let mut to_planter = bond;
        for a in std::mem::take(&mut self.right) {
            let part = self.terms.lazy_slash.min(to_planter);
            self.slash_auditor(a, part, planter);
            self.slash_auditor(a, self.terms.lazy_slash - part, self.pool);
            to_planter -= part;
        }
        let sharers = (self.found.len() + self.echoed.len()) as i64;
        if sharers > 0 {
            for a in self.found.iter().chain(&self.echoed) {
                self.ledger.pay(self.bonds, self.auditors[usize::from(*a)].account, bond / sharers);
            }
            self.ledger.pay(self.bonds, self.pool, bond % sharers);
        } else {
            self.ledger.pay(self.bonds, planter, bond);
        }
    }

    /// A canary in the log of an honest node.
    pub(crate) fn plant_canary(&mut self, ok: u32) {
        let before = self.counts.verdicts;
        self.audit(Strategy::Honest, true, ok);
        self.counts.canary_verdicts += self.counts.verdicts - before;
        self.counts.canaries += 1;
        self.open_canary(self.planter);
    }

    /// A jury about a real fault in the text. Honest jurors (and colluding ones, whose cartel it does not concern) vote
    /// guilty, lazy and copying ones not guilty. Returns whether it convicts; otherwise the escalator's bond is settled.
    pub(crate) fn try_fault(&mut self, escalator: u16, owner: usize) -> bool {
        let account = self.auditors[usize::from(escalator)].account;
        self.ledger.pay(account, self.bonds, self.terms.jury_bond);
        let count = self.jury.draw(&mut self.rng);
        self.pick(count);
        let (mut guilty, mut votes) = (Vec::new(), 0);
        for a in std::mem::take(&mut self.drawn) {
            let auditor = &self.auditors[usize::from(a)];
            let (kind, juror) = (auditor.kind, auditor.account);
            if matches!(kind, AuditorKind::Lazy | AuditorKind::Copying) {
                votes += 1;
            } else if self.rng.chance(self.terms.miss) {
                self.penalty(a);
            } else {
                self.ledger.pay(juror, self.outside, self.terms.replay);
                guilty.push(a);
                votes += 1;
            }
        }
        let convicts = guilty.len() * 3 >= votes * 2;
        if votes < self.protocol.jury_min as usize {
            self.counts.juries[2] += 1;
            self.ledger.pay(self.bonds, account, self.terms.jury_bond);
            return false;
        }
        if convicts {
            self.counts.juries[0] += 1;
            for a in guilty {
                self.ledger.pay(self.pool, self.auditors[usize::from(a)].account, self.terms.fee);
            }
            self.ledger.pay(self.bonds, account, self.terms.jury_bond);
            return true;
        }
        self.counts.juries[1] += 1;
        if guilty.len() * 2 < votes {
            guilty.into_iter().for_each(|a| self.penalty(a));
        }
        self.ledger.pay(self.bonds, owner, self.terms.jury_bond);
        false
    }

    /// A challenge without ground against an honest node, which is sometimes away.
    pub(crate) fn spam(&mut self, owner: usize, stake: usize) {
        self.counts.spam += 1;
        self.ledger.pay(self.spammers, self.bonds, self.terms.bond);
        self.ledger.pay(self.spammers, self.outside, self.terms.dispute_cost);
        if self.rng.chance(self.terms.offline) {
            let taken = self.ledger.pay(stake, self.bonds, self.terms.timeout_slash);
            let bounty = money(self.protocol.bounty * crate::money::prices(taken)).min(taken);
            self.ledger.pay(self.bonds, self.spammers, bounty + self.terms.bond);
            self.ledger.pay(self.bonds, self.burnt, taken - bounty);
            self.ledger.pay(owner, stake, taken);
        } else {
            self.ledger.pay(self.bonds, owner, self.terms.bond);
            self.ledger.pay(owner, self.outside, self.terms.dispute_cost);
        }
    }
}

/// The chance that a wrong answer of a node of this strategy is found and disputed in time, at `rate` expected auditors.
/// For `Text` it is the chance that a jury is called.
#[must_use]
pub fn chance_of_dispute(
    strategy: Strategy,
    rate: f64,
    market: &Market,
    protocol: &Protocol,
    population: &Population,
) -> f64 {
    let timely = |hours: u32| (f64::from(protocol.window_hours) / f64::from(hours)).min(1.0);
    let honest = match strategy {
        Strategy::Collude => population.auditors_honest,
        _ => population.auditors_honest + population.auditors_colluding,
    };
    // The first of several auditors decides, so each is in time on its own; a client likewise.
    let client =
        if strategy == Strategy::Text { 0.0 } else { market.client_checks * timely(market.client_hours) };
    crate::analysis::detection(
        rate,
        population.auditors(),
        honest,
        market.miss,
        timely(market.audit_hours),
        client,
    )
}
