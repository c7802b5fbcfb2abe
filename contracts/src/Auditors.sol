// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";

/// @title Auditors
/// @notice Who checks answers, with how much stake, now and at every block before. Anyone who stakes may join.
/// @dev Life of an auditor: `join` -> `requestExit`, or slashed below `MIN_STAKE` -> `withdraw`. The stake counts in draws only
/// until it leaves, but what it was drawn for before stays its duty, so `UNBONDING_SECONDS` is longer than an audit.
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

    /// @notice Smallest stake, in wei.
    uint256 public immutable MIN_STAKE;
    /// @notice Time from `requestExit` until the stake can be withdrawn, in seconds.
    uint64 public immutable UNBONDING_SECONDS;
    /// @notice First slasher.
    address public immutable AUDITS;
    /// @notice Second slasher.
    address public immutable JURY;

    /// @dev Auditors, and the stakes that can be drawn by block number.
    mapping(address auditor => Auditor) private _auditors;
    mapping(address auditor => Checkpoints.Trace208) private _stakes;
    Checkpoints.Trace208 private _total;

    /// @notice An auditor's stake changed.
    /// @param auditor The auditor.
    /// @param stake Its stake, in wei.
    /// @param exitAt Zero when it can be drawn, else the Unix time from which on it can withdraw.
    event StakeChanged(address indexed auditor, uint256 stake, uint64 exitAt);

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

    /// @notice Makes the sender an auditor with the coins of the call as stake. It can be drawn for what is posted in
    /// later blocks.
    function join() external payable {
        if (_auditors[msg.sender].stake != 0) revert AlreadyJoined();
        if (msg.value < MIN_STAKE) revert StakeTooLow(msg.value, MIN_STAKE);
        _auditors[msg.sender].exitAt = 0;
        _set(msg.sender, msg.value);
    }

    /// @notice Adds the coins of the call to the sender's stake.
    function topUp() external payable {
        Auditor storage entry = _auditors[msg.sender];
        if (entry.stake == 0 || entry.exitAt != 0) revert NotAuditor();
        _set(msg.sender, entry.stake + msg.value);
    }

    /// @notice Ends the sender's duty for what is posted from this block on, and starts its unbonding delay.
    function requestExit() external {
        Auditor storage entry = _auditors[msg.sender];
        if (entry.stake == 0 || entry.exitAt != 0) revert NotAuditor();
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
        taken = amount < stake ? amount : stake;
        if (taken == 0) return 0;
        emit AuditorSlashed(auditor, taken);
        if (entry.exitAt != 0) {
            entry.stake = uint128(stake - taken);
            emit StakeChanged(auditor, stake - taken, entry.exitAt);
        } else {
            _set(auditor, stake - taken);
            if (stake - taken < MIN_STAKE) _leave(auditor);
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

    /// @notice What counted in draws at the end of a past block.
    /// @param auditor The auditor.
    /// @param blockNumber The block.
    /// @return stake The auditor's stake, in wei.
    /// @return total All stakes, in wei.
    function weights(address auditor, uint256 blockNumber) external view returns (uint256 stake, uint256 total) {
        uint48 key = uint48(blockNumber);
        return (_stakes[auditor].upperLookupRecent(key), _total.upperLookupRecent(key));
    }

    // ---- inside ----

    /// @dev Changes the stake of an auditor that can be drawn.
    function _set(address auditor, uint256 stake) private {
        if (stake > type(uint120).max) revert StakeTooHigh(stake);
        _auditors[auditor].stake = uint128(stake);
        _weigh(auditor, uint208(stake));
        emit StakeChanged(auditor, stake, 0);
    }

    /// @dev Takes an auditor out of the draws.
    function _leave(address auditor) private {
        Auditor storage entry = _auditors[auditor];
        // Zero means "can be drawn"; no block has that time.
        entry.exitAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        _weigh(auditor, 0);
        emit StakeChanged(auditor, entry.stake, entry.exitAt);
    }

    /// @dev Records what counts in draws from this block on.
    function _weigh(address auditor, uint208 stake) private {
        uint48 key = uint48(block.number);
        (uint208 old,) = _stakes[auditor].push(key, stake);
        _total.push(key, _total.latest() - old + stake);
    }
}
