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
        function PUBLISH_FEE() returns (uint256);
        function publish(bytes32 modelId, bytes manifest, string uri) payable;
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
        function nodeInfo(address node) returns (string endpoint, uint256 stake, bool active, uint64 exitAt);
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
        function batch(address node, uint64 size) returns (bytes32 root, uint64 blockNumber, uint64 previousSize);
        event CheckpointPosted(address indexed node, uint64 indexed size, bytes32 root, uint64 blockNumber);
    }
    /// A signed claim, and where it is in its node's log.
    #[derive(Debug, Default)]
    struct LoggedClaim { bytes claim; bytes signature; bytes32[] path; }
    /// Who may be drawn.
    interface Auditors {
        function MIN_STAKE() returns (uint256);
        function join() payable;
        function requestExit();
        function withdraw();
        function auditorInfo(address auditor) returns (uint256 stake, uint64 exitAt, uint64 holds);
        function weights(address auditor, uint256 blockNumber) returns (uint256 stake, uint256 total);
    }
    /// Draws and verdicts.
    interface Audits {
        struct Batch { bytes32 seed; uint64 first; uint64 blockNumber; uint64 commitUntil; uint32 rate; }
        function REVEAL_SECONDS() returns (uint64);
        function batchOf(address node, uint64 size) returns (Batch);
        function drawn(address node, uint64 size, uint64 index, address auditor) returns (bool);
        function commit(address node, uint64 size, bytes32 hash);
        function reveal(address node, uint64 size, uint64[] indices, uint8[] verdicts, bytes32 salt);
        function back(address node, uint64 size, uint64 index, LoggedClaim logged);
        function reportLazy(address node, uint64 size, uint64 index, address auditor, LoggedClaim logged);
        function okCount(address node) returns (uint256);
        function rateAt(address node, uint256 blockNumber) returns (uint32);
        function markOf(address node, uint64 index, address auditor) returns (uint8);
        function balances(address owner) returns (uint256);
        function pool() returns (uint256);
        function withdraw();
        event Revealed(address indexed node, uint64 indexed size, address indexed auditor, uint64[] indices, uint8[] verdicts, uint256 paid);
    }
    /// Games about computations.
    interface Disputes {
        struct Game {
            address challenger; uint64 deadline; uint8 turn; bool accusation; address defender; uint32 challengerLeft;
            uint32 defenderLeft; address node; address payer;
            uint128 price; uint128 bond; bytes32 receiptId; bytes32 stateHash;
        }
        function WINDOW_SECONDS() returns (uint64);
        function BOND() returns (uint256);
        function OPEN_SECONDS() returns (uint64);
        function announce(bytes32 hash);
        function announcementOf(address sender, bytes32 subject, bytes32 salt) returns (bytes32);
        function disputeSubject(address node, bytes32 receiptId, bytes opening) returns (bytes32);
        function open(bytes claim, bytes signature, bytes opening, bytes32 salt) payable returns (uint256 id);
        function openLogged(address node, uint64 size, uint64 index, LoggedClaim logged, bytes opening, bytes32 salt) payable returns (uint256 id);
        function tried(address node, bytes32 receiptId, address challenger) returns (bool);
        function move(uint256 id, bytes state, bytes moved);
        function timeout(uint256 id);
        function gameOf(uint256 id) returns (Game);
        function gameCount() returns (uint256);
        function openCount(address node) returns (uint256);
        function lost(address node, bytes32 receiptId) returns (uint8 finding, uint128 slashed);
        function balances(address owner) returns (uint256);
        function withdraw();
        event Opened(uint256 indexed id, address indexed node, address indexed challenger, address defender, bytes32 receiptId, bytes state, uint8 turn);
        event Moved(uint256 indexed id, uint8 turn, bytes state, bytes move);
        event Ended(uint256 indexed id, bool nodeLost, bool timedOut);
    }
    /// Cases about texts.
    interface Jury {
        struct Case {
            address plaintiff; uint64 blockNumber; uint32 jurors; uint8 outcome; address node; uint64 commitUntil; address payer;
            uint128 price; uint128 guilty; uint128 total; uint128 prize; bytes32 receiptId; bytes32 seed;
        }
        function BOND() returns (uint256);
        function REVEAL_SECONDS() returns (uint64);
        function escalate(address node, uint64 size, uint64 index, LoggedClaim logged) payable returns (bytes32 id);
        function commit(bytes32 id, bytes32 hash);
        function reveal(bytes32 id, bool guilty, bytes32 salt);
        function resolve(bytes32 id);
        function settle(bytes32 id, address juror);
        function caseId(address node, uint64 index) returns (bytes32);
        function caseOf(bytes32 id) returns (Case);
        function isJuror(bytes32 id, address auditor) returns (bool);
        event Escalated(bytes32 indexed id, address indexed node, uint64 indexed index, uint64 size, address plaintiff, bytes32 receiptId);
        event Resolved(bytes32 indexed id, address indexed node, uint8 outcome);
    }
    /// What clients pay.
    interface Escrow {
        struct Voucher { address client; address node; uint256 total; }
        struct Pocket { uint128 held; uint128 taken; uint128 refunded; uint128 withdrawing; uint64 withdrawAt; }
        function WINDOW_SECONDS() returns (uint64);
        function deposit(address node) payable;
        function settle(Voucher[] vouchers, bytes[] signatures, uint64 logSize) returns (uint256 index);
        function release(address node, uint256 index);
        function releaseReserve(address node);
        function reserves(address node) returns (uint256);
        function holds(address node) returns (uint256);
        struct Bucket { uint128 amount; uint64 releaseAt; uint64 logSize; }
        function bucketCount(address node) returns (uint256);
        function bucketOf(address node, uint256 index) returns (Bucket);
        function pocketOf(address client, address node) returns (Pocket);
        function balances(address client) returns (uint256);
        function collect();
    }
}

/// Storage slot of `mapping[node][key]` for a mapping of mappings at slot `base` (Solidity documentation, "Layout of State
/// Variables in Storage").
fn nested_slot(base: u64, node: Address, key: B256) -> B256 {
    let outer = keccak256((node, U256::from(base)).abi_encode());
    keccak256((key, outer).abi_encode())
}

/// Storage slots of `Disputes.lost[node][receipt]` (slot 8) and `Disputes.disputedAt[node][receipt]` (slot 7).
pub fn dispute_slots(node: Address, receipt: B256) -> (B256, B256) {
    (nested_slot(8, node, receipt), nested_slot(7, node, receipt))
}

/// Storage slot of `ReceiptLog._posted[node][size]` (slot 2); the Unix time is in the third 64 bits.
pub fn posted_slot(node: Address, size: u64) -> B256 {
    nested_slot(2, node, U256::from(size).into())
}

/// Storage slot of the word of `Audits._right[node]` (slot 6) that has the bit of the receipt at `index`; the bit is `index % 256`.
pub fn right_slot(node: Address, index: u64) -> B256 {
    nested_slot(6, node, U256::from(index / 256).into())
}

/// Storage slot of `ReceiptLog.roots[node][size]` (slot 0).
pub fn receipt_log_slot(node: Address, size: u64) -> B256 {
    nested_slot(0, node, U256::from(size).into())
}
