// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Auditors} from "./Auditors.sol";
import {Batches} from "./Batches.sol";
import {Beacon} from "./Beacon.sol";
import {Canaries} from "./Canaries.sol";
import {Disputes} from "./Disputes.sol";
import {ClaimInfo} from "./IReferee.sol";
import {Jury} from "./Jury.sol";
import {LoggedClaim, MerkleLog} from "./MerkleLog.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Audits
/// @notice Makes auditors look: who was drawn and stays away, calls a wrong answer right, or cries wolf, loses stake.
/// @dev A fault that an auditor reports must go to a judge in `BACK_SECONDS`: to `Disputes` (verdict 1) or to the jury
/// (2 and 3). Otherwise "wrong" for everything would be a way to earn canaries without looking. What somebody else took to
/// a judge counts: only one can be first.
/// Penalties are burnt, and who reports gets at most what the call costs at the block's base fee: taking stake from auditors
/// is nobody's business. A period has misses that cost nothing, and an end of what misses can cost.
contract Audits is Batches {
    /// @notice Number of the rung `audited` in claims.
    uint8 public constant AUDITED = 4;
    /// @notice Gas that a report is paid for.
    uint256 public constant REPORT_GAS = 300_000;
    /// @notice Where penalties go.
    address payable public constant BURN = payable(0x000000000000000000000000000000000000dEaD);

    /// @dev Misses of an auditor since the beginning of a period.
    struct Misses {
        uint64 since;
        uint64 count;
    }

    /// @notice Judge of computations.
    Disputes public immutable DISPUTES;
    /// @notice Judge of texts.
    Jury public immutable JURY;
    /// @notice Canaries of nodes.
    Canaries public immutable CANARIES;
    /// @notice See `Params`.
    uint256 public immutable MISS_PENALTY;
    /// @notice See `Params`.
    uint256 public immutable LAZY_SLASH;
    /// @notice See `Params`.
    uint64 public immutable PERIOD_SECONDS;
    /// @notice See `Params`.
    uint32 public immutable MISSES_FREE;
    /// @notice See `Params`.
    uint32 public immutable MISSES_MAX;

    /// @notice Misses of an auditor in its current period.
    mapping(address auditor => Misses) public misses;

    /// @notice An auditor lost stake; nothing, when the miss was one that costs nothing.
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param why `Mark.Missed`, `Mark.Unfounded`, `Mark.Lazy` or `Mark.Baseless`.
    /// @param amount What it lost, in wei.
    event Penalised(address indexed node, uint64 indexed index, address indexed auditor, Mark why, uint256 amount);

    /// @notice An auditor took a fault to a judge, or somebody else did.
    /// @param node The node.
    /// @param index The receipt.
    /// @param auditor The auditor.
    event Backed(address indexed node, uint64 indexed index, address indexed auditor);

    /// @notice Coins come with a function, or from the stakes of auditors.
    error UnexpectedCoins();
    /// @notice Only a judge, or the contract of canaries, may call this.
    /// @param sender Who called.
    error OnlyJudge(address sender);
    /// @notice The auditor's verdict is another one, or was settled before.
    /// @param mark What is recorded.
    error WrongMark(Mark mark);
    /// @notice No judge was asked about this.
    error NotDisputed();
    /// @notice A judge was asked about this, and did not say that the node is right.
    error Disputed();
    /// @notice No judge found this receipt wrong.
    error NotFoundWrong();
    /// @notice The receipt is an opened canary.
    error IsCanary();
    /// @notice The receipt does not submit to audits, or nobody had to look at this batch.
    error NoDuty();
    /// @notice The claim is what the verdict says it is about.
    error HasBase();

    /// @notice Creates audits without batches.
    /// @param log Where nodes post their logs.
    /// @param beacon Randomness.
    /// @param auditors Stakes of auditors.
    /// @param disputes Judge of computations.
    /// @param jury Judge of texts.
    /// @param canaries Canaries of nodes.
    /// @param params Rules.
    constructor(
        ReceiptLog log,
        Beacon beacon,
        Auditors auditors,
        Disputes disputes,
        Jury jury,
        Canaries canaries,
        Params memory params
    ) Batches(log, beacon, auditors, params) {
        if (params.periodSeconds == 0 || params.missesFree > params.missesMax) revert InvalidParams();
        (DISPUTES, JURY, CANARIES) = (disputes, jury, canaries);
        (MISS_PENALTY, LAZY_SLASH) = (params.missPenalty, params.lazySlash);
        (PERIOD_SECONDS, MISSES_FREE, MISSES_MAX) = (params.periodSeconds, params.missesFree, params.missesMax);
    }

    /// @dev Lets only judges call.
    modifier onlyJudge() {
        if (msg.sender != address(DISPUTES) && msg.sender != address(JURY)) revert OnlyJudge(msg.sender);
        _;
    }

    /// @notice Receives slashed stakes.
    receive() external payable {
        if (msg.sender != address(AUDITORS)) revert UnexpectedCoins();
    }

    // ---- duties of auditors ----

    /// @notice Reports an auditor that was drawn and did not reveal. Only receipts that submit to audits count, of a model for
    /// which the auditor was registered when the batch was posted, in a batch with `duty`.
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
        ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
        if (!batch.duty || info.rung != AUDITED) revert NoDuty();
        if (!drawn(node, size, index, info.model, auditor)) revert NotDrawn(index);
        Mark withheld = markOf(node, bytes32(0), index, auditor);
        if (withheld != Mark.None) revert WrongMark(withheld);
        _change(node, info.model, index, auditor, Mark.None, Mark.Missed);
        _penalise(node, index, auditor, Mark.Missed, _counts(auditor) ? MISS_PENALTY : 0);
    }

    /// @notice Shows that what the sender called wrong is before a judge: because the sender took it there, or because somebody
    /// else did. Verdicts that a judge confirmed, or that the sender took there, are then paid like any.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param logged The claim and its path; empty for the verdict "withheld".
    function back(address node, uint64 size, uint64 index, LoggedClaim calldata logged) external nonReentrant {
        bytes32 model;
        bytes32 receiptId;
        if (logged.claim.length > 0) {
            ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
            (model, receiptId) = (info.model, info.receiptId);
        }
        Mark mark = _flagged(node, model, index, msg.sender, Mark.Backed);
        bool own = receiptId != bytes32(0) && DISPUTES.tried(node, receiptId, msg.sender);
        Standing standing = _standing(node, index, receiptId, mark);
        if (standing == Standing.None && !own) revert NotDisputed();
        if (own || standing == Standing.Confirmed) _pay(node, size, msg.sender, FEE);
        emit Backed(node, index, msg.sender);
    }

    /// @notice The jury says that an auditor took a fault to it (verdicts 2 and 3).
    /// @param node The node.
    /// @param size Size of its log.
    /// @param model The model of a wrong text; zero for what is withheld.
    /// @param index The receipt.
    /// @param auditor The auditor.
    function onEscalated(address node, uint64 size, bytes32 model, uint64 index, address auditor) external {
        if (msg.sender != address(JURY)) revert OnlyJudge(msg.sender);
        Mark mark = markOf(node, model, index, auditor);
        if (mark != (model == bytes32(0) ? Mark.Withheld : Mark.WrongText)) revert WrongMark(mark);
        _setMark(node, model, index, auditor, Mark.Backed);
        _pay(node, size, auditor, FEE);
        emit Backed(node, index, auditor);
    }

    /// @notice Reports an auditor that found a fault which no judge was asked about, or about which the judges found the node
    /// right without having heard this auditor.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param logged The claim and its path; empty for the verdict "withheld".
    function reportUnfounded(address node, uint64 size, uint64 index, address auditor, LoggedClaim calldata logged)
        external
        nonReentrant
    {
        _after(backUntil(node, size));
        if (CANARIES.isOpened(node, index)) revert IsCanary();
        bytes32 model;
        bytes32 receiptId;
        if (logged.claim.length > 0) {
            ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
            (model, receiptId) = (info.model, info.receiptId);
            if (DISPUTES.tried(node, receiptId, auditor)) revert Disputed();
        }
        Mark mark = _flagged(node, model, index, auditor, Mark.Unfounded);
        if (_standing(node, index, receiptId, mark) != Standing.None) {
            // A game that is still going on may prove the auditor right; after two windows none does.
            bool over = mark == Mark.WrongComputation && DISPUTES.disputedAt(node, receiptId) != 0
                && block.timestamp > LOG.timeOf(node, size) + 2 * uint256(DISPUTES.WINDOW_SECONDS())
                && !_confirmed(node, index, receiptId);
            if (!over) revert Disputed();
        }
        _penalise(node, index, auditor, Mark.Unfounded, MISS_PENALTY);
    }

    /// @notice Reports an auditor that called a receipt right which the referee or the jury found wrong.
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
        _change(node, info.model, index, auditor, Mark.Right, Mark.Lazy);
        _penalise(node, index, auditor, Mark.Lazy, LAZY_SLASH);
    }

    /// @notice Reports an auditor whose verdict names another model than the claim, or is about an answer that does not submit to
    /// audits: it gave it without looking.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @param model The model that its verdict names.
    /// @param logged The claim and its path.
    function reportBaseless(
        address node,
        uint64 size,
        uint64 index,
        address auditor,
        bytes32 model,
        LoggedClaim calldata logged
    ) external nonReentrant {
        ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
        if (info.model == model && info.rung == AUDITED) revert HasBase();
        Mark mark = markOf(node, model, index, auditor);
        // "Withheld" names no model: such verdicts are under the model zero.
        if (model == bytes32(0) || mark < Mark.Right || mark > Mark.WrongText) revert WrongMark(mark);
        _setMark(node, model, index, auditor, Mark.Baseless);
        _penalise(node, index, auditor, Mark.Baseless, LAZY_SLASH);
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
        canary = CANARIES.onLost(node, receiptId, reporter);
        if (!canary) _fault(node);
    }

    /// @notice A node accuses an auditor of having passed a canary: it was drawn, committed, and did not call it wrong.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @param auditor The auditor.
    function beginAccusation(address node, bytes32 receiptId, address auditor) external onlyJudge {
        (uint64 size, uint64 index, bytes32 model) = CANARIES.accusable(node, receiptId);
        if (commitments[node][size][auditor] == bytes32(0) || !drawn(node, size, index, model, auditor)) {
            revert NotDrawn(index);
        }
        // Who committed and then saw that it is a canary must not get away by not revealing.
        Mark mark = markOf(node, model, index, auditor);
        if (mark == Mark.None) mark = markOf(node, bytes32(0), index, auditor);
        if (mark != Mark.Right && mark != Mark.None) revert WrongMark(mark);
        _setMark(node, model, index, auditor, Mark.Lazy);
        AUDITORS.hold(auditor);
    }

    /// @notice The game of an accusation ended.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @param auditor The auditor.
    /// @param guilty Whether the answer is wrong, or the auditor did not defend it.
    function endAccusation(address node, bytes32 receiptId, address auditor, bool guilty) external onlyJudge {
        AUDITORS.unhold(auditor);
        uint256 taken = guilty ? AUDITORS.take(auditor, LAZY_SLASH) : 0;
        uint64 index = CANARIES.onJudged{value: taken}(node, receiptId, auditor, guilty);
        if (guilty) emit Penalised(node, index, auditor, Mark.Lazy, taken);
    }

    /// @notice The contract of canaries pays an auditor that found one.
    /// @param node The node.
    /// @param model The canary's model.
    /// @param index The receipt.
    /// @param auditor The auditor.
    /// @return Auditors that found it.
    function onCanaryFound(address node, bytes32 model, uint64 index, address auditor) external returns (uint256) {
        if (msg.sender != address(CANARIES)) revert OnlyJudge(msg.sender);
        Mark mark = markOf(node, model, index, auditor);
        bool found = mark == Mark.WrongComputation || mark == Mark.WrongText || mark == Mark.Backed;
        if (!found) revert WrongMark(mark);
        _setMark(node, model, index, auditor, Mark.CanaryPaid);
        return flags(node, model, index);
    }

    /// @notice Times of a batch; reverts while its seed is not known.
    /// @param node The node.
    /// @param size Size of its log.
    /// @return first Its first receipt.
    /// @return blockNumber Block in which it was posted.
    /// @return commitUntil Unix time until which auditors commit.
    /// @return revealUntil Unix time until which they reveal.
    function timesOf(address node, uint64 size)
        external
        view
        returns (uint64 first, uint64 blockNumber, uint64 commitUntil, uint64 revealUntil)
    {
        Batch memory batch = batchOf(node, size);
        return (batch.first, batch.blockNumber, batch.commitUntil, _revealUntil(batch));
    }

    // ---- inside ----

    /// @dev What judges know of a fault.
    enum Standing {
        /// @dev Nobody asked them, or they found the node right.
        None,
        /// @dev Somebody asked them, or nobody can any more.
        Asked,
        /// @dev They found the node wrong.
        Confirmed
    }

    /// @dev Reverts until a time is over.
    function _after(uint64 time) private view {
        if (block.timestamp <= time) revert TooEarly(time);
    }

    /// @dev What judges know of the fault that a mark is about. `receiptId` is zero when there is no claim.
    function _standing(address node, uint64 index, bytes32 receiptId, Mark mark) private view returns (Standing) {
        if (_confirmed(node, index, receiptId)) return Standing.Confirmed;
        if (mark == Mark.WrongComputation) {
            if (receiptId != bytes32(0) && DISPUTES.disputedAt(node, receiptId) != 0) return Standing.Asked;
        } else {
            Jury.Outcome outcome = JURY.outcomeOf(node, index, mark == Mark.WrongText ? 2 : 3);
            if (outcome == Jury.Outcome.Open || outcome == Jury.Outcome.NoQuorum) return Standing.Asked;
        }
        (, uint256 stake,,) = NODES().nodeInfo(node);
        return stake == 0 ? Standing.Asked : Standing.None;
    }

    /// @dev Whether a judge found the node wrong about a receipt.
    function _confirmed(address node, uint64 index, bytes32 receiptId) private view returns (bool) {
        if (JURY.convicted(node, index)) return true;
        if (receiptId == bytes32(0)) return false;
        (Disputes.Finding finding,) = DISPUTES.lost(node, receiptId);
        return finding != Disputes.Finding.None;
    }

    /// @dev Stakes of nodes.
    function NODES() private view returns (NodeRegistry) {
        return LOG.NODES();
    }

    /// @dev Replaces one mark by another.
    function _change(address node, bytes32 model, uint64 index, address auditor, Mark from, Mark to) private {
        Mark mark = markOf(node, model, index, auditor);
        if (mark != from) revert WrongMark(mark);
        _setMark(node, model, index, auditor, to);
    }

    /// @dev Replaces the mark of an auditor that found a fault and asked no judge.
    /// @return mark What it was.
    function _flagged(address node, bytes32 model, uint64 index, address auditor, Mark to) private returns (Mark mark) {
        mark = markOf(node, model, index, auditor);
        if (mark < Mark.WrongComputation || mark > Mark.Withheld) revert WrongMark(mark);
        _setMark(node, model, index, auditor, to);
    }

    /// @dev Counts a miss; false when it costs nothing.
    function _counts(address auditor) private returns (bool) {
        Misses memory entry = misses[auditor];
        if (block.timestamp >= entry.since + PERIOD_SECONDS) entry = Misses({since: uint64(block.timestamp), count: 0});
        ++entry.count;
        misses[auditor] = entry;
        return entry.count > MISSES_FREE && entry.count <= MISSES_MAX;
    }

    /// @dev Takes a penalty: what the call costs for the reporter, but at most half; the rest is burnt.
    function _penalise(address node, uint64 index, address auditor, Mark why, uint256 amount) private {
        uint256 taken = AUDITORS.take(auditor, amount);
        uint256 reward = Math.min(taken / 2, REPORT_GAS * block.basefee);
        balances[msg.sender] += reward;
        emit Penalised(node, index, auditor, why, taken);
        if (taken > reward) Address.sendValue(BURN, taken - reward);
    }
}
