//! Pays nodes: a pocket of coins for each in the escrow, and promises that grow with every answer that was checked.

use crate::{ClientError, RpcClient, contracts::Escrow};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::{info, warn};
use types::{NetworkConfig, Voucher, signing};
use wallet::{Account, Call, Config, SendError, Wallet};

/// How long a deposit is tried: the request that needs it waits.
const DEPOSIT_MAX: Duration = Duration::from_secs(30);

/// Who pays, and how much is put into a pocket at once.
#[derive(Clone, Debug)]
pub struct Payer {
    /// Secret key of the paying account.
    pub secret: B256,
    /// What to deposit for a node whose pocket does not suffice, in wei.
    pub deposit: U256,
}

/// What is owed to each node in all, in wei; the file that survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Totals(BTreeMap<Address, U256>);

/// A paying account.
pub(super) struct Purse {
    wallet: Wallet,
    payer: Payer,
    rpc: RpcClient,
    network: NetworkConfig,
    /// Hash of the network's genesis block.
    genesis: B256,
    path: PathBuf,
    totals: Mutex<Totals>,
    /// One deposit at a time: their transactions have consecutive nonces.
    filling: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Purse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purse({})", self.wallet.address())
    }
}

impl Purse {
    pub(super) fn open(
        payer: Payer,
        rpc: RpcClient,
        network: NetworkConfig,
        genesis: B256,
        path: PathBuf,
    ) -> Result<Self, ClientError> {
        let fault = |reason: String| ClientError::File { path: path.display().to_string(), reason };
        let totals = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Totals::default(),
            Err(e) => return Err(fault(e.to_string())),
        };
        let account = Account::new(payer.secret)?;
        let config = Config::new(account, network.chain_id)
            .kept_in(path.with_extension("calls.redb"))
            .patient_for(DEPOSIT_MAX);
        let wallet = Wallet::open(config, Arc::new(rpc.clone())).map_err(SendError::from)?;
        let (totals, filling) = (Mutex::new(totals), tokio::sync::Mutex::default());
        Ok(Self { wallet, payer, rpc, network, genesis, path, totals, filling })
    }

    pub(super) fn address(&self) -> Address {
        self.wallet.address()
    }

    /// What its wallet counts, in Prometheus' text format without its closing line.
    pub(super) fn metrics(&self) -> String {
        self.wallet.metrics().text("og_proxy")
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header `og-payment` for a node: all that it is owed.
    pub(super) fn promise(&self, node: Address) -> Result<String, ClientError> {
        let total = self.lock().0.get(&node).copied().unwrap_or_default();
        let client = self.address();
        let escrow = self.network.contracts.escrow;
        let digest = Voucher { client, node, total }.digest(self.network.chain_id, self.genesis, escrow);
        let signature = Bytes::from(signing::sign(&self.payer.secret, digest)?.to_vec());
        Ok(format!("{client} {total} {signature}"))
    }

    /// Notes the price of an answer that was checked.
    pub(super) fn owe(&self, node: Address, price: u128) {
        let mut totals = self.lock();
        *totals.0.entry(node).or_default() += U256::from(price);
        let draft = self.path.with_extension("tmp");
        let written = serde_json::to_vec(&*totals)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&draft, bytes))
            .and_then(|()| fs::rename(&draft, &self.path));
        if let Err(e) = written {
            warn!("what is owed could not be written to {}: {e}", self.path.display());
        }
    }

    /// Puts coins into the pocket for a node.
    pub(super) async fn fill(&self, node: Address) -> Result<(), ClientError> {
        let _one = self.filling.lock().await;
        let escrow = self.network.contracts.escrow;
        let pocket = self.rpc.view(escrow, &Escrow::pocketOfCall { client: self.address(), node }).await?;
        let owed = self.lock().0.get(&node).copied().unwrap_or_default();
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
