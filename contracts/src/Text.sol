// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Text
/// @notice Checks on the texts that registries store, because wallets, explorers and logs print them.
library Text {
    /// @notice The text is longer than the contract stores.
    /// @param length Length in bytes.
    /// @param maximum Longest text that is accepted, in bytes.
    error TextTooLong(uint256 length, uint256 maximum);

    /// @notice The text has a byte that does not belong into a URL; use printable ASCII without spaces and
    /// percent-encode the rest (RFC 3986).
    /// @param position Position of the first such byte.
    error TextNotPrintable(uint256 position);

    /// @notice Reverts unless `text` is at most `maximum` bytes of printable ASCII (0x21 to 0x7e).
    /// @param text The text to check.
    /// @param maximum Longest text that is accepted, in bytes.
    function check(string calldata text, uint256 maximum) internal pure {
        bytes calldata raw = bytes(text);
        if (raw.length > maximum) revert TextTooLong(raw.length, maximum);
        for (uint256 i = 0; i < raw.length; ++i) {
            if (raw[i] < 0x21 || raw[i] > 0x7e) revert TextNotPrintable(i);
        }
    }
}
