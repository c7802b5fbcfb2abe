//! What is known of each client: its voucher, its answers after it, and its pocket.

use crate::receipt_log::Slip;
use api::ports::InferenceFault;
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};
use types::{Address, Bytes, U256};

/// Clients that are known at once: each has filled a pocket for this node.
const CUSTOMERS_MAX: usize = 65_536;
/// Answers of one client that no voucher covers, with those under way.
const OPEN_MAX: usize = 1024;

/// A client's money for this node, in wei.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pocket {
    pub(super) taken: U256,
    /// Without what the client asked back.
    pub(super) held: U256,
    /// When it was read.
    pub(super) at: Instant,
}

/// Why something is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the pocket of {client} for this node has {free} wei left, and this answer may cost {most}: deposit more in the escrow"
    )]
    Poor { client: Address, free: U256, most: U256 },
    #[error("og-payment {0} was used before; sign one with a larger sequence")]
    Used(u64),
    #[error("{client} has {OPEN_MAX} answers without a voucher; send og-voucher for at least {owed} wei")]
    Unpaid { client: Address, owed: U256 },
    #[error("{0} has no answers here that could be paid")]
    Stranger(Address),
    #[error("the answers up to {sequence} cost {owed} wei; og-voucher says {total}")]
    TooLittle { sequence: u64, owed: U256, total: U256 },
    #[error("this node has too many clients; ask another one")]
    Full,
}

impl From<Refusal> for InferenceFault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => Self::Busy(refusal.to_string()),
            other => Self::PaymentRequired(other.to_string()),
        }
    }
}

/// An answer that no voucher covers.
#[derive(Clone, Debug)]
struct Open {
    slip: Slip,
    /// What it may cost; its price once it is logged.
    most: U256,
    logged: bool,
}

#[derive(Clone, Debug, Default)]
struct Customer {
    /// The largest voucher.
    promised: U256,
    sequence: u64,
    signature: Bytes,
    open: BTreeMap<u64, Open>,
    pocket: Option<Pocket>,
}

impl Customer {
    /// What the pocket must still pay.
    fn owed(&self, taken: U256) -> U256 {
        let open = self.open.values().fold(U256::ZERO, |sum, open| sum.saturating_add(open.most));
        self.promised.saturating_sub(taken).saturating_add(open)
    }

    /// What a voucher up to `sequence` must say.
    fn total_up_to(&self, sequence: u64) -> U256 {
        let logged = self.open.range(..=sequence).filter(|(_, open)| open.logged);
        logged.fold(self.promised, |sum, (_, open)| sum.saturating_add(open.most))
    }

    fn is_idle(&self) -> bool {
        self.open.is_empty() && self.pocket.is_some_and(|p| p.taken >= self.promised)
    }
}

/// All clients of a node.
#[derive(Default)]
pub(super) struct Book(HashMap<Address, Customer>);

impl Book {
    pub(super) fn restore_voucher(&mut self, client: Address, total: U256, sequence: u64, signature: Bytes) {
        let customer = self.0.entry(client).or_default();
        (customer.promised, customer.sequence, customer.signature) = (total, sequence, signature);
    }

    pub(super) fn restore_slip(&mut self, slip: Slip, price: U256) {
        let customer = self.0.entry(slip.client).or_default();
        if slip.sequence > customer.sequence {
            customer.open.insert(slip.sequence, Open { slip, most: price, logged: true });
        }
    }

    pub(super) fn pocket(&self, client: Address) -> Option<Pocket> {
        self.0.get(&client)?.pocket
    }

    pub(super) fn saw(&mut self, client: Address, pocket: Pocket) {
        if let Some(customer) = self.0.get_mut(&client) {
            customer.pocket = Some(pocket);
        }
    }

