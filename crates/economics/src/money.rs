//! Money: whole millionths of an answer's price, so that nothing is lost to rounding.

/// An amount in millionths of the price of an average answer.
pub type Money = i64;

/// One answer's price.
pub const PRICE: Money = 1_000_000;

/// An amount given in prices, rounded to a millionth.
#[must_use]
pub fn money(prices: f64) -> Money {
    (prices * PRICE as f64).round() as Money
}

/// An amount in prices.
#[must_use]
pub fn prices(amount: Money) -> f64 {
    amount as f64 / PRICE as f64
}

/// Everybody's accounts. Money only moves, so that the sum of all stays zero: clients and owners begin with nothing and may
/// owe; what is burnt and what is spent outside (computation, interest) has accounts too. Accounts in custody (stakes,
/// escrow, the pool, bonds) must never be negative.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    accounts: Vec<Money>,
    custody: Vec<bool>,
}

impl Ledger {
    /// Opens an account; `custody` says that it must never be negative.
    pub fn open(&mut self, custody: bool) -> usize {
        self.accounts.push(0);
        self.custody.push(custody);
        self.accounts.len() - 1
    }

    /// Moves money. An account in custody gives no more than it has; returns what moved.
    pub fn pay(&mut self, from: usize, to: usize, amount: Money) -> Money {
        let amount = if self.custody[from] { amount.min(self.accounts[from]) } else { amount };
        self.accounts[from] -= amount;
        self.accounts[to] += amount;
        amount
    }

    /// What an account holds.
    #[must_use]
    pub fn balance(&self, account: usize) -> Money {
        self.accounts[account]
    }

    /// The sum of all accounts: zero, always.
    #[must_use]
    pub fn sum(&self) -> Money {
        self.accounts.iter().sum()
    }

    /// Whether no account in custody is negative.
    #[must_use]
    pub fn is_solvent(&self) -> bool {
        self.accounts.iter().zip(&self.custody).all(|(&amount, &custody)| !custody || amount >= 0)
    }
}
