// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title History
/// @notice A Merkle accumulator of the hashes of all blocks. Whoever trusts one final block can check any older block
/// against it with a path of hashes, however often the validators changed in between, and without their keys.
/// @dev A Merkle mountain range. Leaf i is block i; after block n the range has the n leaves 0 to n - 1. The set bits of n,
/// highest first, are the heights of its mountains: perfect binary trees over consecutive leaves. `peaks[h]` is the root
/// of the mountain of height h when bit h of n is set; other entries are left over from before and mean nothing.
/// leaf = keccak256(0x00 ‖ hash of the block), parent = keccak256(0x01 ‖ left ‖ right): a leaf is never taken for a parent.
/// Light clients prove `peaks` with `eth_getProof`, so its storage slot is part of the protocol and must stay 1.
contract History {
    /// @notice Sender of the chain's own calls.
    address public constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;

    /// @notice Number of block hashes in the range. Storage slot 0.
    uint256 public size;

    /// @notice Roots of the mountains by height. Storage slot 1 (protocol).
    mapping(uint256 height => bytes32 root) public peaks;

    /// @notice Only the chain itself may call this.
    /// @param sender Who called.
    error OnlySystem(address sender);

    /// @notice Adds the parent's hash. The chain calls it at the start of every block.
    /// @param parentHash Hash of the block before this one.
    function record(bytes32 parentHash) external {
        if (msg.sender != SYSTEM) revert OnlySystem(msg.sender);
        bytes32 root = keccak256(abi.encodePacked(uint8(0), parentHash));
        uint256 count = size;
        uint256 height = 0;
        while ((count >> height) & 1 == 1) {
            root = keccak256(abi.encodePacked(uint8(1), peaks[height], root));
            ++height;
        }
        peaks[height] = root;
        size = count + 1;
    }
}
