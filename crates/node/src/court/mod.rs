//! What nodes and auditors do in disputes: reading the ledger, knowing a case, playing games.

pub(crate) mod case;
pub(crate) mod games;

use alloy_sol_types::{SolCall, SolValue as _};
use client::{
    ClientError, RpcClient,
    contracts::{Audits, Disputes, Escrow, Jury, LoggedClaim},
};
use std::time::Duration;
use types::{Address, B256, Bytes, NetworkConfig, U256, keccak256};
use wallet::{Call, SendError, Wallet};

/// Time between looks at the newest block.
const POLL: Duration = Duration::from_millis(100);

/// Where a claim is in its node's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) node: Address,
    /// Size of the first posted log that has it.
    pub(crate) size: u64,
    pub(crate) index: u64,
    /// Its receipt id.
    pub(crate) receipt: B256,
}

/// What `Disputes.announcementOf` gives for a dispute. Computed here and not asked for: whoever serves JSON-RPC could use the salt.
fn announcement(sender: Address, place: &Place, opening: &Bytes, salt: B256) -> B256 {
    let about = ("dispute".to_owned(), place.node, place.receipt, keccak256(opening));
    let subject = keccak256(about.abi_encode_params());
    keccak256((sender, subject, salt).abi_encode())
}

/// A party's view of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Court {
    pub(crate) rpc: RpcClient,
    pub(crate) network: NetworkConfig,
    /// What sends its transactions.
    pub(crate) wallet: Wallet,
}

impl Court {
    pub(crate) fn new(rpc: RpcClient, network: NetworkConfig, wallet: Wallet) -> Self {
        Self { rpc, network, wallet }
    }

    /// The party's address.
    pub(crate) fn me(&self) -> Address {
        self.wallet.address()
    }

    /// Sends a call without a deadline and waits until it is final. What waits or is refused is tried again for as long as the wallet is
    /// patient.
    pub(crate) async fn send(&self, to: Address, value: U256, call: impl SolCall) -> Result<B256, SendError> {
        self.send_call(call_of(to, &call).with_value(value)).await
    }

    /// Sends a call that is worth nothing from `deadline` on (Unix time), and waits until it is final. It is tried until then, and an
    /// alarm is raised when that may fail.
    pub(crate) async fn send_by(
        &self,
        deadline: u64,
        to: Address,
        value: U256,
        call: impl SolCall,
    ) -> Result<B256, SendError> {
        self.send_call(call_of(to, &call).with_value(value).by(deadline)).await
    }

    /// Sends any call.
    pub(crate) async fn send_call(&self, call: Call) -> Result<B256, SendError> {
        self.wallet.send(call).await.map(|done| done.hash)
    }

    /// Disputes a claim of a log: announces it, and opens it in a later block, so that nobody can copy it and be first. Does nothing when this
    /// account disputed it before.
    pub(crate) async fn dispute(
        &self,
        place: Place,
        logged: LoggedClaim,
        opening: Bytes,
    ) -> anyhow::Result<()> {
        let disputes = self.network.contracts.disputes;
        let Place { node, size, index, receipt } = place;
        let tried = Disputes::triedCall { node, receiptId: receipt, challenger: self.me() };
        if self.rpc.view(disputes, &tried).await? {
            return Ok(());
        }
        let bond = self.rpc.view(disputes, &Disputes::BONDCall {}).await?;
        let good_for = self.rpc.view(disputes, &Disputes::OPEN_SECONDSCall {}).await?;
        let salt = B256::from(rand::random::<[u8; 32]>());
        let hash = announcement(self.me(), &place, &opening, salt);
        let before = self.rpc.block_time().await?;
        self.send(disputes, U256::ZERO, Disputes::announceCall { hash }).await?;
        // What is estimated at the block of the announcement fails.
        let announced = self.rpc.block_number().await?;
        while self.rpc.block_number().await? <= announced {
            tokio::time::sleep(POLL).await;
        }
        let call = Disputes::openLoggedCall { node, size, index, logged, opening, salt };
        self.send_by(before + good_for, disputes, bond, call).await?;
        Ok(())
    }

    /// Whether the ledger lets `auditor` see the receipt: it is drawn to audit it, or to judge it.
    pub(crate) async fn may_see(
        &self,
        node: Address,
        size: u64,
        index: u64,
        auditor: Address,
    ) -> Result<bool, ClientError> {
        let contracts = self.network.contracts;
        let drawn = Audits::drawnCall { node, size, index, auditor };
        match self.rpc.view(contracts.audits, &drawn).await {
            Ok(true) => return Ok(true),
            // A batch whose draw is not known yet, or no longer, may still have a case.
            Ok(false) | Err(ClientError::Rpc { .. }) => (),
            Err(e) => return Err(e),
        }
        let id = self.rpc.view(contracts.jury, &Jury::caseIdCall { node, index }).await?;
        match self.rpc.view(contracts.jury, &Jury::isJurorCall { id, auditor }).await {
            Err(ClientError::Rpc { .. }) => Ok(false),
            other => other,
        }
    }

    /// What `node` took out of a client's pocket, and what it holds and the client did not ask back.
    pub(crate) async fn pocket(&self, client: Address, node: Address) -> Result<(U256, U256), ClientError> {
        let call = Escrow::pocketOfCall { client, node };
        let pocket = self.rpc.view(self.network.contracts.escrow, &call).await?;
        Ok((U256::from(pocket.taken), U256::from(pocket.held.saturating_sub(pocket.withdrawing))))
    }
}

/// A call of a contract, named after its function.
pub(crate) fn call_of<C: SolCall>(to: Address, call: &C) -> Call {
    let name = C::SIGNATURE.split('(').next().unwrap_or_default();
    Call::new(to, Bytes::from(call.abi_encode())).called(name)
}
