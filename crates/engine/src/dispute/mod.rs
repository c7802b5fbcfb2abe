//! Both sides of a dispute (see the crate `referee`): what a node needs to defend an answer and a challenger to refute one.
//!
//! Nothing of this is kept while serving: a party computes the answer again and looks at the one position and layer that the game
//! is about.

mod masks;
mod player;
mod table;
mod trace;
mod weights;

pub use masks::masks;
pub use player::{Dispute, Player};
pub use table::{Inputs, Table, Tamper, UNTOUCHED};
pub use trace::{Replayed, Trace};
pub use weights::TensorStore;
