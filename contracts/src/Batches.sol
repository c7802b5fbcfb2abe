// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Auditors} from "./Auditors.sol";
import {Beacon} from "./Beacon.sol";
import {ReceiptLog} from "./ReceiptLog.sol";
import {Sortition} from "./Sortition.sol";

/// @title Batches
/// @notice Draws auditors for the receipts that a node posts, and collects their verdicts.
/// @dev A batch is what one checkpoint added to a node's log. Everything in its draw is fixed before the randomness of
/// the second block after it is known: the root, the stakes at the end of the block before it, and the node's rate at
/// that time. The rate is looked up in a history instead of being stored when the batch is first used, so nobody can
/// choose the moment that gives the rate it likes. Verdicts are committed before anybody reveals one, and the commitment
/// names its auditor, so that copying somebody else's is useless.
abstract contract Batches is ReentrancyGuardTransient {
    using Checkpoints for Checkpoints.Trace208;

    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Time after the seed's block in which auditors commit, in seconds.
        uint64 commitSeconds;
        /// @dev Time after that in which they reveal, in seconds.
        uint64 revealSeconds;
        /// @dev Time after that in which who found a fault takes it to a judge, and a node opens its canaries, in seconds.
        uint64 backSeconds;
        /// @dev Time after which an unopened canary is lost, and the bond of an opened one that nobody found comes back, in
        /// seconds. Longer than the time for disputes and their games.
        uint64 canarySeconds;
        /// @dev Expected auditors of a receipt times 1e6, at first and after a fault.
        uint32 rateMax;
        /// @dev The same for a node without faults, in the limit.
        uint32 rateMin;
        /// @dev Pay for a verdict, in wei.
        uint256 fee;
        /// @dev What a missed or unfounded verdict costs, in wei.
        uint256 missPenalty;
        /// @dev What "right" on a wrong answer costs, in wei.
        uint256 lazySlash;
        /// @dev Bond of a canary, in wei; more than one answer can earn.
        uint256 canaryBond;
        /// @dev Most canaries of a node that are planted and not opened.
        uint256 maxCanaries;
    }

    /// @notice What is known about a receipt's auditor: its verdict and what came of it.
    enum Mark {
        None,
        /// @dev Revealed 0.
        Right,
        /// @dev Revealed 1: the computation is wrong.
        WrongComputation,
        /// @dev Revealed 2: prompt, rendering, count or price does not follow from the request.
        WrongText,
        /// @dev Revealed 3: the node did not show the request or answer.
        Withheld,
        /// @dev Drawn, not revealed, punished.
        Missed,
        /// @dev Found a fault and took it to a judge.
        Backed,
        /// @dev Said "right" on a wrong answer, punished or accused.
        Lazy,
        /// @dev Found a fault but took it to no judge, punished.
        Unfounded,
        /// @dev Found a canary, paid.
        CanaryPaid
    }

    /// @notice A batch whose seed is known.
    struct Batch {
        /// @dev Randomness of the draw.
        bytes32 seed;
        /// @dev Index of its first receipt.
        uint64 first;
        /// @dev Block in which it was posted.
        uint64 blockNumber;
        /// @dev Unix time until which auditors commit.
        uint64 commitUntil;
        /// @dev Expected auditors of a receipt times 1e6.
        uint32 rate;
    }

    /// @notice Most verdicts of one auditor in one batch.
    uint256 public constant MAX_VERDICTS = 256;
    /// @notice Blocks between a batch and its randomness.
    uint64 public constant SEED_DELAY = 2;
    /// @notice Receipts without fault that halve the rate.
    uint256 public constant HALVING = 32;
    /// @dev Stands for a commitment that was revealed.
    bytes32 internal constant _REVEALED = bytes32(uint256(1));

    /// @notice Where nodes post their logs.
    ReceiptLog public immutable LOG;
    /// @notice Randomness.
    Beacon public immutable BEACON;
    /// @notice Stakes of auditors.
    Auditors public immutable AUDITORS;
    /// @notice See `Params`.
    uint64 public immutable COMMIT_SECONDS;
    /// @notice See `Params`.
    uint64 public immutable REVEAL_SECONDS;
    /// @notice See `Params`.
    uint32 public immutable RATE_MAX;
    /// @notice See `Params`.
    uint32 public immutable RATE_MIN;
    /// @notice See `Params`.
    uint256 public immutable FEE;

    /// @notice Coins for fees, in wei.
    uint256 public pool;
    /// @notice What can be withdrawn, in wei.
    mapping(address owner => uint256) public balances;
    /// @notice Commitments of auditors; 1 after the reveal.
    mapping(address node => mapping(uint64 size => mapping(address auditor => bytes32))) public commitments;
    /// @notice Auditors that found a fault in a receipt.
    mapping(address node => mapping(uint64 index => uint256)) public flags;
    /// @dev Batches, marks (64 of 4 bits in a word), receipts that somebody found right (bits), and the number of these
    /// since the last fault, by block number.
    mapping(address node => mapping(uint64 size => Batch)) private _batches;
    mapping(address node => mapping(address auditor => mapping(uint256 word => uint256))) private _marks;
    mapping(address node => mapping(uint256 word => uint256)) private _right;
    mapping(address node => Checkpoints.Trace208) private _ok;

    /// @notice The seed of a batch is known.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param seed Randomness of the draw.
    /// @param rate Expected auditors of a receipt times 1e6.
    /// @param commitUntil Unix time until which auditors commit.
    event BatchOpened(address indexed node, uint64 indexed size, bytes32 seed, uint32 rate, uint64 commitUntil);

    /// @notice An auditor committed.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param auditor The auditor.
    event Committed(address indexed node, uint64 indexed size, address indexed auditor);

    /// @notice An auditor revealed its verdicts.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param auditor The auditor.
    /// @param indices Receipts.
    /// @param verdicts 0 right, 1 wrong computation, 2 wrong text, 3 withheld.
    /// @param paid Its fees, in wei.
    event Revealed(
        address indexed node,
        uint64 indexed size,
        address indexed auditor,
        uint64[] indices,
        uint8[] verdicts,
        uint256 paid
    );

    /// @notice A node was found at fault: its rate is the highest again.
    /// @param node The node.
    event Fault(address indexed node);

    /// @notice Somebody added coins to the pool.
    /// @param from Who.
    /// @param amount How much, in wei.
    event Funded(address indexed from, uint256 amount);

    /// @notice Somebody withdrew.
    /// @param owner Who.
    /// @param amount How much, in wei.
    event Withdrawn(address indexed owner, uint256 amount);

    /// @notice The constructor was given useless rules.
    error InvalidParams();
    /// @notice The node posted no log of this size.
    error NotPosted();
    /// @notice The time for this is over.
    error Late();
    /// @notice It is too early for this.
    /// @param time Unix time after which it works.
    error TooEarly(uint64 time);
    /// @notice The sender committed before.
    error AlreadyCommitted();
    /// @notice The sender had no stake when the batch was posted.
    error NoStake();
    /// @notice This is not what was committed, or it was revealed before.
    error WrongReveal();
    /// @notice Too many verdicts, not one for each index, or no such verdict.
    error BadVerdicts();
    /// @notice The indices do not ascend, or one is not in the batch.
    /// @param index The index.
    error BadIndex(uint64 index);
    /// @notice The auditor was not drawn for this receipt.
    /// @param index The receipt.
    error NotDrawn(uint64 index);
    /// @notice The sender has nothing to withdraw.
    error NothingToWithdraw();

    /// @dev Stores what is needed here.
    constructor(ReceiptLog log, Beacon beacon, Auditors auditors, Params memory params) {
        if (params.commitSeconds == 0 || params.commitSeconds > 30 days) revert InvalidParams();
        if (params.revealSeconds == 0 || params.revealSeconds > 30 days) revert InvalidParams();
        if (params.rateMax > Sortition.MAX_RATE || params.rateMin > params.rateMax) revert InvalidParams();
        (LOG, BEACON, AUDITORS) = (log, beacon, auditors);
        (COMMIT_SECONDS, REVEAL_SECONDS) = (params.commitSeconds, params.revealSeconds);
        (RATE_MAX, RATE_MIN, FEE) = (params.rateMax, params.rateMin, params.fee);
    }

    // ---- what everybody does ----

    /// @notice Adds the coins of the call to the pool.
    function fund() external payable {
        pool += msg.value;
        emit Funded(msg.sender, msg.value);
    }

    /// @notice Pays what the sender is owed.
    function withdraw() external nonReentrant {
        uint256 amount = balances[msg.sender];
        if (amount == 0) revert NothingToWithdraw();
        balances[msg.sender] = 0;
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    /// @notice Stores the seed of a batch, as long as the beacon has it. The first commitment does so too; who wants to
    /// report auditors that all stayed away calls this in time.
    /// @param node The node.
    /// @param size Size of its log.
    function open(address node, uint64 size) external {
        _open(node, size);
    }

    // ---- what an auditor does ----

    /// @notice Commits to verdicts, once for a batch.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param hash `keccak256(abi.encode(auditor, node, size, indices, verdicts, salt))`.
    function commit(address node, uint64 size, bytes32 hash) external {
        Batch memory batch = _open(node, size);
        if (block.timestamp > batch.commitUntil) revert Late();
        if (commitments[node][size][msg.sender] != bytes32(0)) revert AlreadyCommitted();
        (uint256 stake,) = AUDITORS.weights(msg.sender, batch.blockNumber - 1);
        if (stake == 0) revert NoStake();
        if (hash == bytes32(0) || hash == _REVEALED) revert WrongReveal();
        commitments[node][size][msg.sender] = hash;
        emit Committed(node, size, msg.sender);
    }

    /// @notice Reveals verdicts. "Right" is paid at once; a fault is paid when it is taken to a judge.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param indices Receipts for which the sender was drawn, ascending, at most `MAX_VERDICTS`.
    /// @param verdicts 0 right, 1 wrong computation, 2 wrong text, 3 withheld.
    /// @param salt What made the commitment unguessable.
    function reveal(address node, uint64 size, uint64[] calldata indices, uint8[] calldata verdicts, bytes32 salt)
        external
    {
        Batch memory batch = _batches[node][size];
        _checkRevealTime(batch);
        if (indices.length != verdicts.length || indices.length > MAX_VERDICTS) revert BadVerdicts();
        bytes32 hash = keccak256(abi.encode(msg.sender, node, size, indices, verdicts, salt));
        if (commitments[node][size][msg.sender] != hash) revert WrongReveal();
        commitments[node][size][msg.sender] = _REVEALED;
        _checkDrawn(batch, size, indices);
        uint256 right = _record(node, indices, verdicts);
        uint256 paid = _pay(msg.sender, right * FEE);
        emit Revealed(node, size, msg.sender, indices, verdicts, paid);
    }

    // ---- views ----

    /// @notice Whether an auditor is drawn for a receipt. Reverts while the seed is not known.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @return Whether it must give a verdict.
    function drawn(address node, uint64 size, uint64 index, address auditor) public view returns (bool) {
        Batch memory batch = batchOf(node, size);
        if (index < batch.first || index >= size) return false;
        (uint256 stake, uint256 total) = AUDITORS.weights(auditor, batch.blockNumber - 1);
        return Sortition.drawn(batch.seed, index, auditor, batch.rate, stake, total);
    }

    /// @notice A batch. Reverts while its seed is not known, and when it was forgotten before anybody opened the batch.
    /// @param node The node.
    /// @param size Size of its log.
    /// @return batch The batch.
    function batchOf(address node, uint64 size) public view returns (Batch memory batch) {
        batch = _batches[node][size];
        if (batch.seed != bytes32(0)) return batch;
        (bytes32 root, uint64 blockNumber, uint64 first) = LOG.batch(node, size);
        if (root == bytes32(0)) revert NotPosted();
        uint64 seedBlock = blockNumber + SEED_DELAY;
        batch.seed = keccak256(abi.encode(BEACON.randomness(seedBlock), node, size, root));
        batch.first = first;
        batch.blockNumber = blockNumber;
        batch.commitUntil = BEACON.timeOf(seedBlock) + COMMIT_SECONDS;
        batch.rate = rateAt(node, blockNumber - 1);
    }

    /// @notice Rate of a node at the end of a past block.
    /// @param node The node.
    /// @param blockNumber The block.
    /// @return Expected auditors of a receipt times 1e6.
    function rateAt(address node, uint256 blockNumber) public view returns (uint32) {
        uint256 ok = _ok[node].upperLookupRecent(uint48(blockNumber));
        return uint32(Math.max(RATE_MIN, RATE_MAX * HALVING / (HALVING + ok)));
    }

    /// @notice Receipts of a node that were found right since its last fault.
    /// @param node The node.
    /// @return The number.
    function okCount(address node) external view returns (uint256) {
        return _ok[node].latest();
    }

    /// @notice What is known about an auditor and a receipt.
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @return The mark.
    function markOf(address node, uint64 index, address auditor) public view returns (Mark) {
        return Mark((_marks[node][auditor][index / 64] >> (4 * (index % 64))) & 15);
    }

    // ---- inside ----

    /// @dev A batch, stored for good.
    function _open(address node, uint64 size) internal returns (Batch memory batch) {
        batch = batchOf(node, size);
        if (_batches[node][size].seed != bytes32(0)) return batch;
        _batches[node][size] = batch;
        emit BatchOpened(node, size, batch.seed, batch.rate, batch.commitUntil);
    }

    /// @dev Unix time until which auditors reveal.
    function _revealUntil(Batch memory batch) internal view returns (uint64) {
        return batch.commitUntil + REVEAL_SECONDS;
    }

    /// @dev Reverts unless a batch is open and in its time for reveals.
    function _checkRevealTime(Batch memory batch) private view {
        if (batch.seed == bytes32(0)) revert NotPosted();
        if (block.timestamp <= batch.commitUntil) revert TooEarly(batch.commitUntil);
        if (block.timestamp > _revealUntil(batch)) revert Late();
    }

    /// @dev Reverts unless the indices ascend, are in the batch, and the sender was drawn for all.
    function _checkDrawn(Batch memory batch, uint64 size, uint64[] calldata indices) private view {
        (uint256 stake, uint256 total) = AUDITORS.weights(msg.sender, batch.blockNumber - 1);
        for (uint256 i = 0; i < indices.length; ++i) {
            uint64 index = indices[i];
            if (index < batch.first || index >= size || (i > 0 && index <= indices[i - 1])) revert BadIndex(index);
            if (!Sortition.drawn(batch.seed, index, msg.sender, batch.rate, stake, total)) revert NotDrawn(index);
        }
    }

    /// @dev Stores verdicts of the sender. A receipt counts once for the node's rate, whoever found it right.
    /// @return right How many say "right".
    function _record(address node, uint64[] calldata indices, uint8[] calldata verdicts)
        private
        returns (uint256 right)
    {
        uint208 news = 0;
        for (uint256 i = 0; i < indices.length; ++i) {
            uint64 index = indices[i];
            if (verdicts[i] > 3) revert BadVerdicts();
            _setMark(node, index, msg.sender, Mark(verdicts[i] + 1));
            if (verdicts[i] != 0) {
                ++flags[node][index];
                continue;
            }
            ++right;
            uint256 bit = 1 << (index % 256);
            if (_right[node][index / 256] & bit != 0) continue;
            _right[node][index / 256] |= bit;
            ++news;
        }
        if (news > 0) _ok[node].push(uint48(block.number), _ok[node].latest() + news);
    }

    /// @dev Replaces a mark.
    function _setMark(address node, uint64 index, address auditor, Mark mark) internal {
        uint256 shift = 4 * (index % 64);
        mapping(uint256 word => uint256) storage words = _marks[node][auditor];
        words[index / 64] = (words[index / 64] & ~(15 << shift)) | (uint256(mark) << shift);
    }

    /// @dev Pays out of the pool, as far as it has coins.
    function _pay(address owner, uint256 amount) internal returns (uint256 paid) {
        paid = Math.min(pool, amount);
        if (paid == 0) return 0;
        pool -= paid;
        balances[owner] += paid;
    }

    /// @dev Sets the rate of a node to the highest.
    function _fault(address node) internal {
        _ok[node].push(uint48(block.number), 0);
        emit Fault(node);
    }
}
