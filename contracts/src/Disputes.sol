// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Announcements} from "./Announcements.sol";
import {Audits} from "./Audits.sol";
import {Equivocations} from "./Equivocations.sol";
import {Escrow} from "./Escrow.sol";
import {CHALLENGER_MOVES, CHALLENGER_WON, ClaimInfo, NODE_MOVES, NODE_WON, REFEREE} from "./IReferee.sol";
import {Judge} from "./Judge.sol";
import {LoggedClaim, MerkleLog} from "./MerkleLog.sol";
import {NodeRegistry} from "./NodeRegistry.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Disputes
/// @notice Games about signed claims. A challenger says what is wrong with an answer and posts a bond; the two move in
/// turns until the referee can decide by a small computation. Each side has `CLOCK_SECONDS` for all of its moves, as in
/// chess; whose time is over loses.
/// @dev Any number of games is open at once, and none makes another dearer or later: whether a claim can be disputed
/// depends on nobody but who disputes it. Only the hash of a game's state is stored; the events have the state itself. A
/// lost bond goes half to the node, half to `BURN`: that is more than the gas of defending an answer.
contract Disputes is Equivocations {
    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Bond of a challenger, in wei.
        uint256 bond;
        /// @dev Time of each side for all of its moves in a game, in seconds.
        uint64 clockSeconds;
        /// @dev Time between an announcement and what was announced, in seconds.
        uint64 openSeconds;
        /// @dev Time after a claim was signed or posted in which it can be disputed, in seconds: longer than a game and the
        /// time for opening it.
        uint64 windowSeconds;
        /// @dev What a wrong answer costs a node, in wei.
        uint256 fraudSlash;
        /// @dev What it costs a node not to move, in wei. Not much less than `fraudSlash`, else cheaters do not move.
        uint256 timeoutSlash;
        /// @dev Part of a slash that the challenger gets, in thousandths.
        uint256 bountyPermille;
    }

    /// @notice A game.
    struct Game {
        /// @dev Who says that the claim is wrong.
        address challenger;
        /// @dev Unix time at which the clock of the party on turn runs out.
        uint64 deadline;
        /// @dev Whose turn it is, or who has won.
        uint8 turn;
        /// @dev Whether it is about an auditor's duty and not about the node's.
        bool accusation;
        /// @dev Who says that it is right: the node, or an auditor whom the node accuses of not having looked.
        address defender;
        /// @dev What the challenger's clock had left when it began to wait, in seconds.
        uint32 challengerLeft;
        /// @dev The same of the defender.
        uint32 defenderLeft;
        /// @dev Who signed the claim.
        address node;
        /// @dev Who paid for the answer.
        address payer;
        /// @dev Its price in wei.
        uint128 price;
        /// @dev What the challenger gave, in wei.
        uint128 bond;
        /// @dev The claim's receipt id.
        bytes32 receiptId;
        /// @dev Hash of the state.
        bytes32 stateHash;
    }

    /// @notice What was found about a receipt.
    enum Finding {
        None,
        /// @dev The node's clock ran out.
        TimedOut,
        /// @dev The referee found it wrong.
        Fraud,
        /// @dev The jury found its text wrong.
        Text,
        /// @dev It is wrong, and the node said so beforehand.
        Canary
    }

    /// @notice A receipt that its node lost.
    struct Lost {
        /// @dev The worst finding so far.
        Finding finding;
        /// @dev What the node lost for it, in wei.
        uint128 slashed;
    }

    /// @notice What is open about a receipt.
    struct Contest {
        /// @dev Open games.
        uint64 open;
        /// @dev The game whose challenger gets the bounties: the first opened of those that the node lost, however it lost them.
        /// If a verdict counted more than a clock that ran out, a node could let the first challenger's game run out and
        /// lose a later one to a friend. Zero while it lost none.
        uint64 winner;
        /// @dev Bounties for its challenger, in wei.
        uint128 bounty;
        /// @dev What of the node's earnings is held.
        uint128 price;
    }

    /// @notice How far in the future a claim's time may be, in seconds.
    uint64 public constant MAX_AHEAD_SECONDS = 600;

    /// @notice Bond of a challenger, in wei.
    uint256 public immutable BOND;
    /// @notice Time of each side for all of its moves in a game, in seconds.
    uint64 public immutable CLOCK_SECONDS;
    /// @notice Time for a dispute, in seconds.
    uint64 public immutable WINDOW_SECONDS;
    /// @notice Slash for not moving, in wei.
    uint256 public immutable TIMEOUT_SLASH;
    /// @notice Judge of texts.
    address public immutable JURY;

    /// @notice Number of games; the ids are 1 to this.
    uint256 public gameCount;
    /// @dev Games by id.
    mapping(uint256 id => Game) private _games;
    /// @notice Whether somebody disputed a receipt, at any time.
    mapping(address node => mapping(bytes32 receiptId => mapping(address challenger => bool))) public tried;
    /// @notice Block of the first dispute about a receipt: a canary planted later protects nobody.
    mapping(address node => mapping(bytes32 receiptId => uint256 blockNumber)) public disputedAt;
    /// @notice Receipts that their nodes lost.
    mapping(address node => mapping(bytes32 receiptId => Lost)) public lost;
    /// @notice Receipts whose request or answer a jury found to be withheld, by index.
    mapping(address node => mapping(uint64 index => bool)) public withheld;
    /// @dev Open games and bounties of receipts.
    mapping(address node => mapping(bytes32 receiptId => Contest)) private _contests;

    /// @notice A game began.
    /// @param id The game.
    /// @param node Who signed the claim.
    /// @param challenger Who says that it is wrong.
    /// @param defender Who says that it is right.
    /// @param receiptId The claim's receipt id.
    /// @param state First state.
    /// @param turn Who moves next or has won.
    event Opened(
        uint256 indexed id,
        address indexed node,
        address indexed challenger,
        address defender,
        bytes32 receiptId,
        bytes state,
        uint8 turn
    );

    /// @notice A party moved.
    /// @param id The game.
    /// @param turn Who moves next or has won.
    /// @param state State after the move.
    /// @param move The move.
    event Moved(uint256 indexed id, uint8 turn, bytes state, bytes move);

    /// @notice A game ended.
    /// @param id The game.
    /// @param nodeLost Whether the claim was found wrong.
    /// @param timedOut Whether it ended because somebody did not move.
    event Ended(uint256 indexed id, bool nodeLost, bool timedOut);

    /// @notice The claim is too old for a dispute, or from the future.
    /// @param timeMs Its time.
    error OutsideWindow(uint64 timeMs);
    /// @notice The sender disputed this receipt before.
    error AlreadyTried();
    /// @notice The node lost this receipt before.
    error AlreadyLost();
    /// @notice An earlier log has the claim: name the first one.
    /// @param previousSize Size of the log before.
    error LaterLog(uint64 previousSize);
    /// @notice It is not the sender's turn, or the game is over or does not exist.
    error NotYourTurn();
    /// @notice The clock of the party on turn has run out.
    error Late();
    /// @notice The clock of the party on turn has not run out.
    /// @param deadline When it does, in Unix time.
    error NotLate(uint64 deadline);
    /// @notice This is not the game's state: read the latest event.
    error WrongState();
    /// @notice The referee's answer is not a turn.
    error BadTurn(uint8 turn);
    /// @notice Only the jury may call this.
    /// @param sender Who called.
    error OnlyJury(address sender);
    /// @notice Only the node itself may do this.
    /// @param node The node.
    error OnlyNode(address node);

    /// @notice Creates a court without games.
    /// @param nodes Stakes of nodes.
    /// @param log Where nodes post their logs.
    /// @param escrow Money of clients.
    /// @param audits Counts faults, and knows canaries.
    /// @param jury Judge of texts.
    /// @param params Rules.
    constructor(NodeRegistry nodes, ReceiptLog log, Escrow escrow, Audits audits, address jury, Params memory params)
        Judge(nodes, escrow, params.bountyPermille)
        Announcements(params.openSeconds)
        Equivocations(log, audits, params.fraudSlash)
    {
        if (params.clockSeconds == 0 || params.openSeconds == 0 || params.bond > type(uint96).max) revert InvalidParams();
        // Who finds a claim when it is signed can still open a second game after the longest first one.
        uint256 game = 2 * uint256(params.clockSeconds) + 2 * uint256(params.openSeconds);
        if (params.windowSeconds <= game || params.windowSeconds > 365 days) revert InvalidParams();
        if (params.timeoutSlash > params.fraudSlash || params.fraudSlash > type(uint128).max) revert InvalidParams();
        JURY = jury;
        (BOND, TIMEOUT_SLASH) = (params.bond, params.timeoutSlash);
        (CLOCK_SECONDS, WINDOW_SECONDS) = (params.clockSeconds, params.windowSeconds);
    }

    // ---- what parties do ----

    /// @notice Disputes a claim. The sender announced it. The coins of the call are `BOND`.
    /// @param claim The claim.
    /// @param signature The node's signature.
    /// @param opening What is wrong with it, as the referee reads it.
    /// @param salt Salt of the announcement; its subject is `disputeSubject`.
    /// @return id The game.
    function open(bytes calldata claim, bytes calldata signature, bytes calldata opening, bytes32 salt)
        external
        payable
        nonReentrant
        returns (uint256 id)
    {
        id = _open(claim, signature, opening, salt, 0);
    }

    /// @notice Disputes a claim that is in its node's log. The time for that counts from when the log was posted: what a node
    /// writes into the claim cannot shorten it. The sender announced it. The coins of the call are `BOND`.
    /// @param node The node.
    /// @param size Size of the first posted log that has the claim.
    /// @param index The claim's place in it.
    /// @param logged The claim and its path.
    /// @param opening What is wrong with it, as the referee reads it.
    /// @param salt Salt of the announcement; its subject is `disputeSubject`.
    /// @return id The game.
    function openLogged(
        address node,
        uint64 size,
        uint64 index,
        LoggedClaim calldata logged,
        bytes calldata opening,
        bytes32 salt
    ) external payable nonReentrant returns (uint256 id) {
        uint64 posted = _postedAt(node, size, index, logged);
        id = _open(logged.claim, logged.signature, opening, salt, posted);
    }

    /// @dev When the receipt at `index` came to the ledger. A later log has it too, but must not begin the time anew.
    function _postedAt(address node, uint64 size, uint64 index, LoggedClaim calldata logged)
        private
        view
        returns (uint64)
    {
        MerkleLog.check(LOG, node, size, index, logged);
        (,, uint64 previousSize) = LOG.batch(node, size);
        if (previousSize > index) revert LaterLog(previousSize);
        return LOG.timeOf(node, size);
    }

    /// @dev Both ways to begin; `posted` is the Unix time from which on everybody could see the claim, if it is known.
    function _open(
        bytes calldata claim,
        bytes calldata signature,
        bytes calldata opening,
        bytes32 salt,
        uint64 posted
    ) private returns (uint256 id) {
        (ClaimInfo memory info, bytes memory state, uint8 turn) = REFEREE.start(claim, signature, opening);
        uint64 announced = _announced(disputeSubject(info.node, info.receiptId, opening), salt);
        _checkOpen(info, posted, announced);
        tried[info.node][info.receiptId][msg.sender] = true;
        if (disputedAt[info.node][info.receiptId] == 0) disputedAt[info.node][info.receiptId] = block.number;
        _join(info);
        id = _start(info, info.node, false, state, turn);
    }

    /// @notice Accuses an auditor of having passed a canary of the sender, which is the node, without looking. The
    /// auditor can defend the claim; when it is right after all, the canary's bond is the auditor's. The coins of the
    /// call are `BOND`.
    /// @param auditor The auditor.
    /// @param claim The claim, of a canary that was opened.
    /// @param signature The node's signature.
    /// @param opening What is wrong with it, as the referee reads it.
    /// @return id The game.
    function accuse(address auditor, bytes calldata claim, bytes calldata signature, bytes calldata opening)
        external
        payable
        nonReentrant
        returns (uint256 id)
    {
        if (msg.value != BOND) revert WrongBond(msg.value, BOND);
        (ClaimInfo memory info, bytes memory state, uint8 turn) = REFEREE.start(claim, signature, opening);
        if (info.node != msg.sender) revert OnlyNode(info.node);
        AUDITS.beginAccusation(msg.sender, info.receiptId, auditor);
        id = _start(info, auditor, true, state, turn);
    }

    /// @notice Moves. Only the party on turn can, while it has time left.
    /// @param id The game.
    /// @param state State of the game, from the latest event.
    /// @param moved The move, as the referee reads it.
    function move(uint256 id, bytes calldata state, bytes calldata moved) external nonReentrant {
        Game storage game = _games[id];
        if (game.turn > NODE_MOVES || msg.sender != _onTurn(game)) revert NotYourTurn();
        if (block.timestamp > game.deadline) revert Late();
        if (keccak256(state) != game.stateHash) revert WrongState();
        (bytes memory next, uint8 turn) = REFEREE.play(state, moved);
        _stop(game);
        emit Moved(id, turn, next, moved);
        _advance(id, next, turn);
    }

    /// @notice Ends a game in which the clock of the party on turn has run out: it loses. Anybody may call this.
    /// @param id The game.
    function timeout(uint256 id) external nonReentrant {
        Game storage game = _games[id];
        if (game.turn > NODE_MOVES || game.challenger == address(0)) revert NotYourTurn();
        if (block.timestamp <= game.deadline) revert NotLate(game.deadline);
        if (game.turn == NODE_MOVES) (game.turn, game.defenderLeft) = (CHALLENGER_WON, 0);
        else (game.turn, game.challengerLeft) = (NODE_WON, 0);
        _finish(id, game, true);
    }

    /// @notice Records that the jury found a receipt wrong, so that nobody is punished for it again.
    /// @param node The node.
    /// @param receiptId The receipt.
    function markLost(address node, bytes32 receiptId) external {
        if (msg.sender != JURY) revert OnlyJury(msg.sender);
        Lost storage entry = lost[node][receiptId];
        if (entry.finding == Finding.None) entry.finding = Finding.Text;
    }

    /// @notice Records that the jury found a receipt withheld.
    /// @param node The node.
    /// @param index The receipt's place in its log.
    function markWithheld(address node, uint64 index) external {
        if (msg.sender != JURY) revert OnlyJury(msg.sender);
        withheld[node][index] = true;
    }

    /// @notice Records that somebody asked the jury about a receipt.
    /// @param node The node.
    /// @param receiptId The receipt.
    function markDisputed(address node, bytes32 receiptId) external {
        if (msg.sender != JURY) revert OnlyJury(msg.sender);
        if (disputedAt[node][receiptId] == 0) disputedAt[node][receiptId] = block.number;
    }

    // ---- views ----

    /// @notice What an announcement of `open` or `openLogged` is about.
    /// @param node Who signed the claim.
    /// @param receiptId The claim's receipt id.
    /// @param opening What is wrong with it.
    /// @return The subject.
    function disputeSubject(address node, bytes32 receiptId, bytes memory opening) public pure returns (bytes32) {
        return keccak256(abi.encode("dispute", node, receiptId, keccak256(opening)));
    }

    /// @notice What is open about a receipt; all zero when nothing is.
    /// @param node The node.
    /// @param receiptId The receipt.
    /// @return The contest.
    function contestOf(address node, bytes32 receiptId) external view returns (Contest memory) {
        return _contests[node][receiptId];
    }

    /// @notice A game; all zero when there is none.
    /// @param id The game.
    /// @return The game.
    function gameOf(uint256 id) external view returns (Game memory) {
        return _games[id];
    }

    // ---- inside ----

    /// @dev Reverts unless the sender may dispute this claim now. Who announced it `OPEN_SECONDS` before the window closes has
    /// that long to open, however full the blocks are; who announces later has missed it.
    function _checkOpen(ClaimInfo memory info, uint64 posted, uint64 announced) private view {
        uint256 time = Math.max(info.timeMs, uint256(posted) * 1000);
        bool early = info.timeMs > (block.timestamp + MAX_AHEAD_SECONDS) * 1000;
        if (early || time + (WINDOW_SECONDS - OPEN_SECONDS) * 1000 < uint256(announced) * 1000) {
            revert OutsideWindow(info.timeMs);
        }
        if (tried[info.node][info.receiptId][msg.sender]) revert AlreadyTried();
        if (lost[info.node][info.receiptId].finding != Finding.None) revert AlreadyLost();
        if (msg.value != BOND) revert WrongBond(msg.value, BOND);
    }

    /// @dev Counts a game about a receipt. Together they cost the node at most one slash and one price, so the first holds
    /// them and the last lets them go.
    function _join(ClaimInfo memory info) private {
        Contest storage contest = _contests[info.node][info.receiptId];
        bool first = contest.open++ == 0;
        // Two claims of one receipt may name two prices.
        uint128 more = info.price > contest.price ? info.price - contest.price : 0;
        contest.price += more;
        _begin(info.node, first ? FRAUD_SLASH : 0, more);
    }

    /// @dev Takes back `_join`, and pays the bounties of a receipt when its last game has ended: to who opened first among those
    /// that won, so that copying the moves of another and playing them faster earns nothing.
    function _leave(address node, bytes32 receiptId) private {
        Contest storage contest = _contests[node][receiptId];
        bool last = --contest.open == 0;
        _end(node, last ? FRAUD_SLASH : 0, last ? contest.price : 0);
        if (!last) return;
        if (contest.winner != 0) balances[_games[contest.winner].challenger] += contest.bounty;
        delete _contests[node][receiptId];
    }

    /// @dev Records a new game of the sender.
    function _start(ClaimInfo memory info, address defender, bool accusation, bytes memory state, uint8 turn)
        private
        returns (uint256 id)
    {
        id = ++gameCount;
        Game storage game = _games[id];
        (game.challenger, game.defender, game.node) = (msg.sender, defender, info.node);
        (game.payer, game.price, game.bond) = (info.payer, info.price, uint128(msg.value));
        (game.receiptId, game.accusation) = (info.receiptId, accusation);
        (game.challengerLeft, game.defenderLeft) = (uint32(CLOCK_SECONDS), uint32(CLOCK_SECONDS));
        emit Opened(id, info.node, msg.sender, defender, info.receiptId, state, turn);
        _advance(id, state, turn);
    }

    /// @dev Stores the next state, or ends the game.
    function _advance(uint256 id, bytes memory state, uint8 turn) private {
        if (turn > NODE_WON) revert BadTurn(turn);
        Game storage game = _games[id];
        game.turn = turn;
        if (turn > NODE_MOVES) return _finish(id, game, false);
        game.stateHash = keccak256(state);
        uint32 left = turn == CHALLENGER_MOVES ? game.challengerLeft : game.defenderLeft;
        game.deadline = uint64(block.timestamp) + left;
    }

    /// @dev Stops the clock of the party on turn.
    function _stop(Game storage game) private {
        uint32 left = uint32(game.deadline - block.timestamp);
        if (game.turn == CHALLENGER_MOVES) game.challengerLeft = left;
        else game.defenderLeft = left;
    }

    /// @dev Who moves next.
    function _onTurn(Game storage game) private view returns (address) {
        return game.turn == CHALLENGER_MOVES ? game.challenger : game.defender;
    }

    /// @dev Ends a game whose winner is in `turn`.
    function _finish(uint256 id, Game storage game, bool timedOut) private {
        bool nodeLost = game.turn == CHALLENGER_WON;
        bool accusation = game.accusation;
        (address winner, uint256 bond) = (nodeLost ? game.challenger : game.defender, game.bond);
        (game.stateHash, game.bond, game.deadline) = (bytes32(0), 0, 0);
        emit Ended(id, nodeLost, timedOut);
        uint256 burnt = nodeLost ? 0 : _dragged(game) ? bond : bond - bond / 2;
        balances[winner] += bond - burnt;
        if (accusation) {
            AUDITS.endAccusation(game.node, game.receiptId, game.defender, nodeLost);
        } else {
            if (nodeLost) burnt += _lose(id, game, timedOut);
            _leave(game.node, game.receiptId);
        }
        _burn(burnt);
    }

    /// @dev Whether both sides used more than half of their time: then a friend of the node may have played for show, and the
    /// node gets nothing of its bond.
    function _dragged(Game storage game) private view returns (bool) {
        return 2 * uint256(game.challengerLeft) < CLOCK_SECONDS && 2 * uint256(game.defenderLeft) < CLOCK_SECONDS;
    }

    /// @dev Punishes the node for a lost game. When several games about one receipt are lost, the node pays the highest of
    /// the slashes once: a friend's game that it lets time out does not save it from another's verdict.
    /// @return left What must be burnt.
    function _lose(uint256 id, Game storage game, bool timedOut) private returns (uint256 left) {
        Lost storage entry = lost[game.node][game.receiptId];
        Contest storage contest = _contests[game.node][game.receiptId];
        bool first = entry.finding == Finding.None;
        uint256 due = timedOut ? TIMEOUT_SLASH : FRAUD_SLASH;
        Finding finding = timedOut ? Finding.TimedOut : Finding.Fraud;
        if (first && AUDITS.onNodeLost(game.node, game.receiptId, game.challenger)) (due, finding) = (0, Finding.Canary);
        // What the jury or an opened canary settled stays settled.
        else if (entry.finding >= Finding.Text) return 0;
        due = due > entry.slashed ? due - entry.slashed : 0;
        if (finding > entry.finding) entry.finding = finding;
        if (contest.winner == 0 || id < contest.winner) contest.winner = uint64(id);
        uint256 taken;
        uint256 bounty;
        (taken, bounty, left) = _charge(game, due, first);
        contest.bounty += uint128(bounty);
        entry.slashed += uint128(taken);
    }

    /// @dev `_punish` for a lost game; only the first about a receipt refunds its payer.
    function _charge(Game storage game, uint256 due, bool first) private returns (uint256, uint256, uint256) {
        (address payer, uint256 price) = first ? (game.payer, uint256(game.price)) : (address(0), 0);
        return _punish(game.node, game.receiptId, due, payer, price);
    }
}
