// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Sortition
/// @notice Draws by lot, in constant time and without a list: everybody computes alone whether an account is drawn.
library Sortition {
    /// @notice What a rate of one expected draw is.
    uint256 internal constant ONE = 1e6;
    /// @notice Highest rate, so that the products below fit into 256 bits.
    uint256 internal constant MAX_RATE = 1e9;

    /// @notice Whether an account is drawn: with probability rate * stake / total, at most 1.
    /// @dev Below 1, the expected number of draws is linear in the stake, so splitting it gains nothing. Where
    /// rate * stake is above total, one account is drawn once, but its parts can be drawn several times.
    /// @param seed Randomness that nobody knew when stakes were fixed.
    /// @param ticket What is drawn for.
    /// @param account Who may be drawn.
    /// @param rate Expected number of draws for this ticket, times `ONE`; at most `MAX_RATE`.
    /// @param stake The account's stake, below 2^128.
    /// @param total All stakes, below 2^128.
    /// @return Whether it is drawn.
    function drawn(bytes32 seed, uint256 ticket, address account, uint256 rate, uint256 stake, uint256 total)
        internal
        pure
        returns (bool)
    {
        uint256 lot = uint64(uint256(keccak256(abi.encode(seed, ticket, account))));
        return lot * total * ONE < (rate * stake) << 64;
    }
}
