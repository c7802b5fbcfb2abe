//! Pays nodes: a pocket of coins for each in the escrow, an authorisation for every request, and vouchers for the answers that
//! were proved to be in the nodes' logs. Signing is local; the ledger is asked for deposits only.

use super::accounts::{Accounts, Answer};
use crate::{ClientError, RpcClient, contracts::Escrow, files};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use parking_lot::Mutex;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};
use types::{Authorisation, EscrowDomain, NetworkConfig, ReceiptId, Voucher, signing};
use wallet::{Account, Call, Config, SendError, Wallet};

/// How long a deposit is tried: the request that needs it waits.
const DEPOSIT_MAX: Duration = Duration::from_secs(30);
/// Time after a request in which its node may begin, in seconds: a queue, and clocks that differ.
const EXPIRY_SECONDS: u64 = 600;

/// Who pays, and how much is put into a pocket at once.
#[derive(Clone, Debug)]
pub struct Payer {
    /// Secret key of the paying account.
    pub secret: B256,
    /// What to deposit for a node whose pocket does not suffice, in wei.
    pub deposit: U256,
}

/// A paying account.
pub(super) struct Purse {
    wallet: Wallet,
    payer: Payer,
    rpc: RpcClient,
    domain: EscrowDomain,
    path: PathBuf,
    accounts: Arc<Mutex<Accounts>>,
    /// One deposit at a time: a second one for the same pocket would be too much.
    filling: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purse({})", self.wallet.address())
    }
}

/// A request that was authorised. When it is dropped before its answer was checked, nothing is owed for it.
#[derive(Debug)]
pub(super) struct Ticket {
    accounts: Arc<Mutex<Accounts>>,
    node: Address,
    sequence: u64,
    /// The header `og-payment`.
    pub(super) header: String,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.accounts.lock().dropped(self.node, self.sequence);
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Purse {
    pub(super) fn open(
        payer: Payer,
        rpc: RpcClient,
        network: NetworkConfig,
        genesis: B256,
        path: PathBuf,
    ) -> Result<Self, ClientError> {
        let accounts = files::read::<Accounts>(&path)?.unwrap_or_default().restarted();
        let account = Account::new(payer.secret)?;
        let config = Config::new(account, network.chain_id)
            .kept_in(path.with_extension("calls.redb"))
            .patient_for(DEPOSIT_MAX);
        let wallet = Wallet::open(config, Arc::new(rpc.clone())).map_err(SendError::from)?;
        let domain = EscrowDomain { chain_id: network.chain_id, genesis, escrow: network.contracts.escrow };
        let (accounts, filling) = (Arc::new(Mutex::new(accounts)), tokio::sync::Mutex::default());
        Ok(Self { wallet, payer, rpc, domain, path, accounts, filling })
    }

    pub(super) fn address(&self) -> Address {
        self.wallet.address()
    }

    /// Authorises a node to answer the request with this receipt for at most `max_price` wei.
    pub(super) fn authorise(
        &self,
        node: Address,
        receipt: ReceiptId,
        max_price: u128,
    ) -> Result<Ticket, ClientError> {
        let (client, expiry) = (self.address(), now().as_secs() + EXPIRY_SECONDS);
        // Microseconds grow over restarts, too, with nothing to remember.
        let sequence = self.accounts.lock().ask(node, now().as_micros() as u64);
        let authorisation = Authorisation {
            client,
            node,
            receiptId: receipt.0,
            maxPrice: U256::from(max_price),
            sequence,
            expiry,
        };
        let signature = signing::sign(&self.payer.secret, self.domain.digest(&authorisation))?;
        let signature = Bytes::from(signature.to_vec());
        let header = format!("{client} {max_price} {sequence} {expiry} {signature}");
        Ok(Ticket { accounts: self.accounts.clone(), node, sequence, header })
    }

    /// What its wallet counts, in Prometheus' text format without its closing line.
    pub(super) fn metrics(&self) -> String {
        self.wallet.metrics().text("og_proxy")
    }

    /// Notes the price of an answer that was checked; it is paid once the node has logged it.
    pub(super) fn owe(&self, ticket: &Ticket, id: ReceiptId, price: u128) {
        self.accounts.lock().answered(ticket.node, ticket.sequence, id, U256::from(price), now().as_secs());
        self.save();
    }

    fn save(&self) {
        let saved = self.accounts.lock().clone();
        if let Err(e) = files::write(&self.path, &saved) {
            warn!("what is owed could not be written to {}: {e}", self.path.display());
        }
    }

    /// Answers that were not proved to be logged, the oldest first.
    pub(super) fn unlogged(&self, max: usize) -> Vec<Answer> {
        self.accounts.lock().unlogged(max)
    }

    /// An answer was proved to be logged, or (`is_logged` false) will not be paid.
    pub(super) fn settle(&self, answer: &Answer, is_logged: bool) {
        self.accounts.lock().settled(answer, is_logged);
        self.save();
    }

    /// Vouchers that were not sent yet: for each node the header `og-voucher`.
    pub(super) fn vouchers(&self) -> Result<Vec<(Address, String)>, ClientError> {
        let client = self.address();
        let due = self.accounts.lock().due();
        due.into_iter()
            .map(|(node, total, sequence)| {
                let digest = self.domain.digest(&Voucher { client, node, total, sequence });
                let signature = Bytes::from(signing::sign(&self.payer.secret, digest)?.to_vec());
                Ok((node, format!("{client} {total} {sequence} {signature}")))
            })
            .collect()
    }

    /// A node took the newest voucher, or will get the next one.
    pub(super) fn sent(&self, node: Address) {
        self.accounts.lock().sent(node);
    }

    /// Puts coins into the pocket for a node.
    pub(super) async fn fill(&self, node: Address) -> Result<(), ClientError> {
        let _one = self.filling.lock().await;
        let escrow = self.domain.escrow;
        let pocket = self.rpc.view(escrow, &Escrow::pocketOfCall { client: self.address(), node }).await?;
        let owed = self.accounts.lock().owed(node);
        let free = (U256::from(pocket.taken) + U256::from(pocket.held)).saturating_sub(owed);
        // Another request may have filled it in the meantime.
        if free >= self.payer.deposit / U256::from(2) {
            return Ok(());
        }
        let data = Bytes::from(Escrow::depositCall { node }.abi_encode());
        let call = Call::new(escrow, data).with_value(self.payer.deposit).called("a deposit in the escrow");
        self.wallet.send(call).await?;
        info!(%node, wei = %self.payer.deposit, "put coins into the escrow");
        Ok(())
    }
}
