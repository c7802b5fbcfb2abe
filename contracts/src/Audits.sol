// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Auditors} from "./Auditors.sol";
import {Batches} from "./Batches.sol";
import {Beacon} from "./Beacon.sol";
import {Disputes} from "./Disputes.sol";
import {ClaimInfo} from "./IReferee.sol";
import {LoggedClaim, MerkleLog} from "./MerkleLog.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Audits
/// @notice Makes auditors look: who was drawn and stays away, calls a wrong answer right, or cries wolf, loses stake. Nodes
/// may plant canaries, answers that are wrong on purpose, to find out who does not look.
/// @dev A fault that an auditor reports must go to a judge in `BACK_SECONDS`: to `Disputes` (verdict 1) or to the jury
/// (2 and 3). Otherwise "wrong" for everything would be a way to earn canaries without looking.
/// A canary costs its bond when it is found, and the bond is more than an answer can earn, so it is no shield: a node that
/// cheats a client behind a canary loses the bond to who disputes, and the price to the client. It proves nothing about
/// an answer that a node calls it a canary; so an auditor that said "right" loses stake only when the node wins a game
/// against it (`Disputes.accuse`), in which it can defend the answer.
contract Audits is Batches {
    /// @notice Number of the rung `audited` in claims.
    uint8 public constant AUDITED = 4;

    /// @notice An opened canary.
    struct Canary {
        /// @dev Its bond, in wei.
        uint128 bond;
        /// @dev What is left of it.
        uint128 left;
        /// @dev What the node got from auditors that passed it, in wei; at most the bond.
        uint128 earned;
        /// @dev Index of the receipt.
        uint64 index;
        /// @dev Size of the log of its batch.
        uint64 size;
    }

    /// @notice Judge of computations.
    Disputes public immutable DISPUTES;
    /// @notice Judge of texts.
    address public immutable JURY;
    /// @notice See `Params`.
    uint64 public immutable BACK_SECONDS;
    /// @notice See `Params`.
    uint64 public immutable CANARY_SECONDS;
    /// @notice See `Params`.
    uint256 public immutable MISS_PENALTY;
    /// @notice See `Params`.
    uint256 public immutable LAZY_SLASH;
    /// @notice See `Params`.
    uint256 public immutable CANARY_BOND;
    /// @notice See `Params`.
    uint256 public immutable MAX_CANARIES;

    /// @notice Block and time in which a canary was planted; zero when it is not, or not any more.
    mapping(address node => mapping(bytes32 commitment => uint128 blockAndTime)) public planted;
    /// @notice Canaries of a node that are planted and not opened.
    mapping(address node => uint256) public plantedCount;
    /// @dev Opened canaries by receipt id, and their receipt ids by index.
    mapping(address node => mapping(bytes32 receiptId => Canary)) private _canaries;
    mapping(address node => mapping(uint64 index => bytes32 receiptId)) private _canaryAt;

    /// @notice An auditor lost stake.
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param why `Mark.Missed`, `Mark.Unfounded` or `Mark.Lazy`.
    /// @param amount What it lost, in wei.
    event Penalised(address indexed node, uint64 indexed index, address indexed auditor, Mark why, uint256 amount);

    /// @notice An auditor took a fault to a judge.
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    event Backed(address indexed node, uint64 indexed index, address indexed auditor);

    /// @notice A node planted a canary.
    /// @param node The node.
    /// @param commitment Hash of node, index and salt.
    event CanaryPlanted(address indexed node, bytes32 commitment);

    /// @notice A node opened a canary.
    /// @param node The node.
    /// @param index The receipt.
    /// @param receiptId Its id.
    event CanaryOpened(address indexed node, uint64 indexed index, bytes32 receiptId);

    /// @notice A canary is over, or a part of its bond was paid.
    /// @param node The node.
    /// @param index The receipt.
    /// @param to Who got it; this contract for the pool.
    /// @param amount How much, in wei.
    event CanaryPaidOut(address indexed node, uint64 indexed index, address indexed to, uint256 amount);

    /// @notice Coins come with a function, or from the stakes of auditors.
    error UnexpectedCoins();
    /// @notice Only a judge may call this.
    /// @param sender Who called.
    error OnlyJudge(address sender);
    /// @notice The auditor's verdict is another one, or was settled before.
    /// @param mark What is recorded.
    error WrongMark(Mark mark);
    /// @notice No judge was asked by this auditor.
    error NotDisputed();
    /// @notice No judge found this receipt wrong.
    error NotFoundWrong();
    /// @notice The receipt is an opened canary.
    error IsCanary();
    /// @notice The receipt does not submit to audits.
    error NotOpen();
    /// @notice There is no such canary, or it was planted after the batch or after the first dispute.
    error NoCanary();
    /// @notice The canary was planted before, or too many are.
    error CannotPlant();
    /// @notice The coins of the call are not the bond.
    /// @param given What they are, in wei.
    /// @param bond What they must be.
    error WrongBond(uint256 given, uint256 bond);

    /// @notice Creates audits without batches.
    /// @param log Where nodes post their logs.
    /// @param beacon Randomness.
    /// @param auditors Stakes of auditors.
    /// @param disputes Judge of computations.
    /// @param jury Judge of texts.
    /// @param params Rules.
    constructor(
        ReceiptLog log,
        Beacon beacon,
        Auditors auditors,
        Disputes disputes,
        address jury,
        Params memory params
    ) Batches(log, beacon, auditors, params) {
        if (params.backSeconds > 365 days || params.canarySeconds > 365 days) revert InvalidParams();
        if (params.canaryBond > type(uint96).max) revert InvalidParams();
        (DISPUTES, JURY) = (disputes, jury);
        (BACK_SECONDS, CANARY_SECONDS) = (params.backSeconds, params.canarySeconds);
        (MISS_PENALTY, LAZY_SLASH) = (params.missPenalty, params.lazySlash);
        (CANARY_BOND, MAX_CANARIES) = (params.canaryBond, params.maxCanaries);
    }

    /// @dev Lets only judges call.
    modifier onlyJudge() {
        if (msg.sender != address(DISPUTES) && msg.sender != JURY) revert OnlyJudge(msg.sender);
        _;
    }

    /// @notice Receives slashed stakes.
    receive() external payable {
        if (msg.sender != address(AUDITORS)) revert UnexpectedCoins();
    }

    // ---- duties of auditors ----

    /// @notice Reports an auditor that was drawn and did not reveal. Half of the penalty is the reporter's. Only receipts that
    /// submit to audits count: nobody can check an answer that its client keeps to itself.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param logged The claim and its path.
    function reportMissed(address node, uint64 size, uint64 index, address auditor, LoggedClaim calldata logged)
        external
        nonReentrant
    {
        Batch memory batch = _open(node, size);
        _after(_revealUntil(batch));
        if (!drawn(node, size, index, auditor)) revert NotDrawn(index);
        _change(node, index, auditor, Mark.None, Mark.Missed);
        if (MerkleLog.check(LOG, node, size, index, logged).rung != AUDITED) revert NotOpen();
        _penalise(node, index, auditor, Mark.Missed, MISS_PENALTY, msg.sender);
    }

    /// @notice Shows that the sender disputed what it called wrong (verdict 1); it is then paid like any verdict.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param logged The claim and its path.
    function back(address node, uint64 size, uint64 index, LoggedClaim calldata logged) external nonReentrant {
        ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
        if (!DISPUTES.tried(node, info.receiptId, msg.sender)) revert NotDisputed();
        _change(node, index, msg.sender, Mark.WrongComputation, Mark.Backed);
        _pay(msg.sender, FEE);
        emit Backed(node, index, msg.sender);
    }

    /// @notice The jury says that an auditor took a fault to it (verdicts 2 and 3).
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    function onEscalated(address node, uint64 index, address auditor) external {
        if (msg.sender != JURY) revert OnlyJudge(msg.sender);
        Mark mark = markOf(node, index, auditor);
        if (mark != Mark.WrongText && mark != Mark.Withheld) revert WrongMark(mark);
        _setMark(node, index, auditor, Mark.Backed);
        _pay(auditor, FEE);
        emit Backed(node, index, auditor);
    }

    /// @notice Reports an auditor that found a fault and took it to no judge. Half of the penalty is the reporter's.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    function reportUnfounded(address node, uint64 size, uint64 index, address auditor) external nonReentrant {
        Batch memory batch = _inBatch(node, size, index);
        _after(_revealUntil(batch) + BACK_SECONDS);
        if (_canaryAt[node][index] != bytes32(0)) revert IsCanary();
        _flagged(node, index, auditor, Mark.Unfounded);
        _penalise(node, index, auditor, Mark.Unfounded, MISS_PENALTY, msg.sender);
    }

    /// @notice Reports an auditor that called a receipt right which the referee or the jury found wrong. The reporter gets
    /// half of `MISS_PENALTY`, the pool the rest, so that it does not pay to lose a game on purpose.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param logged The claim and its path.
    function reportLazy(address node, uint64 size, uint64 index, address auditor, LoggedClaim calldata logged)
        external
        nonReentrant
    {
        ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
        (Disputes.Finding finding,) = DISPUTES.lost(node, info.receiptId);
        if (finding != Disputes.Finding.Fraud && finding != Disputes.Finding.Text) revert NotFoundWrong();
        _change(node, index, auditor, Mark.Right, Mark.Lazy);
        _penalise(node, index, auditor, Mark.Lazy, LAZY_SLASH, msg.sender);
    }

    // ---- canaries ----

    /// @notice Plants a canary of the sender, before it posts the batch. The coins of the call are `CANARY_BOND`.
    /// @param commitment `keccak256(abi.encode(node, index, salt))`.
    function plantCanary(bytes32 commitment) external payable {
        if (msg.value != CANARY_BOND) revert WrongBond(msg.value, CANARY_BOND);
        if (planted[msg.sender][commitment] != 0 || plantedCount[msg.sender] >= MAX_CANARIES) revert CannotPlant();
        ++plantedCount[msg.sender];
        planted[msg.sender][commitment] = uint128((block.number << 64) | block.timestamp);
        emit CanaryPlanted(msg.sender, commitment);
    }

    /// @notice Opens a canary of the sender, when auditors have committed and until `BACK_SECONDS` after their reveals. From
    /// then on a lost game about it costs the bond instead of stake.
    /// @param size Size of the log of its batch.
    /// @param index The receipt.
    /// @param salt Salt of its commitment.
    /// @param logged The claim and its path.
    function openCanary(uint64 size, uint64 index, bytes32 salt, LoggedClaim calldata logged) external nonReentrant {
        address node = msg.sender;
        bytes32 commitment = keccak256(abi.encode(node, index, salt));
        Batch memory batch = _inBatch(node, size, index);
        uint128 when = planted[node][commitment];
        if (when == 0 || when >> 64 >= batch.blockNumber || _canaryAt[node][index] != bytes32(0)) revert NoCanary();
        _after(batch.commitUntil);
        if (block.timestamp > _revealUntil(batch) + BACK_SECONDS) revert Late();
        bytes32 receiptId = MerkleLog.check(LOG, node, size, index, logged).receiptId;
        uint256 disputed = DISPUTES.disputedAt(node, receiptId);
        if (_canaries[node][receiptId].size != 0 || (disputed != 0 && when >> 64 >= disputed)) revert NoCanary();
        _unplant(node, commitment);
        uint128 bond = uint128(CANARY_BOND);
        _canaryAt[node][index] = receiptId;
        _canaries[node][receiptId] = Canary({bond: bond, left: bond, earned: 0, index: index, size: size});
        emit CanaryOpened(node, index, receiptId);
    }

    /// @notice Pays the sender its share of the bond of a canary that it found.
    /// @param node The node.
    /// @param index The receipt.
    function claimCanary(address node, uint64 index) external nonReentrant {
        Canary storage canary = _canary(node, _canaryAt[node][index]);
        _after(_revealUntil(batchOf(node, canary.size)));
        Mark mark = markOf(node, index, msg.sender);
        if (mark != Mark.Backed) _flagged(node, index, msg.sender, Mark.CanaryPaid);
        else _setMark(node, index, msg.sender, Mark.CanaryPaid);
        _payCanary(node, canary, msg.sender, canary.bond / flags[node][index]);
    }

    /// @notice Gives the sender what is left of a bond when nobody can find its canary any more, and ends the canary.
    /// @param index The receipt.
    function reclaimCanary(uint64 index) external nonReentrant {
        bytes32 receiptId = _canaryAt[msg.sender][index];
        Canary storage canary = _canary(msg.sender, receiptId);
        _after(_revealUntil(batchOf(msg.sender, canary.size)) + CANARY_SECONDS);
        address to = flags[msg.sender][index] == 0 ? msg.sender : address(this);
        _payCanary(msg.sender, canary, to, canary.left);
        delete _canaries[msg.sender][receiptId];
    }

    /// @notice Puts the bond of a canary that was not opened in time into the pool. Anybody may call this.
    /// @param node The node.
    /// @param commitment Its commitment.
    function expireCanary(address node, bytes32 commitment) external {
        uint128 when = planted[node][commitment];
        if (when == 0) revert NoCanary();
        _after(uint64(when) + CANARY_SECONDS);
        _unplant(node, commitment);
        pool += CANARY_BOND;
        emit Funded(node, CANARY_BOND);
    }

    /// @notice An opened canary; all zero when there is none.
    /// @param node The node.
    /// @param receiptId The receipt.
    /// @return The canary.
    function canaryOf(address node, bytes32 receiptId) external view returns (Canary memory) {
        return _canaries[node][receiptId];
    }

    // ---- what judges say ----

    /// @notice A node signed what contradicts itself.
    /// @param node The node.
    function onFault(address node) external onlyJudge {
        _fault(node);
    }

    /// @notice A node lost a receipt.
    /// @param node The node.
    /// @param receiptId The receipt; zero when it is not known.
    /// @param reporter Who gets the bond when it is a canary.
    /// @return canary Whether it is an opened canary, so that the bond is all that it costs.
    function onNodeLost(address node, bytes32 receiptId, address reporter) external onlyJudge returns (bool canary) {
        Canary storage entry = _canaries[node][receiptId];
        if (receiptId == bytes32(0) || entry.size == 0) {
            _fault(node);
            return false;
        }
        _payCanary(node, entry, reporter, entry.left);
        return true;
    }

    /// @notice A node accuses an auditor of having passed a canary: it was drawn, committed, and did not call it wrong.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @param auditor The auditor.
    function beginAccusation(address node, bytes32 receiptId, address auditor) external onlyJudge {
        Canary storage canary = _canary(node, receiptId);
        (uint64 size, uint64 index) = (canary.size, canary.index);
        uint64 end = _revealUntil(batchOf(node, size));
        _after(end);
        if (block.timestamp > end + CANARY_SECONDS) revert Late();
        if (commitments[node][size][auditor] == bytes32(0) || !drawn(node, size, index, auditor)) revert NotDrawn(index);
        // Who committed and then saw that it is a canary must not get away by not revealing.
        Mark mark = markOf(node, index, auditor);
        if (mark != Mark.Right && mark != Mark.None) revert WrongMark(mark);
        _setMark(node, index, auditor, Mark.Lazy);
        AUDITORS.hold(auditor);
    }

    /// @notice The game of an accusation ended.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @param auditor The auditor.
    /// @param guilty Whether the answer is wrong, or the auditor did not defend it.
    function endAccusation(address node, bytes32 receiptId, address auditor, bool guilty) external onlyJudge {
        AUDITORS.unhold(auditor);
        Canary storage canary = _canaries[node][receiptId];
        uint64 index = canary.index;
        if (!guilty) {
            // It is no canary: it protects the node no longer.
            _payCanary(node, canary, auditor, canary.left);
            if (canary.size != 0) delete _canaryAt[node][index];
            delete _canaries[node][receiptId];
            return;
        }
        uint256 taken = AUDITORS.take(auditor, LAZY_SLASH);
        uint256 own = Math.min(taken, canary.bond - canary.earned);
        canary.earned += uint128(own);
        balances[node] += own;
        pool += taken - own;
        emit Penalised(node, index, auditor, Mark.Lazy, taken);
    }

    // ---- inside ----

    /// @dev Reverts until a time is over.
    function _after(uint64 time) private view {
        if (block.timestamp <= time) revert TooEarly(time);
    }

    /// @dev The batch of a receipt.
    function _inBatch(address node, uint64 size, uint64 index) private view returns (Batch memory batch) {
        batch = batchOf(node, size);
        if (index < batch.first || index >= size) revert BadIndex(index);
    }

    /// @dev Replaces one mark by another.
    function _change(address node, uint64 index, address auditor, Mark from, Mark to) private {
        Mark mark = markOf(node, index, auditor);
        if (mark != from) revert WrongMark(mark);
        _setMark(node, index, auditor, to);
    }

    /// @dev Replaces the mark of an auditor that found a fault and asked no judge.
    function _flagged(address node, uint64 index, address auditor, Mark to) private {
        Mark mark = markOf(node, index, auditor);
        if (mark < Mark.WrongComputation || mark > Mark.Withheld) revert WrongMark(mark);
        _setMark(node, index, auditor, to);
    }

    /// @dev Takes a penalty: half of at most `MISS_PENALTY` for the reporter, the rest for the pool.
    function _penalise(address node, uint64 index, address auditor, Mark why, uint256 amount, address reporter) private {
        uint256 taken = AUDITORS.take(auditor, amount);
        uint256 reward = Math.min(taken, MISS_PENALTY) / 2;
        balances[reporter] += reward;
        pool += taken - reward;
        emit Penalised(node, index, auditor, why, taken);
    }

    /// @dev An opened canary.
    function _canary(address node, bytes32 receiptId) private view returns (Canary storage canary) {
        canary = _canaries[node][receiptId];
        if (canary.size == 0) revert NoCanary();
    }

    /// @dev Forgets a planted canary.
    function _unplant(address node, bytes32 commitment) private {
        delete planted[node][commitment];
        --plantedCount[node];
    }

    /// @dev Pays a part of a bond, at most what is left; to this contract means to the pool.
    function _payCanary(address node, Canary storage canary, address to, uint256 amount) private {
        uint256 paid = Math.min(amount, canary.left);
        canary.left -= uint128(paid);
        if (to == address(this)) pool += paid;
        else balances[to] += paid;
        emit CanaryPaidOut(node, canary.index, to, paid);
    }
}
