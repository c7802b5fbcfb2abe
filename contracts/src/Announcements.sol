// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Announcements
/// @notice Who knows something that earns a bounty says so in two steps: first only a hash, which hides what it is about
/// and names its sender, and in a later block the thing itself. Who sees the second step before it is in a block cannot
/// get ahead of it, because nobody else has announced it.
abstract contract Announcements {
    /// @dev When a hash was announced.
    struct Announcement {
        uint64 blockNumber;
        uint64 time;
    }

    /// @dev What is stored, apart from the slots of the contract that inherits (ERC-7201), so that those do not move.
    /// @custom:storage-location erc7201:og.storage.Announcements
    struct Stored {
        /// @dev Announcements by sender.
        mapping(address sender => mapping(bytes32 hash => Announcement)) made;
    }

    /// @dev `erc7201("og.storage.Announcements")`.
    bytes32 private constant _STORED =
        keccak256(abi.encode(uint256(keccak256("og.storage.Announcements")) - 1)) & ~bytes32(uint256(0xff));

    /// @notice Time for which an announcement is good, in seconds.
    uint64 public immutable OPEN_SECONDS;

    /// @notice Something was announced.
    /// @param sender Who announced it.
    /// @param hash What `announcementOf` gives for it.
    event Announced(address indexed sender, bytes32 hash);

    /// @notice The sender did not announce this in an earlier block, or so long ago that it must announce it again.
    error NotAnnounced();

    /// @dev Stores how long announcements are good.
    constructor(uint64 openSeconds) {
        OPEN_SECONDS = openSeconds;
    }

    /// @notice Announces what the sender is going to open or report.
    /// @param hash `announcementOf(sender, subject, salt)`; `subject` says what it is about.
    function announce(bytes32 hash) external {
        _stored().made[msg.sender][hash] =
            Announcement({blockNumber: uint64(block.number), time: uint64(block.timestamp)});
        emit Announced(msg.sender, hash);
    }

    /// @notice What to announce. The salt must be random: without one, everybody could try all subjects.
    /// @param sender Who is going to open or report.
    /// @param subject Of `disputeSubject`, `equivocationSubject` or `forkSubject`.
    /// @param salt A random word.
    /// @return The hash.
    function announcementOf(address sender, bytes32 subject, bytes32 salt) public pure returns (bytes32) {
        return keccak256(abi.encode(sender, subject, salt));
    }

    /// @dev Uses up an announcement of the sender.
    /// @return time When it was made, in Unix time.
    function _announced(bytes32 subject, bytes32 salt) internal returns (uint64 time) {
        bytes32 hash = announcementOf(msg.sender, subject, salt);
        Announcement memory made = _stored().made[msg.sender][hash];
        bool early = made.time == 0 || made.blockNumber == block.number;
        if (early || block.timestamp > made.time + OPEN_SECONDS) revert NotAnnounced();
        delete _stored().made[msg.sender][hash];
        return made.time;
    }

    /// @dev Where announcements are.
    function _stored() private pure returns (Stored storage stored) {
        bytes32 slot = _STORED;
        assembly ("memory-safe") {
            stored.slot := slot
        }
    }
}
