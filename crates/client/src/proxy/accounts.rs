//! What the proxy owes each node: answers in the order of their authorisations, and the total of those that are settled.

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::ReceiptId;

/// An answer that was checked, and waits for its place in the node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) node: Address,
    pub(super) sequence: u64,
    pub(super) id: ReceiptId,
    /// Unix time of the answer, in seconds.
    pub(super) since: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    /// The request is under way. After a restart nothing is owed for it.
    Asked,
    Answered {
        id: ReceiptId,
        price: U256,
        since: u64,
    },
    Settled {
        price: U256,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NodeAccount {
    /// Prices of all answers up to `sequence`.
    total: U256,
    sequence: u64,
    /// The newest sequence that was used.
    newest: u64,
    open: BTreeMap<u64, Entry>,
    /// Whether the node has the voucher for `sequence`.
    #[serde(skip)]
    is_sent: bool,
}

impl NodeAccount {
    /// Adds what is settled to the total, in order.
    fn advance(&mut self) {
        while let Some(first) = self.open.first_entry() {
            let Entry::Settled { price } = first.get() else { return };
            self.total = self.total.saturating_add(*price);
            self.sequence = *first.key();
            // Without a price there is nothing to promise yet.
            self.is_sent &= price.is_zero();
            first.remove();
        }
    }
}

/// All nodes; the file that survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accounts(BTreeMap<Address, NodeAccount>);

impl Accounts {
    /// Begins a request; its sequence, at least `least`.
    pub(super) fn ask(&mut self, node: Address, least: u64) -> u64 {
        let account = self.0.entry(node).or_default();
        account.newest = least.max(account.newest.saturating_add(1));
        account.open.insert(account.newest, Entry::Asked);
        account.newest
    }

    fn change(&mut self, node: Address, sequence: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(account) = self.0.get_mut(&node) {
            account.open.get_mut(&sequence).map(change);
            account.advance();
        }
    }

    /// A request is over; when nothing was answered, it costs nothing.
    pub(super) fn dropped(&mut self, node: Address, sequence: u64) {
        self.change(node, sequence, |entry| {
            if *entry == Entry::Asked {
                *entry = Entry::Settled { price: U256::ZERO };
            }
        });
    }

    pub(super) fn answered(&mut self, node: Address, sequence: u64, id: ReceiptId, price: U256, since: u64) {
        self.change(node, sequence, |entry| *entry = Entry::Answered { id, price, since });
    }

    pub(super) fn settled(&mut self, answer: &Answer, is_logged: bool) {
        self.change(answer.node, answer.sequence, |entry| {
            if let Entry::Answered { price, .. } = *entry {
                *entry = Entry::Settled { price: if is_logged { price } else { U256::ZERO } };
            }
        });
    }

    pub(super) fn unlogged(&self, max: usize) -> Vec<Answer> {
        let open = self.0.iter().flat_map(|(node, account)| account.open.iter().map(move |o| (*node, o)));
        let mut answers: Vec<_> = open
            .filter_map(|(node, (sequence, entry))| match entry {
                Entry::Answered { id, since, .. } => {
                    Some(Answer { node, sequence: *sequence, id: *id, since: *since })
                }
                _ => None,
            })
            .collect();
        answers.sort_by_key(|a| a.sequence);
        answers.truncate(max);
        answers
    }

    /// Nodes whose newest voucher was not sent: total and sequence.
    pub(super) fn due(&self) -> Vec<(Address, U256, u64)> {
        let due = self.0.iter().filter(|(_, a)| !a.is_sent && !a.total.is_zero());
        due.map(|(node, a)| (*node, a.total, a.sequence)).collect()
    }

    pub(super) fn sent(&mut self, node: Address) {
        if let Some(account) = self.0.get_mut(&node) {
            account.is_sent = true;
        }
    }

    /// All that a node will be promised, as far as is known.
    pub(super) fn owed(&self, node: Address) -> U256 {
        let Some(account) = self.0.get(&node) else { return U256::ZERO };
        account.open.values().fold(account.total, |sum, entry| match entry {
            Entry::Asked => sum,
            Entry::Answered { price, .. } | Entry::Settled { price } => sum.saturating_add(*price),
        })
    }

    /// After a restart: nothing is under way.
    pub(super) fn restarted(mut self) -> Self {
        for account in self.0.values_mut() {
            for entry in account.open.values_mut().filter(|e| **e == Entry::Asked) {
                *entry = Entry::Settled { price: U256::ZERO };
            }
            account.advance();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::B256;

    const NODE: Address = Address::repeat_byte(1);

    fn id(n: u8) -> ReceiptId {
        ReceiptId(B256::repeat_byte(n))
    }

    #[test]
    fn a_voucher_covers_what_is_settled_without_a_gap() {
        let mut accounts = Accounts::default();
        let [a, b, c] = [1, 1, 1].map(|least| accounts.ask(NODE, least));
        assert_eq!((a, b, c), (1, 2, 3));
        accounts.answered(NODE, c, id(3), U256::from(30), 5);
        accounts.answered(NODE, a, id(1), U256::from(10), 7);
        let answers = accounts.unlogged(9);
        assert_eq!(answers.iter().map(|x| x.sequence).collect::<Vec<_>>(), [a, c]);
        accounts.settled(&answers[1], true);
        assert!(accounts.due().is_empty(), "earlier ones are open");
        accounts.settled(&answers[0], true);
        assert_eq!(accounts.due(), [(NODE, U256::from(10), a)]);
        accounts.sent(NODE);
        assert!(accounts.due().is_empty());
        assert_eq!(accounts.owed(NODE), U256::from(40));
        // The one between was never answered: nothing is owed for it, and the third is covered now.
        accounts.dropped(NODE, b);
        assert_eq!(accounts.due(), [(NODE, U256::from(40), c)]);
        accounts.dropped(NODE, c);
        assert_eq!(accounts.owed(NODE), U256::from(40));
    }

    #[test]
    fn what_is_not_logged_is_not_paid_and_a_restart_owes_nothing_more() {
        let mut accounts = Accounts::default();
        let a = accounts.ask(NODE, 100);
        accounts.answered(NODE, a, id(1), U256::from(10), 0);
        let b = accounts.ask(NODE, 50);
        assert_eq!((a, b), (100, 101));
        let text = serde_json::to_string(&accounts).unwrap();
        let mut again = serde_json::from_str::<Accounts>(&text).unwrap().restarted();
        let answer = again.unlogged(1).pop().unwrap();
        again.settled(&answer, false);
        assert_eq!((again.owed(NODE), again.due()), (U256::ZERO, vec![]));
        let c = again.ask(NODE, 0);
        assert_eq!(c, 102);
    }
}
