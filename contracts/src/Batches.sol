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
/// @dev A batch is what one checkpoint added to a node's log. Everything in its draw is fixed before its seed is known
/// (`Beacon.seed`): the root, the stakes at the end of the block before it, and the node's rate at
/// that time. The rate is looked up in a history instead of being stored when the batch is first used, so nobody can
/// choose the moment that gives the rate it likes. Verdicts are committed before anybody reveals one, and the commitment
/// names its auditor, so that copying somebody else's is useless.
/// An auditor is drawn for the models that it registered, and a verdict names the model: what it says counts for answers of
/// that model only. Who says "withheld" saw no claim, so such a verdict is kept under the model zero.
/// Every node has an account here, filled by its settlements and by whoever wants its answers to be audited. It pays for
/// verdicts on this node and nothing else, so a node that invents receipts pays for them itself. Opening a batch sets aside
/// what its verdicts can cost; where the account has less, nobody is obliged to look.
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
        /// @dev Expected auditors of a receipt times 1e6, at first and after a fault.
        uint32 rateMax;
        /// @dev The same for a node without faults, in the limit.
        uint32 rateMin;
        /// @dev Pay for a verdict, in wei.
        uint256 fee;
        /// @dev What a missed or unfounded verdict costs, in wei.
        uint256 missPenalty;
        /// @dev What a verdict without looking costs: "right" on a wrong answer, or any on an answer of another model, in wei.
        uint256 lazySlash;
        /// @dev Time over which misses are counted, in seconds.
        uint64 periodSeconds;
        /// @dev Misses of an auditor in a period that cost nothing.
        uint32 missesFree;
        /// @dev Misses of an auditor in a period after which more cost nothing: nobody can bury an auditor in work and have
        /// its stake for it.
        uint32 missesMax;
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
        CanaryPaid,
        /// @dev Gave a verdict on an answer of another model, or on one that does not submit to audits; punished.
        Baseless
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
        /// @dev Whether drawn auditors must give verdicts: the account could pay them, and somebody opened the batch in time.
        bool duty;
        /// @dev Set aside for verdicts on this batch, in wei.
        uint128 purse;
    }

    /// @dev Opened batches of a node whose purses may have something left, oldest first.
    struct Queue {
        uint64 head;
        uint64 tail;
    }

    /// @notice Most verdicts of one auditor in one batch.
    uint256 public constant MAX_VERDICTS = 256;
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

    /// @notice See `Params`.
    uint64 public immutable BACK_SECONDS;

    /// @notice Coins for verdicts on a node, in wei.
    mapping(address node => uint256) public accounts;
    /// @notice What can be withdrawn, in wei.
    mapping(address owner => uint256) public balances;
    /// @notice Commitments of auditors; 1 after the reveal.
    mapping(address node => mapping(uint64 size => mapping(address auditor => bytes32))) public commitments;
    /// @dev Auditors that found a fault in a receipt, by `_key(model, index)`.
    mapping(address node => mapping(bytes32 key => uint256)) private _flags;
    /// @dev Batches; marks (64 of 4 bits in a word) by `_key(model, index / 64)`; receipts that somebody found right (bits) by
    /// `_key(model, index / 256)`, storage slot 5 (protocol); the number of paid ones since the last fault, by block number.
    mapping(address node => mapping(uint64 size => Batch)) private _batches;
    mapping(address node => mapping(bytes32 key => uint256)) private _right;
    mapping(address node => mapping(address auditor => mapping(bytes32 key => uint256))) private _marks;
    mapping(address node => Checkpoints.Trace208) private _ok;
    mapping(address node => Queue) private _queues;
    mapping(address node => mapping(uint64 position => uint64 size)) private _queued;

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
    /// @param models The model of each.
    /// @param paid Its fees, in wei.
    event Revealed(
        address indexed node,
        uint64 indexed size,
        address indexed auditor,
        uint64[] indices,
        uint8[] verdicts,
        bytes32[] models,
        uint256 paid
    );

    /// @notice A node was found at fault: its rate is the highest again.
    /// @param node The node.
    event Fault(address indexed node);

    /// @notice Somebody added coins to the account of a node.
    /// @param node The node.
    /// @param from Who.
    /// @param amount How much, in wei.
    event Funded(address indexed node, address indexed from, uint256 amount);

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
        if (params.backSeconds > 365 days || params.fee > type(uint96).max) revert InvalidParams();
        (RATE_MAX, RATE_MIN, FEE) = (params.rateMax, params.rateMin, params.fee);
        BACK_SECONDS = params.backSeconds;
    }

    // ---- what everybody does ----

    /// @notice Adds the coins of the call to the account of a node: they pay for verdicts on its answers, and never come back.
    /// @param node The node.
    function fundFor(address node) external payable {
        accounts[node] += msg.value;
        emit Funded(node, msg.sender, msg.value);
    }

    /// @notice Returns what is left in the purses of a node's finished batches to its account. Opening a batch does so for two.
    /// @param node The node.
    /// @param count Most batches to look at.
    function sweep(address node, uint256 count) external {
        _sweep(node, count);
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
    /// report auditors that all stayed away calls this before the time for commitments is over: later there is no duty.
    /// @param node The node.
    /// @param size Size of its log.
    function open(address node, uint64 size) external {
        _open(node, size);
    }

    // ---- what an auditor does ----

    /// @notice Commits to verdicts, once for a batch.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param hash `keccak256(abi.encode(auditor, node, size, indices, verdicts, models, salt))`.
    function commit(address node, uint64 size, bytes32 hash) external {
        Batch memory batch = _open(node, size);
        if (block.timestamp > batch.commitUntil) revert Late();
        if (commitments[node][size][msg.sender] != bytes32(0)) revert AlreadyCommitted();
        if (hash == bytes32(0) || hash == _REVEALED) revert WrongReveal();
        commitments[node][size][msg.sender] = hash;
        emit Committed(node, size, msg.sender);
    }

    /// @notice Reveals verdicts. "Right" is paid at once; a fault is paid when it is taken to a judge.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param indices Receipts for which the sender was drawn, ascending, at most `MAX_VERDICTS`.
    /// @param verdicts 0 right, 1 wrong computation, 2 wrong text, 3 withheld.
    /// @param models The model of each; where the claim is withheld, any of the sender's for which it was drawn.
    /// @param salt What made the commitment unguessable.
    function reveal(
        address node,
        uint64 size,
        uint64[] calldata indices,
        uint8[] calldata verdicts,
        bytes32[] calldata models,
        bytes32 salt
    ) external {
        Batch memory batch = _batches[node][size];
        _checkRevealTime(batch);
        if (indices.length != verdicts.length || indices.length != models.length || indices.length > MAX_VERDICTS) {
            revert BadVerdicts();
        }
        bytes32 hash = keccak256(abi.encode(msg.sender, node, size, indices, verdicts, models, salt));
        if (commitments[node][size][msg.sender] != hash) revert WrongReveal();
        commitments[node][size][msg.sender] = _REVEALED;
        _checkDrawn(batch, size, indices, models);
        (uint256 right, uint256 news) = _record(node, indices, verdicts, models);
        uint256 paid = _reward(node, size, right, news);
        emit Revealed(node, size, msg.sender, indices, verdicts, models, paid);
    }

    // ---- views ----

    /// @notice Whether an auditor is drawn for a receipt if it is of this model. Reverts while the seed is not known.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param model The model.
    /// @param auditor The auditor.
    /// @return Whether it may give a verdict; it must where the batch says `duty`.
    function drawn(address node, uint64 size, uint64 index, bytes32 model, address auditor) public view returns (bool) {
        Batch memory batch = batchOf(node, size);
        if (index < batch.first || index >= size) return false;
        (uint256 stake, uint256 total) = AUDITORS.weights(auditor, model, batch.blockNumber - 1);
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
        batch.seed = keccak256(abi.encode(BEACON.seed(blockNumber), node, size, root));
        batch.first = first;
        batch.blockNumber = blockNumber;
        batch.commitUntil = BEACON.timeOf(BEACON.seedBlock(blockNumber)) + COMMIT_SECONDS;
        batch.rate = rateAt(node, blockNumber - 1);
        // Twice what is expected, and a few: enough for nearly every draw.
        uint256 cost = FEE * (2 * (uint256(batch.rate) * (size - first) / Sortition.ONE) + 8);
        batch.purse = uint128(Math.min(cost, accounts[node]));
        batch.duty = batch.purse == cost && block.timestamp <= batch.commitUntil;
    }

    /// @notice Unix time until which a fault of a batch can be taken to a judge.
    /// @param node The node.
    /// @param size Size of its log.
    /// @return The time.
    function backUntil(address node, uint64 size) public view returns (uint64) {
        return _revealUntil(batchOf(node, size)) + BACK_SECONDS;
    }

    /// @notice Rate of a node at the end of a past block.
    /// @param node The node.
    /// @param blockNumber The block.
    /// @return Expected auditors of a receipt times 1e6.
    function rateAt(address node, uint256 blockNumber) public view returns (uint32) {
        uint256 ok = _ok[node].upperLookupRecent(uint48(blockNumber));
        return uint32(Math.max(RATE_MIN, RATE_MAX * HALVING / (HALVING + ok)));
    }

    /// @notice Receipts of a node that were found right and paid since its last fault.
    /// @param node The node.
    /// @return The number.
    function okCount(address node) external view returns (uint256) {
        return _ok[node].latest();
    }

    /// @notice What is known about an auditor and a receipt.
    /// @param node The node.
    /// @param model The model that the verdict names; zero for "withheld".
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @return The mark.
    function markOf(address node, bytes32 model, uint64 index, address auditor) public view returns (Mark) {
        return Mark((_marks[node][auditor][_key(model, index / 64)] >> (4 * (index % 64))) & 15);
    }

    /// @notice Auditors that found a fault in a receipt of a model.
    /// @param node The node.
    /// @param model The model.
    /// @param index The receipt.
    /// @return The number.
    function flags(address node, bytes32 model, uint64 index) public view returns (uint256) {
        return _flags[node][_key(model, index)];
    }

    // ---- inside ----

    /// @dev Names a receipt, or a word of receipts, of a model.
    function _key(bytes32 model, uint64 index) private pure returns (bytes32) {
        return keccak256(abi.encode(model, index));
    }

    /// @dev A batch, stored for good, with its purse.
    function _open(address node, uint64 size) internal returns (Batch memory batch) {
        if (_batches[node][size].seed != bytes32(0)) return _batches[node][size];
        _sweep(node, 2);
        batch = batchOf(node, size);
        _batches[node][size] = batch;
        accounts[node] -= batch.purse;
        _queued[node][_queues[node].tail++] = size;
        emit BatchOpened(node, size, batch.seed, batch.rate, batch.commitUntil);
    }

    /// @dev Empties purses of batches that are over, the oldest first.
    function _sweep(address node, uint256 count) private {
        Queue memory queue = _queues[node];
        uint64 head = queue.head;
        for (; count > 0 && head < queue.tail; --count) {
            Batch storage batch = _batches[node][_queued[node][head]];
            if (block.timestamp <= batch.commitUntil + REVEAL_SECONDS + BACK_SECONDS) break;
            accounts[node] += batch.purse;
            batch.purse = 0;
            ++head;
        }
        if (head != queue.head) _queues[node].head = head;
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
    function _checkDrawn(Batch memory batch, uint64 size, uint64[] calldata indices, bytes32[] calldata models)
        private
        view
    {
        (uint256 stake, uint256 total, bytes32 model) = (0, 0, bytes32(0));
        for (uint256 i = 0; i < indices.length; ++i) {
            uint64 index = indices[i];
            if (index < batch.first || index >= size || (i > 0 && index <= indices[i - 1])) revert BadIndex(index);
            if (models[i] != model) {
                model = models[i];
                (stake, total) = AUDITORS.weights(msg.sender, model, batch.blockNumber - 1);
            }
            if (!Sortition.drawn(batch.seed, index, msg.sender, batch.rate, stake, total)) revert NotDrawn(index);
        }
    }

    /// @dev Stores verdicts of the sender. A receipt counts once for the node's rate, whoever found it right.
    /// @return right How many say "right".
    /// @return news How many of these are about receipts that nobody found right before.
    function _record(address node, uint64[] calldata indices, uint8[] calldata verdicts, bytes32[] calldata models)
        private
        returns (uint256 right, uint256 news)
    {
        for (uint256 i = 0; i < indices.length; ++i) {
            if (verdicts[i] == 0) ++right;
            if (_recordOne(node, indices[i], verdicts[i], models[i])) ++news;
        }
    }

    /// @dev Pays the sender for `right` verdicts. Those that are news count for the node's rate, only as far as they were paid.
    /// @return paid What they brought, in wei.
    function _reward(address node, uint64 size, uint256 right, uint256 news) private returns (uint256 paid) {
        paid = _pay(node, size, msg.sender, right * FEE);
        if (FEE > 0) news = Math.min(news, paid / FEE);
        if (news > 0) _ok[node].push(uint48(block.number), uint208(_ok[node].latest() + news));
    }

    /// @dev Stores one verdict of the sender.
    /// @return Whether it is the first that found the receipt right.
    function _recordOne(address node, uint64 index, uint8 verdict, bytes32 model) private returns (bool) {
        if (verdict > 3) revert BadVerdicts();
        _setMark(node, verdict == 3 ? bytes32(0) : model, index, msg.sender, Mark(verdict + 1));
        if (verdict == 1 || verdict == 2) ++_flags[node][_key(model, index)];
        return verdict == 0 && _setRight(node, model, index);
    }

    /// @dev Records that somebody found a receipt right.
    /// @return Whether that is new.
    function _setRight(address node, bytes32 model, uint64 index) private returns (bool) {
        bytes32 key = _key(model, index / 256);
        uint256 bit = 1 << (index % 256);
        if (_right[node][key] & bit != 0) return false;
        _right[node][key] |= bit;
        return true;
    }

    /// @dev Replaces a mark.
    function _setMark(address node, bytes32 model, uint64 index, address auditor, Mark mark) internal {
        uint256 shift = 4 * (index % 64);
        mapping(bytes32 key => uint256) storage words = _marks[node][auditor];
        bytes32 key = _key(model, index / 64);
        words[key] = (words[key] & ~(15 << shift)) | (uint256(mark) << shift);
    }

    /// @dev Pays out of the purse of a batch, as far as it has coins.
    function _pay(address node, uint64 size, address owner, uint256 amount) internal returns (uint256 paid) {
        Batch storage batch = _batches[node][size];
        paid = Math.min(batch.purse, amount);
        if (paid == 0) return 0;
        batch.purse -= uint128(paid);
        balances[owner] += paid;
    }

    /// @dev Sets the rate of a node to the highest.
    function _fault(address node) internal {
        _ok[node].push(uint48(block.number), 0);
        emit Fault(node);
    }
}
