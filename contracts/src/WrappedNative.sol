// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";

/// @title WrappedNative
/// @notice The native coin as an ERC-20 token with permits (EIP-2612). Every token is backed by one coin held here, and
/// its holder can take the coin out at any time.
/// @dev Interface and event names are those of WETH9.
contract WrappedNative is ERC20, ERC20Permit {
    /// @notice Coins were wrapped.
    /// @param account Who sent the coins and holds the tokens.
    /// @param amount Amount in wei.
    event Deposit(address indexed account, uint256 amount);

    /// @notice Tokens were unwrapped.
    /// @param account Who held the tokens and received the coins.
    /// @param amount Amount in wei.
    event Withdrawal(address indexed account, uint256 amount);

    /// @notice Creates the token with no supply.
    constructor() ERC20("Wrapped OG", "WOG") ERC20Permit("Wrapped OG") {}

    /// @notice Wraps coins that are sent without call data.
    receive() external payable {
        deposit();
    }

    /// @notice Wraps the coins sent with the call.
    function deposit() public payable {
        _mint(msg.sender, msg.value);
        emit Deposit(msg.sender, msg.value);
    }

    /// @notice Burns the sender's tokens and sends the coins back.
    /// @param amount Amount in wei.
    function withdraw(uint256 amount) external {
        _burn(msg.sender, amount);
        emit Withdrawal(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }
}
