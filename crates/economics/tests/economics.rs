//! The simulation against the closed forms, its own books, and common sense.
#![allow(clippy::unwrap_used)]

use economics::{
    AuditorKind, Cell, Config, Grid, Market, Population, Protocol, Rng, Strategy, World, analysis,
    chance_of_dispute, compare, recommend, run, simulate,
};

/// A smaller world than the default, with everybody in it.
fn small() -> Config {
    let config = Config::default();
    let population = Population {
        honest: 60,
        always: 40,
        sometimes: 40,
        after_history: 40,
        last_day: 40,
        big_answer: 60,
        collude: 40,
        sybil: 10,
        silent: 40,
        text: 40,
        shield: 40,
        ..config.population
    };
    Config { population, ..config }
}

fn cell(config: &Config, change: impl FnOnce(&mut Protocol)) -> Cell {
    let mut protocol = config.protocol.clone();
    change(&mut protocol);
    simulate(&config.market, &protocol, &config.population, config.seed).0
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let grid = Grid { rates: vec![0.0, 0.05], stakes: vec![100.0], windows: vec![12] };
    let config = Config { grid, ..small() };
    let first = run(&config).unwrap();
    let second = run(&config).unwrap();
    assert_eq!(serde_json::to_vec(&first).unwrap(), serde_json::to_vec(&second).unwrap());
    assert_eq!(first.render(), second.render());
    let other = run(&Config { seed: 1, ..config }).unwrap();
    assert_ne!(first.detail, other.detail);
    assert_ne!(first.grid, other.grid);
    for line in first.render().lines() {
        assert!(line.len() < 100, "{line}");
    }
}

#[test]
fn money_is_conserved_in_every_hour() {
    let mut rng = Rng::new(11);
    let mut config = small();
    config.market.days = 3;
    for round in 0..24 {
        // Parameters at random, also absurd ones; shares keep their range.
        let mut share = || f64::from(rng.below(1001)) / 1000.0;
        let p = &mut config.protocol;
        (p.fraud_slash, p.timeout_slash, p.text_slash) = (share(), share(), share());
        (p.bounty, p.audit_share, p.canary_rate) = (share(), share(), share() / 10.0);
        p.rate_max = share() * 4.0;
        p.rate_min = p.rate_max * share();
        p.canary_refund = share() < 0.5;
        config.market.client_checks = share();
        config.market.offline = share() * 0.9;
        config.market.saving = share() * 2.0;
        p.min_stake = f64::from(rng.below(300));
        p.canary_bond = f64::from(rng.below(100));
        p.window_hours = 1 + rng.below(60);
        p.unbonding_hours = rng.below(60);
        p.jury_min = 1 + rng.below(40);
        config.validate().unwrap();
        let mut world = World::new(&config.market, &config.protocol, &config.population, round);
        let mut burnt = 0.0;
        while !world.is_over() {
            assert_eq!(world.audit_of_money(), (0, true), "round {round}");
            world.step();
            assert!(world.burnt() >= burnt);
            burnt = world.burnt();
        }
        world.run();
        assert_eq!(world.audit_of_money(), (0, true), "round {round}, at the end");
        assert!(burnt > 0.0 || config.protocol.min_stake == 0.0, "round {round}: nobody was slashed");
    }
}

