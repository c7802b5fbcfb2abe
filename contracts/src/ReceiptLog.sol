// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {NodeRegistry} from "./NodeRegistry.sol";

/// @title ReceiptLog
/// @notice Roots of the nodes' append-only logs of receipts. Every node has one log, named by its address. A root that
/// was posted is never changed, and every root is posted on top of the latest one, so a node cannot show different
/// logs to different people: the ledger has at most one root for each size.
/// @dev Light clients prove `roots` with `eth_getProof`, so its storage slot is part of the protocol and must stay 0:
/// `roots[node][size]` is at `keccak256(abi.encode(size, keccak256(abi.encode(node, uint256(0)))))`.
/// Whether a larger log extends the smaller one is proved off chain, with a Merkle consistency proof (RFC 9162, 2.1.4).
contract ReceiptLog {
    /// @dev The latest checkpoint of a log: its size, and the number of the block that has it.
    struct Head {
        uint64 size;
        uint64 blockNumber;
    }

    /// @dev When a checkpoint was posted, and on top of which size.
    struct Posted {
        uint64 blockNumber;
        uint64 previousSize;
        uint64 time;
    }

    /// @notice Most receipts that one checkpoint adds: as many as one auditor can judge with one commitment, so that nobody
    /// can be given more to do than can be done. A node with more receipts posts several checkpoints.
    uint64 public constant MAX_BATCH = 256;

    /// @notice Merkle root of a node's log at a size, or zero when none was posted. Storage slot 0 (protocol).
    mapping(address node => mapping(uint64 size => bytes32 root)) public roots;

    /// @dev Latest checkpoint of every log.
    mapping(address node => Head) private _heads;

    /// @dev Block, previous size and Unix time of every checkpoint. Storage slot 2 (protocol): the block's number in the lowest 64
    /// bits, then the previous size, then the time.
    mapping(address node => mapping(uint64 size => Posted)) private _posted;

    /// @notice The registry that says who is an active node.
    NodeRegistry public immutable NODES;

    /// @notice A node posted the root of its log.
    /// @param node The node; also the name of the log.
    /// @param size Number of receipts under the root.
    /// @param root Merkle root (RFC 9162).
    /// @param blockNumber Number of the block that has the transaction.
    event CheckpointPosted(address indexed node, uint64 indexed size, bytes32 root, uint64 blockNumber);

    /// @notice The sender is not an active node: register and stake first.
    /// @param sender Who called.
    error NotActiveNode(address sender);

    /// @notice `oldSize` is not the size of the latest checkpoint: read `latest` and try again.
    /// @param given Size in the call.
    /// @param current Size of the latest checkpoint.
    error WrongOldSize(uint64 given, uint64 current);

    /// @notice The new size is not larger than the old one.
    /// @param oldSize Size of the latest checkpoint.
    /// @param newSize Size in the call.
    error SizeNotIncreased(uint64 oldSize, uint64 newSize);

    /// @notice The checkpoint adds more than `MAX_BATCH` receipts: post a smaller one first.
    /// @param count How many it adds.
    error BatchTooLarge(uint64 count);

    /// @notice The zero root means "not posted" and cannot be posted.
    error ZeroRoot();

    /// @notice Creates an empty ledger of logs.
    /// @param nodes The registry that says who is an active node.
    constructor(NodeRegistry nodes) {
        NODES = nodes;
    }

    /// @notice Posts the root of the sender's log. Only an active node may.
    /// @param oldSize Size of the latest checkpoint, 0 for the first one. Makes replays and races fail.
    /// @param newSize Number of receipts in the log now; larger than `oldSize`, by at most `MAX_BATCH`.
    /// @param root Merkle root of the log at `newSize`, not zero.
    function append(uint64 oldSize, uint64 newSize, bytes32 root) external {
        if (!NODES.isActive(msg.sender)) revert NotActiveNode(msg.sender);
        uint64 current = _heads[msg.sender].size;
        if (oldSize != current) revert WrongOldSize(oldSize, current);
        if (newSize <= oldSize) revert SizeNotIncreased(oldSize, newSize);
        if (newSize - oldSize > MAX_BATCH) revert BatchTooLarge(newSize - oldSize);
        if (root == bytes32(0)) revert ZeroRoot();

        uint64 blockNumber = uint64(block.number);
        roots[msg.sender][newSize] = root;
        _heads[msg.sender] = Head({size: newSize, blockNumber: blockNumber});
        _posted[msg.sender][newSize] = Posted({blockNumber: blockNumber, previousSize: oldSize, time: uint64(block.timestamp)});
        emit CheckpointPosted(msg.sender, newSize, root, blockNumber);
    }

    /// @notice The latest checkpoint of a node's log; all zero when it has none.
    /// @param node The node.
    /// @return size Number of receipts under the root.
    /// @return root The root.
    /// @return blockNumber Number of the block that has the checkpoint.
    function latest(address node) external view returns (uint64 size, bytes32 root, uint64 blockNumber) {
        Head memory head = _heads[node];
        return (head.size, roots[node][head.size], head.blockNumber);
    }

    /// @notice Number of the block that has a checkpoint; zero when it was not posted.
    /// @param node The node.
    /// @param size Size of the log.
    /// @return The block's number.
    function blockOf(address node, uint64 size) external view returns (uint64) {
        return _posted[node][size].blockNumber;
    }

    /// @notice Unix time at which a checkpoint was posted; zero when it was not.
    /// @param node The node.
    /// @param size Size of the log.
    /// @return The time.
    function timeOf(address node, uint64 size) external view returns (uint64) {
        return _posted[node][size].time;
    }

    /// @notice What a checkpoint added: the receipts with indices in [previousSize, size). All zero when not posted.
    /// @param node The node.
    /// @param size Size of the log.
    /// @return root The root.
    /// @return blockNumber Number of the block that has the checkpoint.
    /// @return previousSize Size of the checkpoint before.
    function batch(address node, uint64 size)
        external
        view
        returns (bytes32 root, uint64 blockNumber, uint64 previousSize)
    {
        Posted memory posted = _posted[node][size];
        return (roots[node][size], posted.blockNumber, posted.previousSize);
    }
}
