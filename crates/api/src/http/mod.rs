//! What all HTTP servers of this project have in common.

mod body;
mod browser;
mod peers;

pub(crate) use body::{Held, TimedBody};
pub use browser::{BrowserLayer, BrowserRules, BrowserRulesError, BrowserService};
pub use peers::{Busy, Peer, PeerLimits, Peers, Permit, Place};
