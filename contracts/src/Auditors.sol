// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";

/// @title Auditors
/// @notice Who checks answers of which models, with how much stake, now, at every block and at every time before. Anyone who
/// stakes may join.
/// @dev Life of an auditor: `join` -> `requestExit`, or slashed below half of `MIN_STAKE` -> `withdraw`. Half, so that a few
/// missed audits end nobody's service: whoever could end it could choose the jury. The stake counts in draws only until the
/// auditor leaves, but what it was drawn for before stays its duty, so `UNBONDING_SECONDS` is longer than an audit.
/// Audits draw among those who registered the model (`weights`), juries among all, by tenured stake (`tenured`).
contract Auditors is ReentrancyGuardTransient {
    using Checkpoints for Checkpoints.Trace208;

    /// @dev One auditor. `exitAt` is the Unix time from which on it can withdraw, zero while it can be drawn.
    struct Auditor {
        uint128 stake;
        uint64 exitAt;
        uint64 holds;
    }

    /// @notice Longest unbonding delay that a network can choose.
    uint64 public constant MAX_UNBONDING_SECONDS = 365 days;
    /// @notice Most models of an auditor: a change of its stake changes the total of each of them in one transaction.
    uint256 public constant MAX_MODELS = 64;

    /// @notice Smallest stake with which one can join, in wei.
    uint256 public immutable MIN_STAKE;
    /// @notice Time from `requestExit` until the stake can be withdrawn, in seconds.
    uint64 public immutable UNBONDING_SECONDS;
    /// @notice First slasher.
    address public immutable AUDITS;
    /// @notice Second slasher.
    address public immutable JURY;

    /// @dev Auditors and their models.
    mapping(address auditor => Auditor) private _auditors;
    mapping(address auditor => bytes32[]) private _models;
    /// @dev By block number: stakes that can be drawn, 1 where an auditor is registered for a model, and the sums of models.
    mapping(address auditor => Checkpoints.Trace208) private _stakes;
    mapping(address auditor => mapping(bytes32 model => Checkpoints.Trace208)) private _registered;
    mapping(bytes32 model => Checkpoints.Trace208) private _totals;
    /// @dev By Unix time: stakes that can be drawn, and their sum.
    mapping(address auditor => Checkpoints.Trace208) private _history;
    Checkpoints.Trace208 private _total;

    /// @notice An auditor's stake changed.
    /// @param auditor The auditor.
    /// @param stake Its stake, in wei.
    /// @param exitAt Zero when it can be drawn, else the Unix time from which on it can withdraw.
    event StakeChanged(address indexed auditor, uint256 stake, uint64 exitAt);

    /// @notice An auditor registered a model, or ended that.
    /// @param auditor The auditor.
    /// @param model The model.
    /// @param registered Whether it can be drawn for it from now on.
    event ModelChanged(address indexed auditor, bytes32 indexed model, bool registered);

    /// @notice An auditor lost stake.
    /// @param auditor The auditor.
    /// @param amount What it lost, in wei.
    event AuditorSlashed(address indexed auditor, uint256 amount);

    /// @notice An auditor took its stake out.
    /// @param auditor The auditor.
    /// @param amount The stake in wei.
    event Withdrawn(address indexed auditor, uint256 amount);

    /// @notice The constructor was given useless rules.
    error InvalidParams();
    /// @notice The sender is an auditor, or did not withdraw after leaving.
    error AlreadyJoined();
    /// @notice The stake is too low.
    /// @param stake What it would be, in wei.
    /// @param minimum `MIN_STAKE`.
    error StakeTooLow(uint256 stake, uint256 minimum);
    /// @notice The stake does not fit into 120 bits.
    /// @param stake The stake in wei.
    error StakeTooHigh(uint256 stake);
    /// @notice The sender is no auditor, or left.
    error NotAuditor();
    /// @notice The auditor would have more than `MAX_MODELS` models.
    error TooManyModels();
    /// @notice The model is registered already, or is not, or is no id.
    /// @param model The model.
    error BadModel(bytes32 model);
    /// @notice The sender did not leave, or has nothing.
    error NothingToWithdraw();
    /// @notice The unbonding delay is not over.
    /// @param exitAt When it is.
    error StillUnbonding(uint64 exitAt);
    /// @notice The auditor is accused: wait for the end of the game.
    error Held();
    /// @notice Only the contracts that judge auditors may call this.
    /// @param sender Who called.
    error OnlySlasher(address sender);

    /// @notice Creates an empty register.
    /// @param minStake Smallest stake, in wei; not zero, below 2^120.
    /// @param unbondingSeconds At most `MAX_UNBONDING_SECONDS`.
    /// @param audits First slasher.
    /// @param jury Second slasher.
    constructor(uint256 minStake, uint64 unbondingSeconds, address audits, address jury) {
        if (minStake == 0 || minStake > type(uint120).max) revert InvalidParams();
        if (unbondingSeconds > MAX_UNBONDING_SECONDS) revert InvalidParams();
        (MIN_STAKE, UNBONDING_SECONDS, AUDITS, JURY) = (minStake, unbondingSeconds, audits, jury);
    }

    /// @dev Lets only slashers call.
    modifier onlySlasher() {
        if (msg.sender != AUDITS && msg.sender != JURY) revert OnlySlasher(msg.sender);
        _;
    }

    // ---- what an auditor does ----

    /// @notice Makes the sender an auditor with the coins of the call as stake. It can be drawn for answers of these models
    /// that are posted in later blocks.
    /// @param models Models that it can compute, at most `MAX_MODELS`.
    function join(bytes32[] calldata models) external payable {
        if (_auditors[msg.sender].stake != 0) revert AlreadyJoined();
        if (msg.value < MIN_STAKE) revert StakeTooLow(msg.value, MIN_STAKE);
        _auditors[msg.sender].exitAt = 0;
        _set(msg.sender, msg.value);
        _add(models);
    }

    /// @notice Adds the coins of the call to the sender's stake.
    function topUp() external payable {
        Auditor storage entry = _active(msg.sender);
        _set(msg.sender, entry.stake + msg.value);
    }

    /// @notice Registers more models: the sender can be drawn for their answers that are posted in later blocks.
    /// @param models The models.
    function addModels(bytes32[] calldata models) external {
        _active(msg.sender);
        _add(models);
    }

    /// @notice Ends the sender's duty for answers of these models that are posted from this block on.
    /// @param models The models.
    function removeModels(bytes32[] calldata models) external {
        Auditor storage entry = _active(msg.sender);
        bytes32[] storage list = _models[msg.sender];
        for (uint256 i = 0; i < models.length; ++i) {
            uint256 place = 0;
            while (place < list.length && list[place] != models[i]) ++place;
            if (place == list.length) revert BadModel(models[i]);
            list[place] = list[list.length - 1];
            list.pop();
            _register(msg.sender, models[i], false);
            _weigh(_totals[models[i]], uint48(block.number), entry.stake, 0);
        }
    }

    /// @notice Ends the sender's duty for what is posted from this block on, and starts its unbonding delay.
    function requestExit() external {
        _active(msg.sender);
        _leave(msg.sender);
    }

    /// @notice Sends the stake back after the unbonding delay. The auditor may then join again.
    function withdraw() external nonReentrant {
        Auditor storage entry = _auditors[msg.sender];
        uint256 amount = entry.stake;
        if (amount == 0 || entry.exitAt == 0) revert NothingToWithdraw();
        if (block.timestamp < entry.exitAt) revert StillUnbonding(entry.exitAt);
        if (entry.holds > 0) revert Held();
        (entry.stake, entry.exitAt) = (0, 0);
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    // ---- what a slasher does ----

    /// @notice Takes stake from an auditor, also from one that leaves, and sends it to the slasher.
    /// @param auditor The auditor.
    /// @param amount What to take, in wei.
    /// @return taken What was taken: less when there is less.
    function take(address auditor, uint256 amount) external nonReentrant onlySlasher returns (uint256 taken) {
        Auditor storage entry = _auditors[auditor];
        uint256 stake = entry.stake;
        taken = Math.min(amount, stake);
        if (taken == 0) return 0;
        emit AuditorSlashed(auditor, taken);
        if (entry.exitAt != 0) {
            entry.stake = uint128(stake - taken);
            emit StakeChanged(auditor, stake - taken, entry.exitAt);
        } else {
            _set(auditor, stake - taken);
            if ((stake - taken) * 2 < MIN_STAKE) _leave(auditor);
        }
        Address.sendValue(payable(msg.sender), taken);
    }

    /// @notice Keeps an auditor from withdrawing until `unhold`.
    /// @param auditor The auditor.
    function hold(address auditor) external onlySlasher {
        ++_auditors[auditor].holds;
    }

    /// @notice Takes back one `hold`.
    /// @param auditor The auditor.
    function unhold(address auditor) external onlySlasher {
        --_auditors[auditor].holds;
    }

    // ---- views ----

    /// @notice What is recorded about an auditor.
    /// @param auditor The auditor.
    /// @return stake Its stake in wei, also while it leaves.
    /// @return exitAt Zero while it can be drawn, else the Unix time from which on it can withdraw.
    /// @return holds Games in which it is accused.
    function auditorInfo(address auditor) external view returns (uint256 stake, uint64 exitAt, uint64 holds) {
        Auditor storage entry = _auditors[auditor];
        return (entry.stake, entry.exitAt, entry.holds);
    }

    /// @notice Models for which an auditor can be drawn now.
    /// @param auditor The auditor.
    /// @return The models, in no order.
    function modelsOf(address auditor) external view returns (bytes32[] memory) {
        return _models[auditor];
    }

    /// @notice What counted in draws for a model at the end of a past block.
    /// @param auditor The auditor.
    /// @param model The model.
    /// @param blockNumber The block.
    /// @return stake The auditor's stake, in wei; zero when it was not registered for the model.
    /// @return total All stakes that were registered for the model, in wei.
    function weights(address auditor, bytes32 model, uint256 blockNumber)
        external
        view
        returns (uint256 stake, uint256 total)
    {
        uint48 key = uint48(blockNumber);
        if (_registered[auditor][model].upperLookupRecent(key) != 0) stake = _stakes[auditor].upperLookupRecent(key);
        total = _totals[model].upperLookupRecent(key);
    }

    /// @notice Stake that counted both at a past time and at one before it: the lower of the two, so that stake that came
    /// yesterday gives no vote today.
    /// @param auditor The auditor.
    /// @param time Unix time; a past one.
    /// @param before An earlier one.
    /// @return stake Tenured stake of the auditor, in wei.
    /// @return total At least the tenured stake of all, in wei: the lower of both sums.
    function tenured(address auditor, uint64 time, uint64 before) external view returns (uint256 stake, uint256 total) {
        Checkpoints.Trace208 storage own = _history[auditor];
        stake = Math.min(own.upperLookupRecent(uint48(time)), own.upperLookupRecent(uint48(before)));
        total = Math.min(_total.upperLookupRecent(uint48(time)), _total.upperLookupRecent(uint48(before)));
    }

    // ---- inside ----

    /// @dev An auditor that can be drawn.
    function _active(address auditor) private view returns (Auditor storage entry) {
        entry = _auditors[auditor];
        if (entry.stake == 0 || entry.exitAt != 0) revert NotAuditor();
    }

    /// @dev Registers the sender for models.
    function _add(bytes32[] calldata models) private {
        bytes32[] storage list = _models[msg.sender];
        if (list.length + models.length > MAX_MODELS) revert TooManyModels();
        uint256 stake = _auditors[msg.sender].stake;
        for (uint256 i = 0; i < models.length; ++i) {
            bytes32 model = models[i];
            // Zero stands for a model that nobody knows.
            if (model == bytes32(0) || _registered[msg.sender][model].latest() != 0) revert BadModel(model);
            list.push(model);
            _register(msg.sender, model, true);
            _weigh(_totals[model], uint48(block.number), 0, stake);
        }
    }

    /// @dev Records whether an auditor is registered for a model from this block on.
    function _register(address auditor, bytes32 model, bool registered) private {
        _registered[auditor][model].push(uint48(block.number), registered ? 1 : 0);
        emit ModelChanged(auditor, model, registered);
    }

    /// @dev Changes the stake of an auditor that can be drawn.
    function _set(address auditor, uint256 stake) private {
        if (stake > type(uint120).max) revert StakeTooHigh(stake);
        _auditors[auditor].stake = uint128(stake);
        _count(auditor, stake);
        emit StakeChanged(auditor, stake, 0);
    }

    /// @dev Takes an auditor out of the draws.
    function _leave(address auditor) private {
        Auditor storage entry = _auditors[auditor];
        // Zero means "can be drawn"; no block has that time.
        entry.exitAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        _count(auditor, 0);
        bytes32[] memory models = _models[auditor];
        delete _models[auditor];
        for (uint256 i = 0; i < models.length; ++i) _register(auditor, models[i], false);
        emit StakeChanged(auditor, entry.stake, entry.exitAt);
    }

    /// @dev Records what counts in draws from this block and time on.
    function _count(address auditor, uint256 stake) private {
        (uint208 old,) = _stakes[auditor].push(uint48(block.number), uint208(stake));
        bytes32[] storage list = _models[auditor];
        for (uint256 i = 0; i < list.length; ++i) _weigh(_totals[list[i]], uint48(block.number), old, stake);
        _history[auditor].push(uint48(block.timestamp), uint208(stake));
        _weigh(_total, uint48(block.timestamp), old, stake);
    }

    /// @dev Records a sum from a block or time on.
    function _weigh(Checkpoints.Trace208 storage sum, uint48 key, uint256 old, uint256 stake) private {
        sum.push(key, uint208(sum.latest() - old + stake));
    }
}
