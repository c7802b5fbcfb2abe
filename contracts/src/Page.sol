// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Page
/// @notice Bounds of one page of a list, so that no view can be made too expensive to call by growing the list.
library Page {
    /// @notice Most entries that one call returns; larger limits are lowered to it.
    uint256 internal constant MAX_ENTRIES = 100;

    /// @notice Half-open range [start, end) of a page.
    /// @param total Length of the list.
    /// @param offset Entries to skip; past the end gives an empty page.
    /// @param limit Entries that are wanted.
    /// @return start First position.
    /// @return end Position after the last one; at most `start + MAX_ENTRIES`.
    function bounds(uint256 total, uint256 offset, uint256 limit) internal pure returns (uint256 start, uint256 end) {
        if (limit > MAX_ENTRIES) limit = MAX_ENTRIES;
        if (offset >= total) return (total, total);
        uint256 left = total - offset;
        return (offset, offset + (limit < left ? limit : left));
    }
}
