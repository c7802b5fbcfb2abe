//! Who the agents are.

use crate::config::Population;
use serde::{Deserialize, Serialize};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Never cheats.
    Honest,
    /// Cheats in every answer, without history.
    Always,
    /// Cheats with a small chance.
    Sometimes,
    /// Cheats in every answer after a history that brought its rate of audits to the minimum.
    AfterHistory,
    /// Cheats in the last hours before its exit.
    LastDay,
    /// One big wrong answer, then exit.
    BigAnswer,
    /// With a share of the auditors; disputes itself to get the bounty back.
    Collude,
    /// Many names, used in turn.
    Sybil,
    /// Does not answer disputes.
    Silent,
    /// Faults in the text, for the jury.
    Text,
    /// Every wrong answer is declared a canary.
    Shield,
}

impl Strategy {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::Honest,
        Self::Always,
        Self::Sometimes,
        Self::AfterHistory,
        Self::LastDay,
        Self::BigAnswer,
        Self::Collude,
        Self::Sybil,
        Self::Silent,
        Self::Text,
        Self::Shield,
    ];

    /// Short name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Always => "always",
            Self::Sometimes => "some",
            Self::AfterHistory => "history",
            Self::LastDay => "lastday",
            Self::BigAnswer => "big",
            Self::Collude => "collude",
            Self::Sybil => "sybil",
            Self::Silent => "silent",
            Self::Text => "text",
            Self::Shield => "shield",
        }
    }

    /// How many owners follow it.
    #[must_use]
    pub fn count(self, population: &Population) -> u32 {
        match self {
            Self::Honest => population.honest,
            Self::Always => population.always,
            Self::Sometimes => population.sometimes,
            Self::AfterHistory => population.after_history,
            Self::LastDay => population.last_day,
            Self::BigAnswer => population.big_answer,
            Self::Collude => population.collude,
            Self::Sybil => population.sybil,
            Self::Silent => population.silent,
            Self::Text => population.text,
            Self::Shield => population.shield,
        }
    }

    /// Whether its nodes come with a history that has brought the rate of audits to the minimum. It was honest, and so
    /// it neither gained nor lost anything against an honest node.
    #[must_use]
    pub fn has_history(self) -> bool {
        !matches!(self, Self::Honest | Self::Always | Self::Sometimes | Self::Sybil)
    }
}

/// What an auditor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditorKind {
    /// Replays what it is drawn for.
    Honest,
    /// Says "right" without work.
    Lazy,
    /// Reveals what an honest auditor told it, or "right".
    Copying,
    /// Says "right" about the nodes of its cartel and is honest otherwise.
    Colluding,
}

impl AuditorKind {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Honest, Self::Lazy, Self::Copying, Self::Colluding];

    /// Name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Lazy => "lazy",
            Self::Copying => "copying",
            Self::Colluding => "colluding",
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(self, population: &Population) -> u32 {
        match self {
            Self::Honest => population.auditors_honest,
            Self::Lazy => population.auditors_lazy,
            Self::Copying => population.auditors_copying,
            Self::Colluding => population.auditors_colluding,
        }
    }
}
