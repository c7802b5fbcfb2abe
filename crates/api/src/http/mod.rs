//! What all HTTP servers of this project have in common.

mod browser;

pub use browser::{BrowserLayer, BrowserRules, BrowserRulesError, BrowserService};
