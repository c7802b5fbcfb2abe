use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};

sol! {
    /// What a client promises a node in all since ever, for its answers up to `sequence` (see the contract `Escrow`). It
    /// takes the place of the authorisations up to that one.
    #[derive(Debug, PartialEq, Eq)]
    struct Voucher {
        address client;
        address node;
        uint256 total;
        uint64 sequence;
    }
    /// A client's permission to answer one request for at most `maxPrice` wei (see the contract `Escrow`). It is used once,
    /// and the node may begin until `expiry` (Unix seconds).
    #[derive(Debug, PartialEq, Eq)]
    struct Authorisation {
        address client;
        address node;
        bytes32 receiptId;
        uint256 maxPrice;
        uint64 sequence;
        uint64 expiry;
    }
}

/// Where clients' signatures count: the EIP-712 domain `og escrow`, version `1`, with the chain id, the contract, and the
/// hash of the genesis block as salt, so that nothing that was signed for one network counts in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscrowDomain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of the genesis block.
    pub genesis: B256,
    /// The contract `Escrow`.
    pub escrow: Address,
}

impl EscrowDomain {
    /// The EIP-712 digest that a client signs for a [`Voucher`] or an [`Authorisation`].
    pub fn digest(&self, signed: &impl SolStruct) -> B256 {
        let domain = Eip712Domain::new(
            Some("og escrow".into()),
            Some("1".into()),
            Some(U256::from(self.chain_id)),
            Some(self.escrow),
            Some(self.genesis),
        );
        signed.eip712_signing_hash(&domain)
    }
}
