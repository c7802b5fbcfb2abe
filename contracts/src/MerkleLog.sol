// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ClaimInfo, REFEREE} from "./IReferee.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @notice A signed claim, and where it is in its node's log.
struct LoggedClaim {
    /// @dev The claim, canonically encoded.
    bytes claim;
    /// @dev The node's signature, as in the log.
    bytes signature;
    /// @dev Audit path from the leaf's sibling up (RFC 9162, 2.1.3.1).
    bytes32[] path;
}

/// @title MerkleLog
/// @notice Proofs that a claim is in a node's log: Merkle trees over SHA-256 (RFC 9162, 2.1).
library MerkleLog {
    /// @notice The path does not belong to a leaf at this index of a tree of this size.
    error BadPath();

    /// @notice The signed claim is not at this index of the posted log.
    error NotInLog();

    /// @notice The claim is one of another node.
    /// @param signer The node that signed it.
    error WrongNode(address signer);

    /// @notice Hash of the leaf of a signed claim.
    /// @param digest EIP-712 digest of the claim.
    /// @param signature The node's signature.
    /// @return SHA-256 of 0x00, digest and signature.
    function leafHash(bytes32 digest, bytes memory signature) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0), digest, signature));
    }

    /// @notice Root that follows from a leaf and its path (RFC 9162, 2.1.3.2). The caller compares it.
    /// @param leaf Hash of the leaf.
    /// @param index Position of the leaf.
    /// @param size Leaves in the tree.
    /// @param path Audit path from the leaf's sibling up.
    /// @return node The root.
    function root(bytes32 leaf, uint64 index, uint64 size, bytes32[] memory path) internal pure returns (bytes32 node) {
        if (index >= size) revert BadPath();
        uint64 last = size - 1;
        node = leaf;
        for (uint256 i = 0; i < path.length; ++i) {
            if (last == 0) revert BadPath();
            if (index & 1 == 1 || index == last) {
                node = sha256(abi.encodePacked(bytes1(0x01), path[i], node));
                // A last node without a sibling moves up as it is.
                while (index & 1 == 0 && index != 0) (index, last) = (index >> 1, last >> 1);
            } else {
                node = sha256(abi.encodePacked(bytes1(0x01), node, path[i]));
            }
            (index, last) = (index >> 1, last >> 1);
        }
        if (last != 0) revert BadPath();
    }

    /// @notice Reads a claim and checks that it is in its node's log.
    /// @param log Where roots are posted.
    /// @param node The node.
    /// @param size Size of a posted log.
    /// @param index Position of the claim.
    /// @param logged The claim and its path.
    /// @return info What the claim says.
    function check(ReceiptLog log, address node, uint64 size, uint64 index, LoggedClaim calldata logged)
        internal
        view
        returns (ClaimInfo memory info)
    {
        info = REFEREE.claim(logged.claim, logged.signature);
        if (info.node != node) revert WrongNode(info.node);
        bytes32 posted = log.roots(node, size);
        bytes32 found = root(leafHash(info.digest, logged.signature), index, size, logged.path);
        if (posted == bytes32(0) || posted != found) revert NotInLog();
    }
}