#[test]
fn the_simulation_agrees_with_the_closed_forms() {
    let mut seen = 0;
    for (seed, rate_min, min_stake) in [(0, 0.02, 2600.0), (1, 0.3, 40.0), (2, 0.1, 300.0)] {
        let mut config = Config { seed, ..Config::default() };
        config.market.days = 10;
        config.protocol.rate_min = rate_min;
        config.protocol.rate_max = rate_min * 3.0;
        config.protocol.min_stake = min_stake;
        // Half of the audits are too late.
        config.protocol.window_hours = if seed == 1 { 6 } else { 24 };
        // Too few wrong answers are escalated otherwise.
        config.protocol.jury_rate = if seed == 2 { 11.0 } else { 31.0 };
        config.protocol.jury_min = config.protocol.jury_rate as u32 / 2;
        config.validate().unwrap();
        for c in compare(&config) {
            assert!(c.error > 0.0 && c.z().abs() < 4.0, "seed {seed}: {c:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 18);
}

#[test]
fn clients_that_check_are_enough_where_nobody_audits() {
    let config = Config::default();
    let market = Market { client_checks: 0.05, interest: 0.0, client_hours: 24, ..config.market };
    let protocol = Protocol {
        rate_min: 0.0,
        rate_max: 0.0,
        window_hours: 12,
        audit_share: 0.0,
        min_stake: 600.0,
        ..config.protocol
    };
    let population = Population { big_answer: 4000, ..config.population };
    let pd = chance_of_dispute(Strategy::BigAnswer, 0.0, &market, &protocol, &population);
    assert!((pd - 0.025).abs() < 1e-12, "half of them are in time");
    let (cell, _) = simulate(&market, &protocol, &population, 5);
    let row = cell.row(Strategy::BigAnswer).unwrap();
    let each = row.attacks as f64 / f64::from(row.owners);
    let formula = analysis::single_gain(pd, 300.0, 20.0, market.saving * 20.0);
    assert!((row.mean / each - formula).abs() < 4.0 * row.error / each, "{row:?} {formula}");
    assert!(formula > 0.0 && row.wins(), "{formula}");
}

#[test]
fn the_break_even_slash_is_where_the_simulation_changes_sign() {
    let mut config = Config::default();
    config.market.interest = 0.0;
    config.population = Population { big_answer: 4000, ..config.population };
    let p = &config.protocol;
    let pd = chance_of_dispute(Strategy::BigAnswer, 0.1, &config.market, p, &config.population);
    let size = f64::from(config.market.big_answer);
    let slash =
        analysis::slash_when_clawed_back(pd, size * (1.0 - p.audit_share), size * config.market.saving);
    for (times, wins) in [(0.7, true), (1.3, false)] {
        let cell = cell(&config, |p| {
            (p.rate_min, p.rate_max) = (0.1, 0.1);
            p.min_stake = slash * times / p.fraud_slash;
        });
        let row = cell.row(Strategy::BigAnswer).unwrap();
        assert!(if wins { row.wins() } else { row.loses() }, "{times}: {row:?}");
    }
}

#[test]
fn more_audits_never_help_a_cheater() {
    let mut config = small();
    for (stake, window) in [(50.0, 12), (1000.0, 24)] {
        let cells: Vec<_> = [0.0, 0.01, 0.05, 0.25]
            .into_iter()
            .map(|rate| {
                config.seed += 1;
                cell(&config, |p| {
                    (p.rate_min, p.rate_max) = (rate, rate * 5.0);
                    (p.min_stake, p.window_hours) = (stake, window);
                })
            })
            .collect();
        for pair in cells.windows(2) {
            for (few, many) in pair[0].rows.iter().zip(&pair[1].rows).skip(1) {
                let error = (few.error * few.error + many.error * many.error).sqrt();
                assert!(many.mean <= few.mean + 4.0 * error, "{stake}: {few:?} {many:?}");
            }
        }
    }
}

#[test]
fn a_longer_window_and_a_larger_stake_never_help_a_cheater() {
    let config = small();
    let cheaters = |c: &Cell| -> Vec<(f64, f64)> {
        // One attack follows the other sooner when the window is short, so those two are not compared.
        let one_attack = |s| !matches!(s, Strategy::Honest | Strategy::LastDay | Strategy::BigAnswer);
        c.rows.iter().filter(|r| one_attack(r.strategy)).map(|r| (r.mean, r.error)).collect()
    };
    let by_window: Vec<_> = [3, 6, 12].iter().map(|&w| cell(&config, |p| p.window_hours = w)).collect();
    let by_stake: Vec<_> =
        [20.0, 200.0, 2000.0].iter().map(|&s| cell(&config, |p| p.min_stake = s)).collect();
    for cells in [by_window, by_stake] {
        for pair in cells.windows(2) {
            for (a, b) in cheaters(&pair[0]).iter().zip(cheaters(&pair[1])) {
                // Where all lose, who is found later may lose more in the same run: allow a tenth.
                let slack = 4.0 * (a.1 * a.1 + b.1 * b.1).sqrt() + 0.1 * a.0.abs();
                assert!(b.0 <= a.0 + slack, "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn the_defaults_are_what_the_search_finds_and_everybody_who_cheats_loses() {
    let config = Config::default();
    let found = recommend(&config).unwrap().unwrap();
    assert_eq!(found.protocol, config.protocol);
    assert!(found.cell.is_safe());
    for seed in [3, 4] {
        let (cell, world) = simulate(&config.market, &found.protocol, &config.population, seed);
        assert!(cell.is_safe(), "{cell:?}");
        let mean = |kind| {
            let profits = world.auditor_profits(kind);
            profits.iter().sum::<f64>() / profits.len() as f64
        };
        assert!(mean(AuditorKind::Honest) > 0.0);
        assert!(mean(AuditorKind::Lazy) < 0.0 && mean(AuditorKind::Copying) < 0.0);
    }
    // Factor two: with twice the saving it still loses, by the closed form, and with five times it does not.
    let size = f64::from(config.market.big_answer);
    let gain = |times: f64| {
        let slash = found.protocol.min_stake * found.protocol.fraud_slash;
        let kept = size * (1.0 - found.protocol.audit_share);
        analysis::single_gain(found.chance_of_dispute, slash, kept, times * config.market.saving * size)
    };
    assert!(gain(2.0) < 0.0 && gain(5.0) > 0.0);
}

#[test]
fn without_audits_cheating_pays() {
    let cell = cell(&small(), |p| (p.rate_min, p.rate_max) = (0.0, 0.0));
    let winners: Vec<_> = cell.rows.iter().filter(|r| r.wins()).map(|r| r.strategy).collect();
    for s in [Strategy::Always, Strategy::AfterHistory, Strategy::Collude, Strategy::Silent, Strategy::Text] {
        assert!(winners.contains(&s), "{s:?} {cell:?}");
    }
}

#[test]
fn a_timeout_that_costs_less_than_fraud_is_what_a_cheater_chooses() {
    let config = small();
    let cheap = cell(&config, |p| p.timeout_slash = 0.002);
    assert!(
        cheap.row(Strategy::Silent).unwrap().mean > cheap.row(Strategy::AfterHistory).unwrap().mean + 100.0
    );
}

#[test]
fn a_canary_without_refund_and_with_a_small_bond_is_a_shield() {
    let config = small();
    let shield = |refund, bond| {
        let cell = cell(&config, |p| (p.canary_refund, p.canary_bond) = (refund, bond));
        cell.row(Strategy::Shield).unwrap().clone()
    };
    assert!(shield(false, 2.0).wins());
    assert!(shield(true, 2.0).loses());
    let pd = recommend(&config).unwrap().unwrap().chance_of_dispute;
    assert!(shield(false, 2.0 * config.market.saving / pd).loses());
}

#[test]
fn stake_that_is_withdrawn_before_the_verdict_deters_nobody() {
    let mut config = small();
    config.population.big_answer = 1500;
    let late = cell(&config, |p| p.unbonding_hours = 336);
    let soon = cell(&config, |p| p.unbonding_hours = 0);
    assert!(late.row(Strategy::BigAnswer).unwrap().mean < 0.0);
    assert!(soon.row(Strategy::BigAnswer).unwrap().wins());
}

#[test]
fn lazy_auditors_gain_what_they_save_until_there_are_canaries() {
    let mut config = Config::default();
    let saved = config.market.cost * config.market.replay;
    config.market.miss = 0.0;
    config.population = Population {
        honest: 300,
        always: 0,
        sometimes: 0,
        after_history: 0,
        last_day: 0,
        ..config.population
    };
    let p = &mut config.population;
    (p.big_answer, p.collude, p.sybil, p.silent, p.text, p.shield) = (0, 0, 0, 0, 0, 0);
    config.protocol.audit_share = 0.2;
    let advantage = |canary_rate: f64| {
        let protocol = Protocol { canary_rate, canary_bond: 0.0, ..config.protocol.clone() };
        let (_, world) = simulate(&config.market, &protocol, &config.population, 9);
        let mean = |kind| {
            let profits = world.auditor_profits(kind);
            profits.iter().sum::<f64>() / profits.len() as f64
        };
        mean(AuditorKind::Lazy) - mean(AuditorKind::Honest)
    };
    assert!((advantage(0.0) - saved).abs() < 1e-6);
    let even = analysis::canary_break_even(saved, config.protocol.lazy_slash);
    assert!(advantage(even * 0.4) > 0.0);
    assert!(advantage(even * 2.5) < 0.0);
}

#[test]
fn absurd_configurations_are_refused() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        run(&config).unwrap_err().to_string()
    };
    assert!(refused(|c| c.market.cost = f64::NAN).contains("market.cost"));
    assert!(refused(|c| c.population.honest = u32::MAX).contains("population.honest"));
    assert!(refused(|c| c.population.auditors_lazy = 1_000_000).contains("auditors"));
    assert!(refused(|c| c.protocol.rate_min = 0.5).contains("rate_min"));
    assert!(refused(|c| c.protocol.lazy_slash = 501.0).contains("lazy_slash"));
    assert!(refused(|c| c.grid.rates = vec![0.1; 101]).contains("grid.rates"));
    assert!(refused(|c| c.population.honest = 900_000).contains("answers would be simulated"));
    assert!(serde_json::from_str::<Config>("{\"markt\":{}}").is_err());
}
