// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
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
/// turns until the referee can decide by a small computation. Who does not move in time loses.
/// @dev Only the hash of a game's state is stored; the events have the state itself. A lost bond goes half to the node,
/// half to `BURN`: if the node got all of it, it could fill its own `MAX_OPEN` places with games for nothing.
contract Disputes is Equivocations {
    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Bond of a challenger when no other dispute about the node is open, in wei; each open one adds as much.
        uint256 bond;
        /// @dev Time for a move, in seconds.
        uint64 moveSeconds;
        /// @dev Time after a claim was signed in which it can be disputed, in seconds.
        uint64 windowSeconds;
        /// @dev What a wrong answer costs a node, in wei.
        uint256 fraudSlash;
        /// @dev What it costs a node not to move, in wei. Not much less than `fraudSlash`, else cheaters do not move.
        uint256 timeoutSlash;
        /// @dev Part of a slash that the challenger gets, in thousandths.
        uint256 bountyPermille;
        /// @dev Most open disputes about a node.
        uint256 maxOpen;
    }

    /// @notice A game.
    struct Game {
        /// @dev Who says that the claim is wrong.
        address challenger;
        /// @dev Unix time until which the party on turn may move.
        uint64 deadline;
        /// @dev Whose turn it is, or who has won.
        uint8 turn;
        /// @dev Whether it is about an auditor's duty and not about the node's.
        bool accusation;
        /// @dev Who says that it is right: the node, or an auditor whom the node accuses of not having looked.
        address defender;
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
        /// @dev The node did not move.
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

    /// @notice How far in the future a claim's time may be, in seconds.
    uint64 public constant MAX_AHEAD_SECONDS = 600;

    /// @notice Bond when nothing else is open, in wei.
    uint256 public immutable BOND;
    /// @notice Time for a move, in seconds.
    uint64 public immutable MOVE_SECONDS;
    /// @notice Time for a dispute, in seconds.
    uint64 public immutable WINDOW_SECONDS;
    /// @notice Slash for not moving, in wei.
    uint256 public immutable TIMEOUT_SLASH;
    /// @notice Most open disputes about a node.
    uint256 public immutable MAX_OPEN;
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
    /// @notice Too many disputes about the node are open: wait for one to end.
    /// @param node The node.
    error TooManyOpen(address node);
    /// @notice An earlier log has the claim: name the first one.
    /// @param previousSize Size of the log before.
    error LaterLog(uint64 previousSize);
    /// @notice It is not the sender's turn, or the game is over or does not exist.
    error NotYourTurn();
    /// @notice The time for the move is over.
    error Late();
    /// @notice The time for the move is not over.
    /// @param deadline When it is, in Unix time.
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
        Equivocations(log, audits, params.fraudSlash)
    {
        if (params.moveSeconds == 0 || params.moveSeconds > 30 days || params.windowSeconds > 365 days) {
            revert InvalidParams();
        }
        if (params.bond > type(uint96).max || params.maxOpen == 0 || params.maxOpen > type(uint16).max) {
            revert InvalidParams();
        }
        if (params.timeoutSlash > params.fraudSlash || params.fraudSlash > type(uint128).max) revert InvalidParams();
        JURY = jury;
        (BOND, MAX_OPEN, TIMEOUT_SLASH) = (params.bond, params.maxOpen, params.timeoutSlash);
        (MOVE_SECONDS, WINDOW_SECONDS) = (params.moveSeconds, params.windowSeconds);
    }

    // ---- what parties do ----

    /// @notice Disputes a claim. The coins of the call are `bondFor(node)`.
    /// @param claim The claim.
    /// @param signature The node's signature.
    /// @param opening What is wrong with it, as the referee reads it.
    /// @return id The game.
    function open(bytes calldata claim, bytes calldata signature, bytes calldata opening)
        external
        payable
        nonReentrant
        returns (uint256 id)
    {
        id = _open(claim, signature, opening, 0);
    }

    /// @notice Disputes a claim that is in its node's log. The time for that counts from when the log was posted: what a node
    /// writes into the claim cannot shorten it. The coins of the call are `bondFor(node)`.
    /// @param node The node.
    /// @param size Size of the first posted log that has the claim.
    /// @param index The claim's place in it.
    /// @param logged The claim and its path.
    /// @param opening What is wrong with it, as the referee reads it.
    /// @return id The game.
    function openLogged(address node, uint64 size, uint64 index, LoggedClaim calldata logged, bytes calldata opening)
        external
        payable
        nonReentrant
        returns (uint256 id)
    {
        MerkleLog.check(LOG, node, size, index, logged);
        id = _open(logged.claim, logged.signature, opening, _postedAt(node, size, index));
    }

    /// @dev When the receipt at `index` came to the ledger. A later log has it too, but must not begin the time anew.
    function _postedAt(address node, uint64 size, uint64 index) private view returns (uint64) {
        (,, uint64 previousSize) = LOG.batch(node, size);
        if (previousSize > index) revert LaterLog(previousSize);
        return LOG.timeOf(node, size);
    }

    /// @dev Both ways to begin; `posted` is the Unix time from which on everybody could see the claim, if it is known.
    function _open(bytes calldata claim, bytes calldata signature, bytes calldata opening, uint64 posted)
        private
        returns (uint256 id)
    {
        (ClaimInfo memory info, bytes memory state, uint8 turn) = REFEREE.start(claim, signature, opening);
        _checkOpen(info, posted);
        tried[info.node][info.receiptId][msg.sender] = true;
        if (disputedAt[info.node][info.receiptId] == 0) disputedAt[info.node][info.receiptId] = block.number;
        _begin(info.node);
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

    /// @notice Moves. Only the party on turn can, before its deadline.
    /// @param id The game.
    /// @param state State of the game, from the latest event.
    /// @param moved The move, as the referee reads it.
    function move(uint256 id, bytes calldata state, bytes calldata moved) external nonReentrant {
        Game storage game = _games[id];
        if (game.turn > NODE_MOVES || msg.sender != _onTurn(game)) revert NotYourTurn();
        if (block.timestamp > game.deadline) revert Late();
        if (keccak256(state) != game.stateHash) revert WrongState();
        (bytes memory next, uint8 turn) = REFEREE.play(state, moved);
        emit Moved(id, turn, next, moved);
        _advance(id, next, turn);
    }

    /// @notice Ends a game in which the party on turn did not move in time: it loses. Anybody may call this.
    /// @param id The game.
    function timeout(uint256 id) external nonReentrant {
        Game storage game = _games[id];
        if (game.turn > NODE_MOVES || game.challenger == address(0)) revert NotYourTurn();
        if (block.timestamp <= game.deadline) revert NotLate(game.deadline);
        game.turn = game.turn == NODE_MOVES ? CHALLENGER_WON : NODE_WON;
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

    /// @notice Bond of the next dispute about a node.
    /// @param node The node.
    /// @return Coins in wei.
    function bondFor(address node) public view returns (uint256) {
        return BOND * (1 + openCount[node]);
    }

    /// @notice A game; all zero when there is none.
    /// @param id The game.
    /// @return The game.
    function gameOf(uint256 id) external view returns (Game memory) {
        return _games[id];
    }

    // ---- inside ----

    /// @dev Reverts unless the sender may dispute this claim now.
    function _checkOpen(ClaimInfo memory info, uint64 posted) private view {
        uint256 time = Math.max(info.timeMs, uint256(posted) * 1000);
        bool early = info.timeMs > (block.timestamp + MAX_AHEAD_SECONDS) * 1000;
        if (early || time + WINDOW_SECONDS * 1000 < block.timestamp * 1000) {
            revert OutsideWindow(info.timeMs);
        }
        if (tried[info.node][info.receiptId][msg.sender]) revert AlreadyTried();
        if (lost[info.node][info.receiptId].finding != Finding.None) revert AlreadyLost();
        if (openCount[info.node] >= MAX_OPEN) revert TooManyOpen(info.node);
        uint256 bond = bondFor(info.node);
        if (msg.value != bond) revert WrongBond(msg.value, bond);
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
        game.deadline = uint64(block.timestamp) + MOVE_SECONDS;
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
        if (accusation) AUDITS.endAccusation(game.node, game.receiptId, game.defender, nodeLost);
        else _end(game.node);

        uint256 burnt = nodeLost ? 0 : bond - bond / 2;
        balances[winner] += bond - burnt;
        if (nodeLost && !accusation) burnt += _lose(game, timedOut);
        _burn(burnt);
    }

    /// @dev Punishes the node for a lost game. When several games about one receipt are lost, the node pays the highest of
    /// the slashes once: a friend's game that it lets time out does not save it from another's verdict.
    /// @return left What must be burnt.
    function _lose(Game storage game, bool timedOut) private returns (uint256 left) {
        (address node, bytes32 receiptId) = (game.node, game.receiptId);
        Lost storage entry = lost[node][receiptId];
        bool first = entry.finding == Finding.None;
        uint256 due = timedOut ? TIMEOUT_SLASH : FRAUD_SLASH;
        Finding finding = timedOut ? Finding.TimedOut : Finding.Fraud;
        if (first && AUDITS.onNodeLost(node, receiptId, game.challenger)) (due, finding) = (0, Finding.Canary);
        // What the jury or an opened canary settled stays settled.
        else if (entry.finding >= Finding.Text) return 0;
        due = due > entry.slashed ? due - entry.slashed : 0;
        if (finding > entry.finding) entry.finding = finding;
        uint256 taken;
        (taken, left) =
            _punish(node, receiptId, due, game.challenger, first ? game.payer : address(0), first ? game.price : 0);
        entry.slashed += uint128(taken);
    }
}
