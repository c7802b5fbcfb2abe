// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Auditors} from "./Auditors.sol";
import {Audits} from "./Audits.sol";
import {Batches} from "./Batches.sol";
import {Beacon} from "./Beacon.sol";
import {Disputes} from "./Disputes.sol";
import {Escrow} from "./Escrow.sol";
import {ClaimInfo} from "./IReferee.sol";
import {Judge} from "./Judge.sol";
import {LoggedClaim, MerkleLog} from "./MerkleLog.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {ReceiptLog} from "./ReceiptLog.sol";
import {Sortition} from "./Sortition.sol";

/// @title Jury
/// @notice Decides what no computation can: whether a prompt, text, count or price follows from the request, and whether a
/// node withholds a request. Auditors are drawn by lot, vote secretly, and two thirds of their stake must agree.
/// @dev It is a vote, not a proof: who has two thirds of the auditors' stake decides. Votes count by stake and jurors are
/// drawn by stake, so splitting a stake loses weight. Both outcomes pay the voters of the winning side, so that no
/// outcome is the better business.
contract Jury is Judge {
    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Bond of who calls the jury, in wei.
        uint256 bond;
        /// @dev Time for commitments, in seconds.
        uint64 commitSeconds;
        /// @dev Time for reveals after that, in seconds.
        uint64 revealSeconds;
        /// @dev Expected jurors times 1e6.
        uint64 rate;
        /// @dev Fewest jurors that must reveal.
        uint64 minJurors;
        /// @dev What a wrong text costs a node, in wei.
        uint256 textSlash;
        /// @dev Most that all jurors of the winning side share after a conviction, in wei; out of the slash.
        uint256 fee;
        /// @dev What a juror of a clear minority, or one that did not reveal, loses, in wei.
        uint256 missPenalty;
        /// @dev Part of a slash that who called the jury gets, in thousandths.
        uint256 bountyPermille;
    }

    /// @notice State of a case.
    enum Outcome {
        /// @dev There is none.
        None,
        /// @dev Jurors vote.
        Open,
        /// @dev Two thirds say guilty.
        Guilty,
        /// @dev Fewer do.
        NotGuilty,
        /// @dev Too few jurors voted.
        NoQuorum
    }

    /// @notice A case.
    struct Case {
        /// @dev Who called the jury.
        address plaintiff;
        /// @dev Block in which it did.
        uint64 blockNumber;
        /// @dev Jurors that voted.
        uint32 jurors;
        /// @dev State.
        Outcome outcome;
        /// @dev The node.
        address node;
        /// @dev Unix time until which jurors commit.
        uint64 commitUntil;
        /// @dev Who paid for the answer; zero when it was free or the claim is not known.
        address payer;
        /// @dev Its price in wei.
        uint128 price;
        /// @dev Stake of jurors that voted guilty, in wei.
        uint128 guilty;
        /// @dev Stake of all jurors that voted, in wei.
        uint128 total;
        /// @dev What the winning side shares, in wei.
        uint128 prize;
        /// @dev The receipt's id; zero when the claim is not known.
        bytes32 receiptId;
        /// @dev Randomness of the draw; zero until the first juror commits.
        bytes32 seed;
    }

    /// @notice What a juror did.
    struct Vote {
        /// @dev Its commitment.
        bytes32 hash;
        /// @dev Its stake in wei, after the reveal.
        uint128 stake;
        /// @dev Its vote.
        bool guilty;
        /// @dev Whether it was paid or punished.
        bool settled;
    }

    /// @notice Where nodes post their logs.
    ReceiptLog public immutable LOG;
    /// @notice Randomness.
    Beacon public immutable BEACON;
    /// @notice Stakes of jurors.
    Auditors public immutable AUDITORS;
    /// @notice Verdicts of auditors.
    Audits public immutable AUDITS;
    /// @notice Knows which receipts are lost.
    Disputes public immutable DISPUTES;
    /// @notice See `Params`.
    uint256 public immutable BOND;
    /// @notice See `Params`.
    uint64 public immutable COMMIT_SECONDS;
    /// @notice See `Params`.
    uint64 public immutable REVEAL_SECONDS;
    /// @notice See `Params`.
    uint64 public immutable RATE;
    /// @notice See `Params`.
    uint64 public immutable MIN_JURORS;
    /// @notice See `Params`.
    uint256 public immutable TEXT_SLASH;
    /// @notice See `Params`.
    uint256 public immutable FEE;
    /// @notice See `Params`.
    uint256 public immutable MISS_PENALTY;

    /// @dev Cases and votes; the id of a case is `caseId`.
    mapping(bytes32 id => Case) private _cases;
    mapping(bytes32 id => mapping(address juror => Vote)) private _votes;

    /// @notice An auditor called the jury.
    /// @param id The case.
    /// @param node The node.
    /// @param index The receipt.
    /// @param size Size of the log of its batch, as the plaintiff says when there is no claim.
    /// @param plaintiff The auditor.
    /// @param receiptId The receipt's id; zero when the node withholds the claim.
    event Escalated(
        bytes32 indexed id,
        address indexed node,
        uint64 indexed index,
        uint64 size,
        address plaintiff,
        bytes32 receiptId
    );

    /// @notice A juror committed.
    /// @param id The case.
    /// @param juror The juror.
    event JurorCommitted(bytes32 indexed id, address indexed juror);

    /// @notice A juror voted.
    /// @param id The case.
    /// @param juror The juror.
    /// @param guilty Its vote.
    /// @param stake Its weight, in wei.
    event Voted(bytes32 indexed id, address indexed juror, bool guilty, uint256 stake);

    /// @notice A case ended.
    /// @param id The case.
    /// @param node The node.
    /// @param outcome How.
    event Resolved(bytes32 indexed id, address indexed node, Outcome outcome);

    /// @notice A juror was paid or punished.
    /// @param id The case.
    /// @param juror The juror.
    /// @param paid What it gets, in wei.
    /// @param lost What it lost, in wei.
    event JurorSettled(bytes32 indexed id, address indexed juror, uint256 paid, uint256 lost);

    /// @notice There is a case about this receipt, or the node lost it before.
    error AlreadyJudged();
    /// @notice Only who called the text wrong needs a claim, and must give it.
    error ClaimNeeded();
    /// @notice There is no such case, or it is in another state.
    error WrongOutcome(Outcome outcome);
    /// @notice It is too early for this.
    /// @param time Unix time after which it works.
    error TooEarly(uint64 time);
    /// @notice The time for this is over.
    error Late();
    /// @notice The sender was not drawn, or called the jury itself.
    error NotJuror();
    /// @notice The sender committed before.
    error AlreadyCommitted();
    /// @notice This is not what was committed, or it was revealed before.
    error WrongReveal();
    /// @notice The juror did nothing, or was paid or punished before.
    error NothingToSettle();

    /// @notice Creates a jury without cases.
    /// @param nodes Stakes of nodes.
    /// @param log Where nodes post their logs.
    /// @param escrow Money of clients.
    /// @param beacon Randomness.
    /// @param auditors Stakes of jurors.
    /// @param audits Verdicts of auditors.
    /// @param disputes Knows which receipts are lost.
    /// @param params Rules.
    constructor(
        NodeRegistry nodes,
        ReceiptLog log,
        Escrow escrow,
        Beacon beacon,
        Auditors auditors,
        Audits audits,
        Disputes disputes,
        Params memory params
    ) Judge(nodes, escrow, params.bountyPermille) {
        if (params.rate > Sortition.MAX_RATE || params.minJurors == 0) revert InvalidParams();
        if (params.commitSeconds > 30 days || params.revealSeconds > 30 days) revert InvalidParams();
        if (params.bond > type(uint96).max || params.fee > type(uint96).max) revert InvalidParams();
        (LOG, BEACON, AUDITORS, AUDITS, DISPUTES) = (log, beacon, auditors, audits, disputes);
        (BOND, TEXT_SLASH, FEE, MISS_PENALTY) = (params.bond, params.textSlash, params.fee, params.missPenalty);
        (COMMIT_SECONDS, REVEAL_SECONDS) = (params.commitSeconds, params.revealSeconds);
        (RATE, MIN_JURORS) = (params.rate, params.minJurors);
    }

    // ---- what an auditor does ----

    /// @notice Takes a fault to the jury: of a text (verdict 2), with its claim, or a withheld one (verdict 3), where the
    /// claim can be empty. The coins of the call are `BOND`. One case for each receipt.
    /// @param node The node.
    /// @param size Size of its log.
    /// @param index The receipt.
    /// @param logged The claim and its path; all empty when the node withholds it.
    /// @return id The case.
    function escalate(address node, uint64 size, uint64 index, LoggedClaim calldata logged)
        external
        payable
        nonReentrant
        returns (bytes32 id)
    {
        if (msg.value != BOND) revert WrongBond(msg.value, BOND);
        id = caseId(node, index);
        Case storage entry = _cases[id];
        if (entry.outcome != Outcome.None) revert AlreadyJudged();
        if (logged.claim.length > 0) {
            ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
            (Disputes.Finding finding,) = DISPUTES.lost(node, info.receiptId);
            if (finding != Disputes.Finding.None) revert AlreadyJudged();
            DISPUTES.markDisputed(node, info.receiptId);
            (entry.payer, entry.price, entry.receiptId) = (info.payer, info.price, info.receiptId);
        } else if (AUDITS.markOf(node, index, msg.sender) == Batches.Mark.WrongText) {
            revert ClaimNeeded();
        }
        AUDITS.onEscalated(node, index, msg.sender);
        _begin(node, TEXT_SLASH, entry.price);
        (entry.plaintiff, entry.node, entry.outcome) = (msg.sender, node, Outcome.Open);
        entry.blockNumber = uint64(block.number);
        entry.commitUntil = uint64(block.timestamp) + COMMIT_SECONDS;
        emit Escalated(id, node, index, size, msg.sender, entry.receiptId);
    }

    /// @notice Commits to a vote. Only jurors can; who called the jury is none.
    /// @param id The case.
    /// @param hash `keccak256(abi.encode(juror, id, guilty, salt))`.
    function commit(bytes32 id, bytes32 hash) external {
        Case storage entry = _cases[id];
        _is(entry, Outcome.Open);
        if (block.timestamp > entry.commitUntil) revert Late();
        if (entry.seed == bytes32(0)) entry.seed = _seed(id, entry);
        if (!isJuror(id, msg.sender)) revert NotJuror();
        Vote storage vote = _votes[id][msg.sender];
        if (vote.hash != bytes32(0)) revert AlreadyCommitted();
        vote.hash = hash;
        emit JurorCommitted(id, msg.sender);
    }

    /// @notice Reveals a vote.
    /// @param id The case.
    /// @param guilty The vote.
    /// @param salt What made the commitment unguessable.
    function reveal(bytes32 id, bool guilty, bytes32 salt) external {
        Case storage entry = _cases[id];
        _is(entry, Outcome.Open);
        if (block.timestamp <= entry.commitUntil) revert TooEarly(entry.commitUntil);
        if (block.timestamp > entry.commitUntil + REVEAL_SECONDS) revert Late();
        Vote storage vote = _votes[id][msg.sender];
        bytes32 hash = keccak256(abi.encode(msg.sender, id, guilty, salt));
        if (vote.hash != hash || vote.stake != 0) revert WrongReveal();
        (uint256 stake,) = AUDITORS.weights(msg.sender, entry.blockNumber - 1);
        (vote.stake, vote.guilty) = (uint128(stake), guilty);
        ++entry.jurors;
        entry.total += uint128(stake);
        if (guilty) entry.guilty += uint128(stake);
        emit Voted(id, msg.sender, guilty, stake);
    }

    /// @notice Ends a case after the time for reveals. Anybody may call this.
    /// @param id The case.
    function resolve(bytes32 id) external nonReentrant {
        Case storage entry = _cases[id];
        _is(entry, Outcome.Open);
        uint64 end = entry.commitUntil + REVEAL_SECONDS;
        if (block.timestamp <= end) revert TooEarly(end);
        _end(entry.node, TEXT_SLASH, entry.price);
        if (entry.jurors < MIN_JURORS) {
            entry.outcome = Outcome.NoQuorum;
            balances[entry.plaintiff] += BOND;
        } else if (uint256(entry.guilty) * 3 >= uint256(entry.total) * 2) {
            entry.outcome = Outcome.Guilty;
            balances[entry.plaintiff] += BOND;
            _convict(entry);
        } else {
            entry.outcome = Outcome.NotGuilty;
            entry.prize = uint128(BOND / 2);
            balances[entry.node] += BOND - BOND / 2;
        }
        emit Resolved(id, entry.node, entry.outcome);
    }

    /// @notice Pays or punishes a juror of a case that ended. Voters of the winning side share the prize by stake. Who voted
    /// for the other side loses `MISS_PENALTY` when that has at most a third of the stake; who committed and did not
    /// reveal loses it always. Anybody may call this.
    /// @param id The case.
    /// @param juror The juror.
    function settle(bytes32 id, address juror) external nonReentrant {
        Case storage entry = _cases[id];
        if (entry.outcome < Outcome.Guilty) revert WrongOutcome(entry.outcome);
        Vote storage vote = _votes[id][juror];
        if (vote.hash == bytes32(0) || vote.settled) revert NothingToSettle();
        vote.settled = true;

        bool convicted = entry.outcome == Outcome.Guilty;
        uint256 winners = convicted ? entry.guilty : entry.total - entry.guilty;
        uint256 paid = 0;
        bool punished = vote.stake == 0;
        if (!punished && entry.outcome != Outcome.NoQuorum) {
            if (vote.guilty == convicted) paid = entry.prize * uint256(vote.stake) / winners;
            else punished = (entry.total - winners) * 3 <= entry.total;
        }
        balances[juror] += paid;
        uint256 taken = punished ? AUDITORS.take(juror, MISS_PENALTY) : 0;
        if (taken > 0) AUDITS.fund{value: taken}();
        emit JurorSettled(id, juror, paid, taken);
    }

    // ---- views ----

    /// @notice Id of the case about a receipt.
    /// @param node The node.
    /// @param index The receipt.
    /// @return The id.
    function caseId(address node, uint64 index) public pure returns (bytes32) {
        return keccak256(abi.encode(node, index));
    }

    /// @notice A case; all zero when there is none.
    /// @param id The case.
    /// @return The case.
    function caseOf(bytes32 id) external view returns (Case memory) {
        return _cases[id];
    }

    /// @notice What a juror did.
    /// @param id The case.
    /// @param juror The juror.
    /// @return The vote.
    function voteOf(bytes32 id, address juror) external view returns (Vote memory) {
        return _votes[id][juror];
    }

    /// @notice Whether an auditor is drawn for a case. Reverts while the seed is not known.
    /// @param id The case.
    /// @param auditor The auditor.
    /// @return Whether it may vote.
    function isJuror(bytes32 id, address auditor) public view returns (bool) {
        Case storage entry = _cases[id];
        if (entry.outcome == Outcome.None || auditor == entry.plaintiff) return false;
        bytes32 seed = entry.seed == bytes32(0) ? _seed(id, entry) : entry.seed;
        (uint256 stake, uint256 total) = AUDITORS.weights(auditor, entry.blockNumber - 1);
        return Sortition.drawn(seed, 0, auditor, RATE, stake, total);
    }

    // ---- inside ----

    /// @dev Stakes of jurors come from their contract.
    function _paysUs(address sender) internal view override returns (bool) {
        return super._paysUs(sender) || sender == address(AUDITORS);
    }

    /// @dev Reverts unless a case is in a state.
    function _is(Case storage entry, Outcome outcome) private view {
        if (entry.outcome != outcome) revert WrongOutcome(entry.outcome);
    }

    /// @dev Randomness of a case: from the second block after it.
    function _seed(bytes32 id, Case storage entry) private view returns (bytes32) {
        return keccak256(abi.encode(BEACON.randomness(entry.blockNumber + 2), id));
    }

    /// @dev Punishes the node, unless it lost the receipt in another way meanwhile, or it is a canary.
    function _convict(Case storage entry) private {
        (address node, bytes32 receiptId) = (entry.node, entry.receiptId);
        if (receiptId != bytes32(0)) {
            (Disputes.Finding finding,) = DISPUTES.lost(node, receiptId);
            if (finding != Disputes.Finding.None) return;
            DISPUTES.markLost(node, receiptId);
        }
        bool canary = AUDITS.onNodeLost(node, receiptId, entry.plaintiff);
        (, uint256 bounty, uint256 left) =
            _punish(node, receiptId, canary ? 0 : TEXT_SLASH, entry.payer, entry.price);
        balances[entry.plaintiff] += bounty;
        entry.prize = uint128(Math.min(FEE, left));
        _burn(left - entry.prize);
    }
}
