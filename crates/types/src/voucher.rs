use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};

sol! {
    /// What a client promises a node in all since ever (see the contract `Escrow`).
    #[derive(Debug, PartialEq, Eq)]
    struct Voucher {
        address client;
        address node;
        uint256 total;
    }
}

impl Voucher {
    /// The EIP-712 digest that the client signs: domain `og escrow`, version `1`, the chain id, the contract `escrow`, and the
    /// hash of the genesis block as salt.
    pub fn digest(&self, chain_id: u64, genesis: B256, escrow: Address) -> B256 {
        let domain = Eip712Domain::new(
            Some("og escrow".into()),
            Some("1".into()),
            Some(U256::from(chain_id)),
            Some(escrow),
            Some(genesis),
        );
        self.eip712_signing_hash(&domain)
    }
}
