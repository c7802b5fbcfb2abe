// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {NodeRegistry} from "../../src/NodeRegistry.sol";
import {WrappedNative} from "../../src/WrappedNative.sol";

/// @title ReenteringNode
/// @notice A node that calls the registry again while it is being paid. For tests only.
contract ReenteringNode {
    NodeRegistry private immutable _registry;
    bytes private _reentry;

    /// @notice Error data of the nested call, when it failed.
    bytes public nestedError;
    /// @notice Nested calls that went through.
    uint256 public nestedSuccesses;

    constructor(NodeRegistry registry) payable {
        _registry = registry;
    }

    /// @notice Sets what is called while coins arrive.
    function setReentry(bytes calldata data) external {
        _reentry = data;
    }

    /// @notice Forwards a call to the registry, with coins of this contract.
    function forward(bytes calldata data, uint256 value) external {
        (bool ok, bytes memory result) = address(_registry).call{value: value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
    }

    receive() external payable {
        if (_reentry.length == 0) return;
        (bool ok, bytes memory result) = address(_registry).call(_reentry);
        if (ok) ++nestedSuccesses;
        else nestedError = result;
    }
}

/// @title ReenteringHolder
/// @notice A token holder that withdraws again while it is being paid. For tests only.
contract ReenteringHolder {
    WrappedNative private immutable _token;
    bool private _again;

    constructor(WrappedNative token) payable {
        _token = token;
        token.deposit{value: msg.value}();
    }

    /// @notice Withdraws `amount` twice, the second time from within the first.
    function attack(uint256 amount) external {
        _again = true;
        _token.withdraw(amount);
    }

    receive() external payable {
        if (!_again) return;
        _again = false;
        _token.withdraw(msg.value);
    }
}

/// @title RefusingNode
/// @notice A node that refuses coins. For tests only.
contract RefusingNode {
    /// @notice Calls a contract, with the coins of the call.
    function forward(address target, bytes calldata data) external payable {
        (bool ok, bytes memory result) = target.call{value: msg.value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(result, 32), mload(result))
            }
        }
    }
}
