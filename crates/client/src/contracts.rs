//! Interfaces of the system contracts (`contracts/src`).

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolValue as _, sol};

sol! {
    /// Which models exist.
    interface ModelRegistry {
        struct Model {
            address publisher;
            uint64 publishedAt;
            bytes manifest;
            string uri;
        }
        function publish(bytes32 modelId, bytes manifest, string uri);
        function exists(bytes32 modelId) returns (bool);
        function get(bytes32 modelId) returns (Model);
        function ids(uint256 offset, uint256 limit) returns (bytes32[]);
    }
    /// Who serves what.
    interface NodeRegistry {
        struct NodeOffer {
            address node;
            string endpoint;
            uint256 stake;
            uint128 pricePerInputToken;
            uint128 pricePerOutputToken;
        }
        function register(string endpoint) payable;
        function updateEndpoint(string endpoint);
        function setOffer(bytes32 modelId, uint128 pricePerInputToken, uint128 pricePerOutputToken);
        function isActive(address node) returns (bool);
        function nodesFor(bytes32 modelId, uint256 offset, uint256 limit) returns (NodeOffer[]);
    }
    /// Who validates.
    interface Staking {
        struct ActiveValidator { address operator; bytes32 peer; bytes vote; }
        struct Candidate {
            address operator;
            bytes32 peer;
            uint256 stake;
            bool active;
            uint64 jailedUntil;
            uint64 exitAt;
            bool tombstoned;
        }
        function register(bytes32 peer, bytes vote, bytes possession) payable;
        function addStake() payable;
        function requestExit();
        function withdraw();
        function unjail();
        function setPayout(address payout);
        function claim();
        function reportEquivocation(bytes evidence);
        function epoch() returns (uint64);
        function active() returns (ActiveValidator[]);
        function candidates(uint256 offset, uint256 limit) returns (Candidate[]);
        function claimable(address account) returns (uint256);
        function stats(uint256 index) returns (uint64 proposed, uint64 missed);
    }
    /// Roots of receipt logs.
    interface ReceiptLog {
        function append(uint64 oldSize, uint64 newSize, bytes32 root);
        function latest(address node) returns (uint64 size, bytes32 root, uint64 blockNumber);
    }
}

/// Storage slot of `ReceiptLog.roots[node][size]`: a mapping of mappings at slot 0 (Solidity documentation, "Layout of State
/// Variables in Storage").
pub fn receipt_log_slot(node: Address, size: u64) -> B256 {
    let outer = keccak256((node, U256::ZERO).abi_encode());
    keccak256((U256::from(size), outer).abi_encode())
}
