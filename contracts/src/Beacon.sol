// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Beacon
/// @notice Randomness of the last 8192 blocks, for contracts that draw by lot from what comes after a commitment.
/// @dev A block's randomness is `prevrandao`: a hash of the parent's and of the proposer's BLS signature over its turn.
/// A BLS signature is unique, so the proposer cannot try several, and nobody else can compute it before the block. Who
/// proposes several blocks in a row knows all of their signatures beforehand, though: a draw from a block at a fixed
/// distance can be ground by whoever holds all turns up to it. Draws therefore use `seed`: it mixes the signatures of
/// at least f+1 different validators after the commitment, where f = (n-1)/3 of n, so at least one is honest as long as
/// the network itself is safe, and nobody knows the seed when it commits.
/// What remains is bias by silence: a proposer can give up its turn (its reward, and a missed turn in `Staking`), and
/// then somebody else's signature counts instead. A party with k turns in a row at the end chooses among k+1 outcomes
/// in this way, one for each turn that it gives up, not among arbitrarily many.
/// The blocks are divided into rounds. A round ends with the block by which f+1 different validators of one set have
/// proposed in it; its value is the randomness of that block. The seed for a block is the value of the first round that
/// begins after it.
contract Beacon {
    /// @dev Randomness and time of a block, and the round that it is in; the numbers are in one slot.
    struct Entry {
        uint64 number;
        uint64 time;
        uint64 round;
        bytes32 value;
    }

    /// @dev A round that ended: its number, its last block and its value. Two slots.
    struct Round {
        uint64 number;
        uint64 lastBlock;
        bytes32 value;
    }

    /// @dev The round that goes on; one slot.
    struct Current {
        /// @dev Its number, from 1 on.
        uint64 round;
        /// @dev First epoch of the validators who are counted.
        uint64 set;
        /// @dev Number of the count: each round, and each new set within it, begins another one.
        uint64 count;
        /// @dev Different proposers in this count.
        uint64 proposers;
    }

    /// @notice Sender of the chain's own calls.
    address public constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;
    /// @notice Blocks that are remembered.
    uint256 public constant ENTRIES = 8192;

    /// @dev Ring buffer: block n is at n modulo `ENTRIES`.
    mapping(uint256 position => Entry) private _ring;
    /// @dev Ring buffer: round n is at n modulo `ENTRIES`. There are no more rounds than blocks.
    mapping(uint256 position => Round) private _rounds;
    /// @dev The latest count in which a validator was counted.
    mapping(bytes32 proposer => uint64 count) private _countedIn;
    /// @dev The round that goes on.
    Current private _current = Current({round: 1, set: 0, count: 1, proposers: 0});
    /// @dev Hash of the genesis block; zero before block 1.
    bytes32 private _genesis;

    /// @notice Only the chain itself may call this.
    /// @param sender Who called.
    error OnlySystem(address sender);

    /// @notice The block's randomness is not known yet, was never recorded, or is overwritten.
    /// @param blockNumber The block.
    error NotRecorded(uint256 blockNumber);

    /// @notice The genesis block's hash is recorded in block 1.
    error GenesisUnknown();

    /// @notice Too few validators have proposed since the block: try again after a few more blocks.
    /// @param blockNumber The block.
    error SeedNotReady(uint256 blockNumber);

    /// @notice Records the randomness of this block. The chain calls it at the start of every block.
    /// @param proposer Who proposes this block: the key of its network connections.
    /// @param needed How many different validators a seed needs: f+1.
    /// @param set First epoch of the validators who vote for this block. When another set takes over in the middle of a
    /// round, the count begins again: otherwise who leaves and who joins could be one party that is counted twice.
    function record(bytes32 proposer, uint64 needed, uint64 set) external {
        if (msg.sender != SYSTEM) revert OnlySystem(msg.sender);
        // A contract of the genesis block cannot contain its hash.
        if (block.number == 1) _genesis = blockhash(0);
        Current memory current = _current;
        bytes32 value = bytes32(block.prevrandao);
        _ring[block.number % ENTRIES] = Entry({
            number: uint64(block.number),
            time: uint64(block.timestamp),
            round: current.round,
            value: value
        });
        unchecked {
            if (current.set != set) {
                (current.set, current.proposers) = (set, 0);
                ++current.count;
            }
            if (_countedIn[proposer] != current.count) {
                _countedIn[proposer] = current.count;
                ++current.proposers;
            }
            if (current.proposers >= needed) {
                _rounds[current.round % ENTRIES] =
                    Round({number: current.round, lastBlock: uint64(block.number), value: value});
                current.proposers = 0;
                ++current.round;
                ++current.count;
            }
        }
        _current = current;
    }

    /// @notice Hash of the genesis block: names the network in everything that is signed. Reverts before it is known, so
    /// that no signature counts until then.
    /// @return The hash.
    function genesis() external view returns (bytes32) {
        if (_genesis == bytes32(0)) revert GenesisUnknown();
        return _genesis;
    }

    /// @notice Randomness for draws about what was fixed in a block: that of at least f+1 different proposers after it.
    /// @param blockNumber The block; not block 0.
    /// @return The seed. Who draws hashes it together with what the draw is about.
    function seed(uint256 blockNumber) external view returns (bytes32) {
        Round storage round = _seedRound(blockNumber);
        if (round.lastBlock == 0) revert SeedNotReady(blockNumber);
        return round.value;
    }

    /// @notice The block from which on `seed(blockNumber)` is known: deadlines count from its time (`timeOf`).
    /// @param blockNumber The block; not block 0.
    /// @return The block; zero while the seed is not known.
    function seedBlock(uint256 blockNumber) external view returns (uint64) {
        return _seedRound(blockNumber).lastBlock;
    }

    /// @notice Randomness of a block. Draws use `seed`: this is one proposer's, who may know it long before.
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

    /// @dev The first round that begins after a block; an empty one while it has not ended. While the block is
    /// remembered its round is too, because rounds have at least one block each.
    function _seedRound(uint256 blockNumber) private view returns (Round storage round) {
        uint256 next = uint256(_entry(blockNumber).round) + 1;
        round = _rounds[next % ENTRIES];
        // An older round, or none, is there while it goes on; nothing is ever stored at the other position.
        if (round.number != next) round = _rounds[type(uint256).max];
    }
}