    /// Sets `most` wei of a pocket aside for an answer. Who is not known yet is remembered only when the pocket pays for it.
    pub(super) fn enter(&mut self, slip: &Slip, most: U256, pocket: Pocket) -> Result<(), Refusal> {
        let client = slip.client;
        let unknown = Customer::default();
        let customer = self.0.get(&client).unwrap_or(&unknown);
        if slip.sequence <= customer.sequence || customer.open.contains_key(&slip.sequence) {
            return Err(Refusal::Used(slip.sequence));
        }
        let owed = customer.owed(pocket.taken);
        if customer.open.len() >= OPEN_MAX {
            return Err(Refusal::Unpaid { client, owed: customer.total_up_to(u64::MAX) });
        }
        if pocket.held < owed.saturating_add(most) {
            return Err(Refusal::Poor { client, free: pocket.held.saturating_sub(owed), most });
        }
        if self.0.len() >= CUSTOMERS_MAX && !self.0.contains_key(&client) {
            self.0.retain(|_, customer| !customer.is_idle());
            if self.0.len() >= CUSTOMERS_MAX {
                return Err(Refusal::Full);
            }
        }
        let customer = self.0.entry(client).or_default();
        customer.pocket = Some(pocket);
        customer.open.insert(slip.sequence, Open { slip: slip.clone(), most, logged: false });
        Ok(())
    }

    /// An answer was logged, at this price.
    pub(super) fn logged(&mut self, client: Address, sequence: u64, price: U256) {
        let open = self.0.get_mut(&client).and_then(|c| c.open.get_mut(&sequence));
        if let Some(open) = open {
            (open.most, open.logged) = (price, true);
        }
    }

    /// A request is over; unless its answer was logged, it costs nothing.
    pub(super) fn left(&mut self, client: Address, sequence: u64) {
        if let Some(customer) = self.0.get_mut(&client)
            && customer.open.get(&sequence).is_some_and(|open| !open.logged)
        {
            customer.open.remove(&sequence);
        }
    }

    /// An authorisation brings nothing any more.
    pub(super) fn left_for_good(&mut self, client: Address, sequence: u64) {
        if let Some(customer) = self.0.get_mut(&client) {
            customer.open.remove(&sequence);
            // What was taken is known anew from the ledger.
            customer.pocket = None;
        }
    }

    /// Whether a voucher like this is worth a look at its signature.
    pub(super) fn expects(&self, client: Address, total: U256, sequence: u64) -> Result<(), Refusal> {
        let customer = self.0.get(&client).ok_or(Refusal::Stranger(client))?;
        let owed = customer.total_up_to(sequence);
        if total < owed {
            return Err(Refusal::TooLittle { sequence, owed, total });
        }
        // One that says nothing new is a stranger's copy, or a repetition.
        if sequence < customer.sequence || (sequence == customer.sequence && total <= customer.promised) {
            return Err(Refusal::Used(sequence));
        }
        Ok(())
    }

    /// Takes a voucher whose signature was checked.
    pub(super) fn take(
        &mut self,
        client: Address,
        total: U256,
        sequence: u64,
        signature: Bytes,
    ) -> Result<(), Refusal> {
        self.expects(client, total, sequence)?;
        let customer = self.0.get_mut(&client).ok_or(Refusal::Stranger(client))?;
        (customer.promised, customer.sequence, customer.signature) = (total, sequence, signature);
        customer.open = customer.open.split_off(&sequence.saturating_add(1));
        Ok(())
    }

    /// Vouchers that were not settled yet, the largest amounts first.
    pub(super) fn due(&self, max: usize) -> Vec<(Address, U256, u64, Bytes)> {
        let taken = |c: &Customer| c.pocket.map_or(U256::ZERO, |p| p.taken);
        let mut due: Vec<_> = self.0.iter().filter(|(_, c)| c.promised > taken(c)).collect();
        due.sort_by_key(|(_, c)| std::cmp::Reverse(c.promised - taken(c)));
        due.into_iter().take(max).map(|(a, c)| (*a, c.promised, c.sequence, c.signature.clone())).collect()
    }

    /// Logged answers whose authorisation has expired, with their prices; and those for which it is too late.
    pub(super) fn overdue(&self, now: u64, window: u64) -> Overdue {
        let mut found = Overdue::default();
        // Totals contain what was redeemed, so vouchers are settled first.
        let settled = self.0.values().filter(|c| c.pocket.is_some_and(|p| p.taken >= c.promised));
        for open in settled.flat_map(|c| c.open.values()).filter(|open| open.logged) {
            let slip = &open.slip;
            if now > slip.expiry.saturating_add(window) {
                found.lost.push((slip.client, slip.sequence));
            } else if now > slip.expiry {
                found.redeemable.push((slip.clone(), open.most));
            }
        }
        found
    }
}

