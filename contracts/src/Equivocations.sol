// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Announcements} from "./Announcements.sol";
import {Audits} from "./Audits.sol";
import {Domain} from "./Domain.sol";
import {ClaimInfo, REFEREE} from "./IReferee.sol";
import {Judge} from "./Judge.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Equivocations
/// @notice Slashes nodes that signed two things of which at most one can be true. Two signatures prove it, no game is
/// needed. Reports are announced first, so that who sees one before it is in a block cannot take its bounty.
abstract contract Equivocations is Judge, Announcements {
    /// @notice EIP-712 type of a signed root of a log.
    bytes32 public constant CHECKPOINT_TYPEHASH = keccak256("Checkpoint(address node,uint64 size,bytes32 root)");

    /// @notice Where nodes post their logs.
    ReceiptLog public immutable LOG;
    /// @notice Counts faults.
    Audits public immutable AUDITS;
    /// @notice What a proven fraud costs a node, in wei.
    uint256 public immutable FRAUD_SLASH;

    /// @notice Whether a node was punished for two claims with this receipt id.
    mapping(address node => mapping(bytes32 receiptId => bool)) public equivocated;
    /// @notice Whether a node was punished for two roots of this size.
    mapping(address node => mapping(uint64 size => bool)) public forked;

    /// @notice A node signed two claims about one request.
    /// @param node The node.
    /// @param receiptId The request.
    /// @param reporter Who showed them.
    event Equivocated(address indexed node, bytes32 indexed receiptId, address reporter);

    /// @notice A node signed two roots for one size of its log.
    /// @param node The node.
    /// @param size The size.
    /// @param reporter Who showed them.
    event LogForked(address indexed node, uint64 indexed size, address reporter);

    /// @notice The two statements do not contradict each other.
    error NoContradiction();
    /// @notice The node was punished for this before.
    error AlreadyPunished();
    /// @notice The node did not sign this root.
    /// @param root The root.
    error BadCheckpoint(bytes32 root);

    /// @dev Stores what is needed here.
    constructor(ReceiptLog log, Audits audits, uint256 fraudSlash) {
        (LOG, AUDITS, FRAUD_SLASH) = (log, audits, fraudSlash);
    }

    /// @notice Punishes a node that signed two different claims with one receipt id. The sender announced it.
    /// @param claimA One claim.
    /// @param signatureA Its signature.
    /// @param claimB The other claim.
    /// @param signatureB Its signature.
    /// @param salt Salt of the announcement; its subject is `equivocationSubject`.
    function equivocation(
        bytes calldata claimA,
        bytes calldata signatureA,
        bytes calldata claimB,
        bytes calldata signatureB,
        bytes32 salt
    ) external nonReentrant {
        ClaimInfo memory a = REFEREE.claim(claimA, signatureA);
        ClaimInfo memory b = REFEREE.claim(claimB, signatureB);
        if (a.node != b.node || a.receiptId != b.receiptId || a.digest == b.digest) revert NoContradiction();
        if (equivocated[a.node][a.receiptId]) revert AlreadyPunished();
        _announced(equivocationSubject(a.node, a.receiptId), salt);
        equivocated[a.node][a.receiptId] = true;
        emit Equivocated(a.node, a.receiptId, msg.sender);
        _fraud(a.node, a.receiptId);
    }

    /// @notice Punishes a node that signed two different roots for one size of its log, or one that differs from what it
    /// posted to the `ReceiptLog`. In the second case `rootB` is the posted root and `signatureB` is empty. The sender announced
    /// it.
    /// @param node The node.
    /// @param size Size of the log.
    /// @param rootA A root.
    /// @param signatureA Its signature: 65 bytes, v 27 or 28, low s.
    /// @param rootB Another root.
    /// @param signatureB Its signature, or nothing.
    /// @param salt Salt of the announcement; its subject is `forkSubject`.
    function logEquivocation(
        address node,
        uint64 size,
        bytes32 rootA,
        bytes calldata signatureA,
        bytes32 rootB,
        bytes calldata signatureB,
        bytes32 salt
    ) external nonReentrant {
        if (rootA == rootB) revert NoContradiction();
        if (forked[node][size]) revert AlreadyPunished();
        if (!_signed(node, size, rootA, signatureA)) revert BadCheckpoint(rootA);
        bool posted = signatureB.length == 0 && rootB != bytes32(0) && LOG.roots(node, size) == rootB;
        if (!posted && !_signed(node, size, rootB, signatureB)) revert BadCheckpoint(rootB);
        _announced(forkSubject(node, size), salt);
        forked[node][size] = true;
        emit LogForked(node, size, msg.sender);
        _fraud(node, bytes32(0));
    }

    /// @notice What an announcement of `equivocation` is about.
    /// @param node The node.
    /// @param receiptId The receipt.
    /// @return The subject.
    function equivocationSubject(address node, bytes32 receiptId) public pure returns (bytes32) {
        return keccak256(abi.encode("equivocation", node, receiptId));
    }

    /// @notice What an announcement of `logEquivocation` is about.
    /// @param node The node.
    /// @param size Size of the log.
    /// @return The subject.
    function forkSubject(address node, uint64 size) public pure returns (bytes32) {
        return keccak256(abi.encode("fork", node, size));
    }

    /// @notice EIP-712 digest that a node signs for a root of its log. The domain has the genesis hash as salt
    /// and no verifying contract.
    /// @param node The node.
    /// @param size Size of the log.
    /// @param root The root.
    /// @return The digest.
    function checkpointDigest(address node, uint64 size, bytes32 root) public view returns (bytes32) {
        bytes32 domain = Domain.separator("og log", AUDITS.BEACON().genesis());
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(CHECKPOINT_TYPEHASH, node, size, root)));
    }

    /// @dev Whether a node signed a root.
    function _signed(address node, uint64 size, bytes32 root, bytes calldata signature) private view returns (bool) {
        (address signer, ECDSA.RecoverError failure,) =
            ECDSA.tryRecoverCalldata(checkpointDigest(node, size, root), signature);
        return failure == ECDSA.RecoverError.NoError && signer == node;
    }

    /// @dev Punishes a fraud that concerns no payment.
    function _fraud(address node, bytes32 receiptId) private {
        (uint256 taken, uint256 bounty, uint256 left) = _punish(node, receiptId, FRAUD_SLASH, address(0), 0);
        if (taken == 0) revert NotBonded(node);
        balances[msg.sender] += bounty;
        AUDITS.onFault(node);
        _burn(left);
    }
}
