// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Beacon
/// @notice Randomness of the last 8192 blocks, for contracts that draw by lot from a block after a commitment.
/// @dev A block's randomness is `prevrandao`: a hash of the parent's and of the proposer's BLS signature over its turn.
/// A BLS signature is unique, so the proposer cannot try several, and nobody else can compute it before the block.
/// Whoever commits in block B and draws from block B+2 therefore does not know the draw, unless one party proposes B,
/// B+1 and B+2: it then knows all three signatures beforehand and can grind what it commits. A proposer also has one
/// bit: it can give up its turn (its reward, and a missed turn in `Staking`), and the next proposer's signature counts
/// instead. A party with k turns in a row chooses among k+1 outcomes in this way, not among arbitrarily many.
contract Beacon {
    /// @dev Randomness and time of a block; both numbers are in one slot.
    struct Entry {
        uint64 number;
        uint64 time;
        bytes32 value;
    }

    /// @notice Sender of the chain's own calls.
    address public constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;
    /// @notice Blocks that are remembered.
    uint256 public constant ENTRIES = 8192;

    /// @dev Ring buffer: block n is at n modulo `ENTRIES`.
    mapping(uint256 position => Entry) private _ring;

    /// @notice Only the chain itself may call this.
    /// @param sender Who called.
    error OnlySystem(address sender);

    /// @notice The block's randomness is not known yet, was never recorded, or is overwritten.
    /// @param blockNumber The block.
    error NotRecorded(uint256 blockNumber);

    /// @notice Records the randomness of this block. The chain calls it at the start of every block.
    function record() external {
        if (msg.sender != SYSTEM) revert OnlySystem(msg.sender);
        _ring[block.number % ENTRIES] =
            Entry({number: uint64(block.number), time: uint64(block.timestamp), value: bytes32(block.prevrandao)});
    }

    /// @notice Randomness of a block.
    /// @param blockNumber The block; not block 0, which has none.
    /// @return The randomness.
    function randomness(uint256 blockNumber) external view returns (bytes32) {
        return _entry(blockNumber).value;
    }

    /// @notice Time of a block whose randomness is recorded.
    /// @param blockNumber The block.
    /// @return Unix time in seconds.
    function timeOf(uint256 blockNumber) external view returns (uint64) {
        return _entry(blockNumber).time;
    }

    /// @dev The entry of a block; reverts when there is none.
    function _entry(uint256 blockNumber) private view returns (Entry storage entry) {
        entry = _ring[blockNumber % ENTRIES];
        if (blockNumber == 0 || entry.number != blockNumber) revert NotRecorded(blockNumber);
    }
}