/// Answers whose authorisation has expired without a voucher.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    /// What can be redeemed on the ledger, with prices.
    pub(super) redeemable: Vec<(Slip, U256)>,
    /// Clients and sequences for which it is too late.
    pub(super) lost: Vec<(Address, u64)>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use types::{B256, ReceiptId};

    const CLIENT: Address = Address::repeat_byte(1);

    fn slip(sequence: u64) -> Slip {
        Slip {
            client: CLIENT,
            receipt: ReceiptId(B256::from(U256::from(sequence))),
            max_price: U256::from(100),
            sequence,
            expiry: 10,
            signature: Bytes::new(),
        }
    }

    fn pocket(taken: u64, held: u64) -> Pocket {
        Pocket { taken: U256::from(taken), held: U256::from(held), at: Instant::now() }
    }

    #[test]
    fn a_pocket_pays_for_all_that_is_under_way_logged_and_promised() {
        let (mut book, hundred) = (Book::default(), U256::from(100));
        let poor = book.enter(&slip(1), hundred, pocket(0, 99));
        assert!(
            matches!(poor, Err(Refusal::Poor { .. })) && book.pocket(CLIENT).is_none(),
            "nothing is kept"
        );
        book.enter(&slip(1), hundred, pocket(0, 200)).unwrap();
        book.enter(&slip(2), hundred, pocket(0, 200)).unwrap();
        assert!(matches!(book.enter(&slip(3), U256::from(1), pocket(0, 200)), Err(Refusal::Poor { .. })));
        assert_eq!(book.enter(&slip(2), U256::ZERO, pocket(0, 900)), Err(Refusal::Used(2)));
        book.logged(CLIENT, 1, U256::from(30));
        book.left(CLIENT, 1);
        book.left(CLIENT, 2);
        // The first costs 30 and the second nothing.
        book.enter(&slip(3), U256::from(170), pocket(0, 200)).unwrap();
        let few = book.take(CLIENT, U256::from(29), 2, Bytes::new());
        assert!(matches!(few, Err(Refusal::TooLittle { .. })), "{few:?}");
        book.take(CLIENT, U256::from(30), 2, Bytes::new()).unwrap();
        assert_eq!(book.take(CLIENT, U256::from(30), 2, Bytes::new()), Err(Refusal::Used(2)));
        assert_eq!(book.take(CLIENT, U256::from(99), 1, Bytes::new()), Err(Refusal::Used(1)), "it goes back");
        assert_eq!(book.enter(&slip(2), U256::ZERO, pocket(0, 900)), Err(Refusal::Used(2)), "it is covered");
        assert_eq!(book.due(9).len(), 1);
        book.saw(CLIENT, pocket(30, 170));
        assert!(book.due(9).is_empty());
    }

    #[test]
    fn strangers_are_not_kept() {
        let mut book = Book::default();
        let stranger = book.take(CLIENT, U256::MAX, u64::MAX, Bytes::new());
        assert_eq!(stranger, Err(Refusal::Stranger(CLIENT)));
        assert!(book.0.is_empty());
    }

    #[test]
    fn what_nobody_vouches_for_is_redeemed_after_its_expiry_and_forgotten_after_the_window() {
        let mut book = Book::default();
        book.enter(&slip(1), U256::from(50), pocket(0, 100)).unwrap();
        assert!(book.overdue(11, 5).redeemable.is_empty(), "it is not logged");
        book.logged(CLIENT, 1, U256::from(40));
        assert!(book.overdue(10, 5).redeemable.is_empty());
        assert_eq!(
            book.overdue(11, 5),
            Overdue { redeemable: vec![(slip(1), U256::from(40))], lost: vec![] }
        );
        assert_eq!(book.overdue(16, 5), Overdue { redeemable: vec![], lost: vec![(CLIENT, 1)] });
        // Vouchers are settled first.
        book.enter(&slip(2), U256::from(50), pocket(0, 100)).unwrap();
        book.take(CLIENT, U256::from(40), 1, Bytes::new()).unwrap();
        book.logged(CLIENT, 2, U256::from(40));
        assert_eq!(book.overdue(11, 5), Overdue::default());
    }
}
