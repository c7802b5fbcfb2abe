//! For which audit rate, stake and window does cheating lose money? A seeded agent simulation of payments in escrow, audits
//! by sortition, disputes, juries and canaries, the closed forms beside it, and a search for the cheapest parameters under
//! which every strategy loses.
//!
//! Unit of all amounts: the price of an average answer. Inside the simulation money is whole millionths of it.

pub mod analysis;
pub mod attacks;
mod audit;
mod config;
mod money;
mod recommend;
mod render;
mod report;
mod rng;
mod strategy;
mod world;

pub use audit::chance_of_dispute;
pub use config::{Bounds, Config, ConfigError, Grid, Market, Population, Protocol};
pub use money::{Ledger, Money, PRICE, money, prices};
pub use recommend::{Recommendation, recommend};
pub use report::{AuditorRow, BreakEven, Cell, Comparison, JuryRow, Report, Row, compare, run, simulate};
pub use rng::{Binomial, Rng, threshold};
pub use strategy::{AuditorKind, Strategy};
pub use world::{World, rates};
