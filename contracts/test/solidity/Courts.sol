// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {MerkleLog} from "../../src/MerkleLog.sol";
import {Sortition} from "../../src/Sortition.sol";

/// @title Harness
/// @notice Makes internal libraries callable. For tests only.
contract Harness {
    /// @notice `MerkleLog.root`.
    function root(bytes32 leaf, uint64 index, uint64 size, bytes32[] calldata path) external pure returns (bytes32) {
        return MerkleLog.root(leaf, index, size, path);
    }

    /// @notice `MerkleLog.leafHash`.
    function leafHash(bytes32 digest, bytes calldata signature) external pure returns (bytes32) {
        return MerkleLog.leafHash(digest, signature);
    }

    /// @notice How many of the tickets 0 to `tickets` - 1 an account is drawn for.
    function draws(bytes32 seed, uint256 tickets, address account, uint256 rate, uint256 stake, uint256 total)
        external
        pure
        returns (uint256 count)
    {
        for (uint256 i = 0; i < tickets; ++i) {
            if (Sortition.drawn(seed, i, account, rate, stake, total)) ++count;
        }
    }
}

/// @title Reentering
/// @notice Calls any contract, and calls again while it is being paid. For tests only.
contract Reentering {
    address private _target;
    bytes private _data;

    /// @notice Nested calls that went through.
    uint256 public nestedSuccesses;
    /// @notice Nested calls that failed.
    uint256 public nestedFailures;

    /// @notice Sets what is called while coins arrive.
    function setReentry(address target, bytes calldata data) external {
        (_target, _data) = (target, data);
    }

    /// @notice Calls a contract, with the coins of the call.
    function forward(address target, bytes calldata data) external payable returns (bytes memory) {
        (bool ok, bytes memory result) = target.call{value: msg.value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
        return result;
    }

    receive() external payable {
        if (_data.length == 0) return;
        (bool ok,) = _target.call(_data);
        if (ok) ++nestedSuccesses;
        else ++nestedFailures;
    }
}
