// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Audits} from "./Audits.sol";
import {Disputes} from "./Disputes.sol";
import {ClaimInfo} from "./IReferee.sol";
import {LoggedClaim, MerkleLog} from "./MerkleLog.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Canaries
/// @notice Answers that a node gives wrong on purpose, to find out which auditors do not look.
/// @dev A canary costs its bond when it is found, and the bond is more than an answer can earn, so it is no shield: a node that
/// cheats a client behind a canary loses the bond to who disputes, and the price to the client. It proves nothing about
/// an answer that a node calls it a canary; so an auditor that said "right" loses stake only when the node wins a game
/// against it (`Disputes.accuse`), in which it can defend the answer.
contract Canaries is ReentrancyGuardTransient {
    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Time after which an unopened canary is lost, and the bond of an opened one that nobody found comes back, in
        /// seconds. Longer than the time for disputes and their games.
        uint64 seconds_;
        /// @dev Bond of a canary, in wei; more than one answer can earn.
        uint256 bond;
        /// @dev Most canaries of a node that are planted and not opened.
        uint256 max;
    }

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
        /// @dev The receipt's model.
        bytes32 model;
    }

    /// @notice Where bonds go that are nobody's.
    address payable public constant BURN = payable(0x000000000000000000000000000000000000dEaD);

    /// @notice Where nodes post their logs.
    ReceiptLog public immutable LOG;
    /// @notice Draws and verdicts.
    Audits public immutable AUDITS;
    /// @notice Judge of computations.
    Disputes public immutable DISPUTES;
    /// @notice See `Params`.
    uint64 public immutable CANARY_SECONDS;
    /// @notice See `Params`.
    uint256 public immutable CANARY_BOND;
    /// @notice See `Params`.
    uint256 public immutable MAX_CANARIES;

    /// @notice What can be withdrawn, in wei.
    mapping(address owner => uint256) public balances;
    /// @notice Block and time in which a canary was planted; zero when it is not, or not any more.
    mapping(address node => mapping(bytes32 commitment => uint128 blockAndTime)) public planted;
    /// @notice Canaries of a node that are planted and not opened.
    mapping(address node => uint256) public plantedCount;
    /// @dev Opened canaries by receipt id, and their receipt ids by index.
    mapping(address node => mapping(bytes32 receiptId => Canary)) private _canaries;
    mapping(address node => mapping(uint64 index => bytes32 receiptId)) private _canaryAt;

    /// @notice A node planted a canary.
    /// @param node The node.
    /// @param commitment Hash of node, index and salt.
    event CanaryPlanted(address indexed node, bytes32 commitment);

    /// @notice A node opened a canary: whoever was given this answer was cheated, and gets its price back by a dispute.
    /// @param node The node.
    /// @param index The receipt.
    /// @param receiptId Its id.
    event CanaryOpened(address indexed node, uint64 indexed index, bytes32 indexed receiptId);

    /// @notice A canary is over, or a part of its bond was paid.
    /// @param node The node.
    /// @param index The receipt; zero for one that was never opened.
    /// @param to Who got it; `BURN` for nobody.
    /// @param amount How much, in wei.
    event CanaryPaidOut(address indexed node, uint64 indexed index, address indexed to, uint256 amount);

    /// @notice Somebody withdrew.
    /// @param owner Who.
    /// @param amount How much, in wei.
    event Withdrawn(address indexed owner, uint256 amount);

    /// @notice The constructor was given useless rules.
    error InvalidParams();
    /// @notice Only `Audits` may call this.
    /// @param sender Who called.
    error OnlyAudits(address sender);
    /// @notice There is no such canary, or it was planted after the batch or after the first dispute.
    error NoCanary();
    /// @notice The canary was planted before, or too many are.
    error CannotPlant();
    /// @notice The coins of the call are not the bond.
    /// @param given What they are, in wei.
    /// @param bond What they must be.
    error WrongBond(uint256 given, uint256 bond);
    /// @notice The time for this is over.
    error Late();
    /// @notice It is too early for this.
    /// @param time Unix time after which it works.
    error TooEarly(uint64 time);
    /// @notice The receipt is not in the batch.
    /// @param index The index.
    error BadIndex(uint64 index);
    /// @notice The sender has nothing to withdraw.
    error NothingToWithdraw();

    /// @notice Creates a field without canaries.
    /// @param log Where nodes post their logs.
    /// @param audits Draws and verdicts.
    /// @param disputes Judge of computations.
    /// @param params Rules.
    constructor(ReceiptLog log, Audits audits, Disputes disputes, Params memory params) {
        if (params.seconds_ > 365 days || params.bond > type(uint96).max) revert InvalidParams();
        (LOG, AUDITS, DISPUTES) = (log, audits, disputes);
        (CANARY_SECONDS, CANARY_BOND, MAX_CANARIES) = (params.seconds_, params.bond, params.max);
    }

    /// @dev Lets only `Audits` call.
    modifier onlyAudits() {
        if (msg.sender != address(AUDITS)) revert OnlyAudits(msg.sender);
        _;
    }

    // ---- what a node does ----

    /// @notice Plants a canary of the sender, before it posts the batch. The coins of the call are `CANARY_BOND`.
    /// @param commitment `keccak256(abi.encode(node, index, salt))`.
    function plantCanary(bytes32 commitment) external payable {
        if (msg.value != CANARY_BOND) revert WrongBond(msg.value, CANARY_BOND);
        if (planted[msg.sender][commitment] != 0 || plantedCount[msg.sender] >= MAX_CANARIES) revert CannotPlant();
        ++plantedCount[msg.sender];
        planted[msg.sender][commitment] = uint128((block.number << 64) | block.timestamp);
        emit CanaryPlanted(msg.sender, commitment);
    }

    /// @notice Opens a canary of the sender, when auditors have committed and until faults of the batch can no longer be taken
    /// to a judge. From then on a lost game about it costs the bond instead of stake.
    /// @param size Size of the log of its batch.
    /// @param index The receipt.
    /// @param salt Salt of its commitment.
    /// @param logged The claim and its path.
    function openCanary(uint64 size, uint64 index, bytes32 salt, LoggedClaim calldata logged) external nonReentrant {
        address node = msg.sender;
        bytes32 commitment = keccak256(abi.encode(node, index, salt));
        (uint64 first, uint64 blockNumber, uint64 commitUntil,) = AUDITS.timesOf(node, size);
        if (index < first || index >= size) revert BadIndex(index);
        uint128 when = planted[node][commitment];
        if (when == 0 || when >> 64 >= blockNumber || _canaryAt[node][index] != bytes32(0)) revert NoCanary();
        _after(commitUntil);
        if (block.timestamp > AUDITS.backUntil(node, size)) revert Late();
        ClaimInfo memory info = MerkleLog.check(LOG, node, size, index, logged);
        uint256 disputed = DISPUTES.disputedAt(node, info.receiptId);
        if (_canaries[node][info.receiptId].size != 0 || (disputed != 0 && when >> 64 >= disputed)) revert NoCanary();
        _unplant(node, commitment);
        uint128 bond = uint128(CANARY_BOND);
        _canaryAt[node][index] = info.receiptId;
        _canaries[node][info.receiptId] =
            Canary({bond: bond, left: bond, earned: 0, index: index, size: size, model: info.model});
        emit CanaryOpened(node, index, info.receiptId);
    }

    /// @notice Gives the sender what is left of a bond when nobody can find its canary any more, and ends the canary. What
    /// auditors found and did not claim is burnt.
    /// @param index The receipt.
    function reclaimCanary(uint64 index) external nonReentrant {
        bytes32 receiptId = _canaryAt[msg.sender][index];
        Canary storage canary = _canary(msg.sender, receiptId);
        _after(_revealUntil(msg.sender, canary.size) + CANARY_SECONDS);
        bool found = AUDITS.flags(msg.sender, canary.model, index) != 0;
        uint256 left = canary.left;
        _payCanary(msg.sender, canary, found ? BURN : msg.sender, left);
        delete _canaries[msg.sender][receiptId];
    }

    // ---- what others do ----

    /// @notice Pays the sender its share of the bond of a canary that it found.
    /// @param node The node.
    /// @param index The receipt.
    function claimCanary(address node, uint64 index) external nonReentrant {
        Canary storage canary = _canary(node, _canaryAt[node][index]);
        _after(_revealUntil(node, canary.size));
        uint256 found = AUDITS.onCanaryFound(node, canary.model, index, msg.sender);
        _payCanary(node, canary, msg.sender, canary.bond / found);
    }

    /// @notice Burns the bond of a canary that was not opened in time. Anybody may call this.
    /// @param node The node.
    /// @param commitment Its commitment.
    function expireCanary(address node, bytes32 commitment) external nonReentrant {
        uint128 when = planted[node][commitment];
        if (when == 0) revert NoCanary();
        _after(uint64(when) + CANARY_SECONDS);
        _unplant(node, commitment);
        emit CanaryPaidOut(node, 0, BURN, CANARY_BOND);
        Address.sendValue(BURN, CANARY_BOND);
    }

    /// @notice Pays what the sender is owed.
    function withdraw() external nonReentrant {
        uint256 amount = balances[msg.sender];
        if (amount == 0) revert NothingToWithdraw();
        balances[msg.sender] = 0;
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    // ---- what audits say ----

    /// @notice A node lost a receipt.
    /// @param node The node.
    /// @param receiptId The receipt; zero when it is not known.
    /// @param reporter Who gets the bond.
    /// @return Whether it is an opened canary.
    function onLost(address node, bytes32 receiptId, address reporter) external onlyAudits returns (bool) {
        Canary storage canary = _canaries[node][receiptId];
        if (canary.size == 0) return false;
        _payCanary(node, canary, reporter, canary.left);
        return true;
    }

    /// @notice The game of an accusation ended. The coins of the call are what the auditor lost.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @param auditor The auditor.
    /// @param guilty Whether the answer is wrong, or the auditor did not defend it.
    /// @return index The receipt.
    function onJudged(address node, bytes32 receiptId, address auditor, bool guilty)
        external
        payable
        onlyAudits
        returns (uint64 index)
    {
        Canary storage canary = _canaries[node][receiptId];
        index = canary.index;
        if (guilty) {
            uint256 own = Math.min(msg.value, canary.bond - canary.earned);
            canary.earned += uint128(own);
            balances[node] += own;
            if (msg.value > own) Address.sendValue(BURN, msg.value - own);
            return index;
        }
        // It is no canary: it protects the node no longer.
        _payCanary(node, canary, auditor, canary.left);
        if (canary.size != 0) delete _canaryAt[node][index];
        delete _canaries[node][receiptId];
    }

    // ---- views ----

    /// @notice An opened canary; all zero when there is none.
    /// @param node The node.
    /// @param receiptId The receipt.
    /// @return The canary.
    function canaryOf(address node, bytes32 receiptId) external view returns (Canary memory) {
        return _canaries[node][receiptId];
    }

    /// @notice Whether a receipt is an opened canary.
    /// @param node The node.
    /// @param index The receipt.
    /// @return Whether it is.
    function isOpened(address node, uint64 index) external view returns (bool) {
        return _canaryAt[node][index] != bytes32(0);
    }

    /// @notice What an accusation is about. Reverts unless the canary is opened and its time for accusations runs.
    /// @param node The node.
    /// @param receiptId The canary's receipt.
    /// @return size Size of the log of its batch.
    /// @return index The receipt.
    /// @return model Its model.
    function accusable(address node, bytes32 receiptId) external view returns (uint64 size, uint64 index, bytes32 model) {
        Canary storage canary = _canary(node, receiptId);
        (size, index, model) = (canary.size, canary.index, canary.model);
        uint64 end = _revealUntil(node, size);
        _after(end);
        if (block.timestamp > end + CANARY_SECONDS) revert Late();
    }

    // ---- inside ----

    /// @dev Reverts until a time is over.
    function _after(uint64 time) private view {
        if (block.timestamp <= time) revert TooEarly(time);
    }

    /// @dev Unix time until which auditors reveal.
    function _revealUntil(address node, uint64 size) private view returns (uint64 time) {
        (,,, time) = AUDITS.timesOf(node, size);
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

    /// @dev Pays a part of a bond, at most what is left.
    function _payCanary(address node, Canary storage canary, address to, uint256 amount) private {
        uint256 paid = Math.min(amount, canary.left);
        canary.left -= uint128(paid);
        emit CanaryPaidOut(node, canary.index, to, paid);
        if (to == BURN) Address.sendValue(BURN, paid);
        else balances[to] += paid;
    }
}
