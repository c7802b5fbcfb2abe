// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Arrays} from "@openzeppelin/contracts/utils/Arrays.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";
import {Page} from "./Page.sol";

/// @title Staking
/// @notice Who may become a validator, and who is one in this epoch. Validators stake; the highest stakes are chosen
/// at the end of every epoch, while few members of the active set may leave or join at once. Who misses too many turns
/// is jailed and keeps its stake; who votes twice for different blocks loses a part of its stake and is never chosen
/// again. Nobody owns this contract.
/// Each validator has one vote, so all votes must cost about the same. The price of a vote is what two thirds of the
/// active stake have each at least: members have `FLOOR_PERCENT` to `CAP_PERCENT` of it. Who has less leaves, and what
/// is above goes back to its owner, who can register further validators with it. Therefore k of n votes cost at least
/// 2k / (3n - k) of the active stake, a third of them a quarter, whatever the stakes are: see `endEpoch`.
/// @dev Life of a validator: `register` (candidate) -> `requestExit`, displaced or slashed (leaving) -> `withdraw`
/// (gone). A candidate has at least `MIN_STAKE`, because only a slash lowers a stake, and who is slashed is no longer
/// a candidate. A leaving validator can still be active until the next `endEpoch`, or longer when many leave; its
/// unbonding delay starts only when it is not active any more, so that the stake of whoever votes can always be
/// slashed.
/// The chain itself calls `beginBlock` and `endEpoch`. A failure there would stop the chain, so neither of them reads
/// anything that a user could make too long or make revert.
contract Staking is ReentrancyGuardTransient {
    using EnumerableSet for EnumerableSet.AddressSet;

    /// @notice A validator of epoch 0.
    struct GenesisValidator {
        /// @dev Owner of the stake.
        address operator;
        /// @dev Key of its network connections.
        bytes32 peer;
        /// @dev Key of its votes, `VOTE_BYTES` long.
        bytes vote;
        /// @dev Proof that it has the private key of `vote`. Not read here: who checks the genesis file checks it.
        bytes possession;
        /// @dev Stake in wei.
        uint256 stake;
    }

    /// @notice Rules of a network; they never change.
    struct Params {
        /// @dev Smallest stake in wei; 1 to 2^128-1.
        uint256 minStake;
        /// @dev Time from leaving until the stake can be withdrawn; at most `MAX_UNBONDING_SECONDS`.
        uint64 unbondingSeconds;
        /// @dev Most active validators; 1 to `MAX_ACTIVE`.
        uint32 maxValidators;
        /// @dev What the proposer of a block earns, in wei; at most 2^128-1, so that no sum overflows.
        uint256 rewardPerBlock;
        /// @dev Part of the stake that is taken for voting twice; 1 to 100.
        uint32 slashPercent;
        /// @dev Shortest time in jail; at most `MAX_JAIL_SECONDS`.
        uint64 jailSeconds;
        /// @dev A validator that missed more than this part of its turns is jailed; 1 to 100.
        uint32 missPercent;
        /// @dev With fewer turns in an epoch nobody is jailed; not zero.
        uint32 minTurns;
    }

    /// @notice An active validator, as the chain reads it.
    struct ActiveValidator {
        /// @dev Owner of the stake.
        address operator;
        /// @dev Key of its network connections.
        bytes32 peer;
        /// @dev Key of its votes.
        bytes vote;
    }

    /// @notice Coins that the chain mints at the end of an epoch.
    struct Reward {
        /// @dev Who gets them.
        address to;
        /// @dev Amount in wei.
        uint256 amount;
    }

    /// @notice What is recorded about a validator.
    struct Validator {
        /// @dev Stake in wei, also while it is leaving.
        uint128 stake;
        /// @dev Number of the registration, from 1 on; zero when there is no such validator.
        uint40 sequence;
        /// @dev Unix time from which on `unjail` is possible; zero when it is not jailed.
        uint40 jailedUntil;
        /// @dev Block of the last registration, addition of stake or end of jail: see `_newcomers`.
        uint40 changedAt;
        /// @dev Whether it validates in this epoch.
        bool active;
        /// @dev Where its rewards go.
        address payout;
        /// @dev Unix time from which on it can withdraw; zero while it is a candidate or active.
        uint64 exitAt;
        /// @dev Whether it is no longer a candidate.
        bool exiting;
        /// @dev Whether it was slashed.
        bool tombstoned;
        /// @dev Whether it was ever active.
        bool voted;
        /// @dev Key of its network connections.
        bytes32 peer;
        /// @dev Key of its votes.
        bytes vote;
    }

    /// @notice A candidate in a list.
    struct Candidate {
        /// @dev Owner of the stake.
        address operator;
        /// @dev Key of its network connections: validators let candidates connect.
        bytes32 peer;
        /// @dev Stake in wei.
        uint256 stake;
        /// @dev Whether it validates in this epoch.
        bool active;
        /// @dev Unix time from which on `unjail` is possible; zero when it is not jailed.
        uint64 jailedUntil;
        /// @dev As in `Validator`.
        uint64 exitAt;
        /// @dev As in `Validator`.
        bool tombstoned;
    }

    /// @dev Turns of an active validator in this epoch; one slot.
    struct Turns {
        uint64 proposed;
        uint64 missed;
    }

    /// @notice The sender of the chain's own calls.
    address public constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;
    /// @notice Precompile that checks proofs of possession. Input: vote key, proof, peer key, operator (196 bytes).
    /// Output: `abi.encode(uint256(1))` when the proof is good.
    address public constant POSSESSION = 0x0000000000000000000000000000000000000a01;
    /// @notice Precompile that checks evidence of voting twice. Input: RLP of the evidence. Output:
    /// `abi.encode(keccak256(vote key), epoch, view)`, or nothing when it proves nothing.
    address public constant EQUIVOCATION = 0x0000000000000000000000000000000000000a02;

    /// @notice Length of a vote key.
    uint256 public constant VOTE_BYTES = 96;
    /// @notice Length of a proof of possession.
    uint256 public constant POSSESSION_BYTES = 48;
    /// @notice Longest evidence.
    uint256 public constant MAX_EVIDENCE_BYTES = 4096;
    /// @notice Most candidates; bounds the work of `endEpoch`.
    uint256 public constant MAX_CANDIDATES = 256;
    /// @notice Most active validators that a network can choose.
    uint32 public constant MAX_ACTIVE = 128;
    /// @notice Most missed turns that are counted for one block; bounds the work of `beginBlock`.
    uint256 public constant MAX_MISSED = 4096;
    /// @notice Longest unbonding delay that a network can choose, so that no stake is locked for ever.
    uint64 public constant MAX_UNBONDING_SECONDS = 365 days;
    /// @notice Longest jail that a network can choose.
    uint64 public constant MAX_JAIL_SECONDS = 30 days;
    /// @notice Fewest active validators that jail leaves: with fewer than four, the network stops when one fails.
    uint256 public constant JAIL_FLOOR = 4;
    /// @notice Smallest stake of a member, in percent of the price of a vote.
    uint256 public constant FLOOR_PERCENT = 80;
    /// @notice Largest stake of a member, in percent of the price of a vote; three halves of the smallest one.
    uint256 public constant CAP_PERCENT = 120;
    /// @notice Who wants a waiting candidate's place in a full list needs this much of its stake, in percent.
    uint256 public constant DISPLACE_PERCENT = 110;
    /// @notice A reporter gets the slashed amount divided by this; the rest is burned.
    uint256 public constant REPORTER_DIVISOR = 10;

    /// @dev Set in the place of a member that is exiting, above every rank.
    uint256 private constant _EXITING = 1 << 254;
    /// @dev Set in the place of a member that is jailed, above all others.
    uint256 private constant _JAILED = 1 << 255;

    /// @notice Smallest stake of a validator, in wei.
    uint256 public immutable MIN_STAKE;
    /// @notice Time from leaving until the stake can be withdrawn, in seconds.
    uint64 public immutable UNBONDING_SECONDS;
    /// @notice Most active validators.
    uint32 public immutable MAX_VALIDATORS;
    /// @notice What the proposer of a block earns, in wei.
    uint256 public immutable REWARD_PER_BLOCK;
    /// @notice Part of the stake that is taken for voting twice, in percent.
    uint32 public immutable SLASH_PERCENT;
    /// @notice Shortest time in jail, in seconds.
    uint64 public immutable JAIL_SECONDS;
    /// @notice A validator that missed more than this part of its turns, in percent, is jailed.
    uint32 public immutable MISS_PERCENT;
    /// @notice With fewer turns in an epoch nobody is jailed.
    uint32 public immutable MIN_TURNS;

    /// @notice From what the order of turns in this epoch can be drawn: the randomness of the last epoch's last block; zero
    /// in epoch 0. It is at storage slot 0, where the chain can read it.
    bytes32 public turnSeed;
    /// @notice Number of the current epoch; the first one is 0.
    uint64 public epoch;
    /// @dev Number of the latest registration.
    uint40 private _sequence;
    /// @dev Operators of the active validators, ascending by peer key. The chain names them by position.
    address[] private _active;
    /// @dev Operators that can be chosen, jailed ones included.
    EnumerableSet.AddressSet private _candidates;
    /// @dev Bonded validators, and slashed ones for ever.
    mapping(address operator => Validator) private _validators;
    /// @dev Who registered a key. Entries stay when the validator is gone, so that no key is used twice: old evidence
    /// must never hit somebody else.
    mapping(bytes32 peer => address operator) private _operatorOfPeer;
    mapping(bytes32 voteHash => address operator) private _operatorOfVote;
    /// @dev Turns in this epoch by position in `_active`.
    mapping(uint256 index => Turns) private _turns;

    /// @notice What a reporter, or a validator whose stake was above the largest one, can claim, in wei.
    mapping(address owner => uint256 amount) public claimable;

    /// @notice A validator registered.
    /// @param operator Owner of the stake.
    /// @param peer Key of its network connections.
    /// @param vote Key of its votes.
    /// @param stake Its stake in wei.
    event Registered(address indexed operator, bytes32 indexed peer, bytes vote, uint256 stake);

    /// @notice A candidate added stake.
    /// @param operator The candidate.
    /// @param amount What was added, in wei.
    /// @param stake New total in wei.
    event StakeAdded(address indexed operator, uint256 amount, uint256 stake);

    /// @notice A validator is no longer a candidate: it asked for it, was displaced, or was slashed.
    /// @param operator The validator.
    /// @param exitAt Unix time from which on it can withdraw; 0 while it is active.
    event ExitRequested(address indexed operator, uint64 exitAt);

    /// @notice A leaving validator is no longer active, so that its unbonding delay started.
    /// @param operator The validator.
    /// @param exitAt Unix time from which on it can withdraw.
    event UnbondingStarted(address indexed operator, uint64 exitAt);

    /// @notice A validator took its stake out.
    /// @param operator The validator.
    /// @param amount The stake in wei.
    event Withdrawn(address indexed operator, uint256 amount);

    /// @notice A validator missed too many turns.
    /// @param operator The validator.
    /// @param jailedUntil Unix time from which on it can leave the jail.
    /// @param proposed Turns that it took in the epoch.
    /// @param missed Turns that it missed in the epoch.
    event Jailed(address indexed operator, uint64 jailedUntil, uint64 proposed, uint64 missed);

    /// @notice A validator left the jail.
    /// @param operator The validator.
    event Unjailed(address indexed operator);

    /// @notice A validator voted twice.
    /// @param operator The validator.
    /// @param reporter Who sent the evidence.
    /// @param atEpoch Epoch of the votes.
    /// @param atView View of the votes.
    /// @param amount What was taken from the stake, in wei.
    /// @param reward The part of it that the reporter can claim, in wei; the rest was burned.
    event Slashed(
        address indexed operator,
        address indexed reporter,
        uint64 atEpoch,
        uint64 atView,
        uint256 amount,
        uint256 reward
    );

    /// @notice A part of a member's stake was above the largest one, so that it can `claim` it.
    /// @param operator The validator.
    /// @param amount The part in wei.
    event StakeReturned(address indexed operator, uint256 amount);

    /// @notice Somebody took out what was claimable.
    /// @param owner Who.
    /// @param amount The amount in wei.
    event Claimed(address indexed owner, uint256 amount);

    /// @notice An epoch ended.
    /// @param epoch The epoch that ended.
    /// @param validators Number of active validators of the next one.
    event EpochEnded(uint64 indexed epoch, uint256 validators);

    /// @notice A validator chose where its rewards go.
    /// @param operator The validator.
    /// @param payout The address.
    event PayoutSet(address indexed operator, address payout);

    /// @notice The constructor was given a minimal stake of zero or one above 128 bits.
    /// @param minStake The minimal stake in wei.
    error InvalidMinStake(uint256 minStake);

    /// @notice The constructor was given a delay above `MAX_UNBONDING_SECONDS`.
    /// @param unbondingSeconds The delay.
    error InvalidUnbonding(uint64 unbondingSeconds);

    /// @notice The constructor was given a limit that is not in 1 to `MAX_ACTIVE`.
    /// @param maxValidators The limit.
    error InvalidMaxValidators(uint32 maxValidators);

    /// @notice The constructor was given a reward above 128 bits.
    /// @param rewardPerBlock The reward in wei.
    error InvalidReward(uint256 rewardPerBlock);

    /// @notice The constructor was given a percentage that is not in 1 to 100.
    /// @param percent The percentage.
    error InvalidPercent(uint32 percent);

    /// @notice The constructor was given a time above `MAX_JAIL_SECONDS`.
    /// @param jailSeconds The time.
    error InvalidJail(uint64 jailSeconds);

    /// @notice The constructor was given zero as `minTurns`.
    error InvalidMinTurns();

    /// @notice The number of genesis validators is not in 1 to `maxValidators`.
    /// @param count The number.
    error InvalidGenesisCount(uint256 count);

    /// @notice The genesis validators are not strictly ascending by peer key.
    /// @param index The first one that is not above the one before it.
    error GenesisNotSorted(uint256 index);

    /// @notice The contract has fewer coins than the genesis validators have stake.
    /// @param balance Coins on its address, in wei.
    /// @param needed Sum of the stakes, in wei.
    error GenesisNotFunded(uint256 balance, uint256 needed);

    /// @notice The zero address can be neither operator nor payout.
    error ZeroAddress();

    /// @notice Only the chain itself may call this.
    /// @param sender Who called.
    error OnlySystem(address sender);

    /// @notice The stake is below `MIN_STAKE`: send more coins with the call.
    /// @param stake Coins in the call, in wei.
    /// @param minimum `MIN_STAKE`.
    error StakeTooLow(uint256 stake, uint256 minimum);

    /// @notice The stake does not fit into 128 bits.
    /// @param stake The stake in wei.
    error StakeTooHigh(uint256 stake);

    /// @notice The list of candidates is full, and the stake is not far enough above that of the one that could be
    /// displaced.
    /// @param toBeat The stake to beat, in wei: `DISPLACE_PERCENT` of the lowest one.
    error CandidatesFull(uint256 toBeat);

    /// @notice The operator is already registered, did not yet withdraw after an exit, or was slashed once.
    /// @param operator The operator.
    error AlreadyRegistered(address operator);

    /// @notice The vote key is not `VOTE_BYTES` long.
    /// @param length Its length.
    error InvalidVoteLength(uint256 length);

    /// @notice The peer key is zero.
    error InvalidPeer();

    /// @notice Somebody used this peer key before: make a new one.
    /// @param peer The key.
    error PeerUsed(bytes32 peer);

    /// @notice Somebody used this vote key before: make a new one.
    /// @param voteHash keccak-256 of the key.
    error VoteUsed(bytes32 voteHash);

    /// @notice The proof that the holder of the vote key's private key wants this registration is wrong.
    error InvalidPossession();

    /// @notice The sender is not registered.
    /// @param operator The sender.
    error NotRegistered(address operator);

    /// @notice The sender is not a candidate: it did not register, or it is leaving.
    /// @param operator The sender.
    error NotCandidate(address operator);

    /// @notice The sender did not request to exit, or has nothing to withdraw.
    /// @param operator The sender.
    error ExitNotRequested(address operator);

    /// @notice The sender is active until an epoch ends without it; its unbonding delay did not start yet.
    /// @param operator The sender.
    error StillActive(address operator);

    /// @notice The unbonding delay is not over.
    /// @param exitAt Unix time from which on the stake can be withdrawn.
    error StillUnbonding(uint64 exitAt);

    /// @notice The sender is not jailed.
    /// @param operator The sender.
    error NotJailed(address operator);

    /// @notice The time in jail is not over.
    /// @param jailedUntil Unix time from which on the sender can leave.
    error StillJailed(uint64 jailedUntil);

    /// @notice The sender was slashed and is never chosen again.
    /// @param operator The sender.
    error Tombstoned(address operator);

    /// @notice The evidence is too long.
    /// @param length Its length.
    /// @param maximum `MAX_EVIDENCE_BYTES`.
    error EvidenceTooLong(uint256 length, uint256 maximum);

    /// @notice The evidence does not prove that somebody voted twice.
    error InvalidEvidence();

    /// @notice No bonded validator has the vote key of the evidence.
    /// @param voteHash keccak-256 of the key.
    error UnknownVoteKey(bytes32 voteHash);

    /// @notice The validator was slashed before; that happens only once.
    /// @param operator The validator.
    error AlreadySlashed(address operator);

    /// @notice The sender has nothing to claim.
    /// @param owner The sender.
    error NothingToClaim(address owner);

    /// @notice The call must carry coins.
    error NoValue();

    /// @notice Creates the contract with fixed rules and the active set of epoch 0. The coins for the stakes must
    /// already be on its address.
    /// @param params The rules.
    /// @param validators 1 to `maxValidators` validators, strictly ascending by peer key.
    constructor(Params memory params, GenesisValidator[] memory validators) {
        _checkParams(params);
        MIN_STAKE = params.minStake;
        UNBONDING_SECONDS = params.unbondingSeconds;
        MAX_VALIDATORS = params.maxValidators;
        REWARD_PER_BLOCK = params.rewardPerBlock;
        SLASH_PERCENT = params.slashPercent;
        JAIL_SECONDS = params.jailSeconds;
        MISS_PERCENT = params.missPercent;
        MIN_TURNS = params.minTurns;

        uint256 count = validators.length;
        if (count == 0 || count > params.maxValidators) revert InvalidGenesisCount(count);
        uint256 needed = 0;
        bytes32 previous = 0;
        for (uint256 i = 0; i < count; ++i) {
            GenesisValidator memory entry = validators[i];
            if (entry.operator == address(0)) revert ZeroAddress();
            if (entry.peer <= previous) revert GenesisNotSorted(i);
            previous = entry.peer;
            _checkStake(entry.stake);
            needed += entry.stake;
            _checkNew(entry.operator, entry.peer, entry.vote);
            _add(entry.operator, entry.peer, entry.vote, entry.stake);
            (_validators[entry.operator].active, _validators[entry.operator].voted) = (true, true);
            _active.push(entry.operator);
        }
        if (address(this).balance < needed) revert GenesisNotFunded(address(this).balance, needed);
    }

    /// @dev Lets only the chain itself call.
    modifier onlySystem() {
        if (msg.sender != SYSTEM) revert OnlySystem(msg.sender);
        _;
    }

    // ---- what a validator does ----

    /// @notice Registers the sender as a candidate with the coins of the call as stake. It can be chosen when it has
    /// `FLOOR_PERCENT` of `price()`; what is above `CAP_PERCENT` of it comes back when it is chosen, and has more votes
    /// as the stake of further registrations. When the list is full, it takes the place of the candidate with the
    /// lowest stake that is not active, if it stakes more than `DISPLACE_PERCENT` of that; who is displaced and never
    /// was active can withdraw at once.
    /// @param peer Key of its network connections; not zero, never used before.
    /// @param vote Key of its votes, `VOTE_BYTES` long; never used before.
    /// @param possession Proof that the holder of the private key of `vote` wants this registration, `POSSESSION_BYTES`
    /// long. It is good for this peer key and this sender only, so a copy from a pending transaction is of no use.
    function register(bytes32 peer, bytes calldata vote, bytes calldata possession) external payable {
        _checkStake(msg.value);
        if (peer == bytes32(0)) revert InvalidPeer();
        _checkNew(msg.sender, peer, vote);
        _checkPossession(vote, possession, peer);

        if (_candidates.length() == MAX_CANDIDATES) {
            address lowest = _lowest();
            Validator storage entry = _validators[lowest];
            uint256 toBeat = uint256(entry.stake) * DISPLACE_PERCENT / 100;
            if (msg.value <= toBeat) revert CandidatesFull(toBeat);
            // Who never voted has nothing to answer for.
            _leave(lowest, entry.voted ? UNBONDING_SECONDS : 0);
        }
        _add(msg.sender, peer, vote, msg.value);
    }

    /// @notice Adds the coins of the call to the sender's stake. It counts from the next epoch on; of a member's stake,
    /// what is then above `CAP_PERCENT` of the price can be claimed.
    function addStake() external payable {
        if (!_candidates.contains(msg.sender)) revert NotCandidate(msg.sender);
        if (msg.value == 0) revert NoValue();
        uint256 stake = _validators[msg.sender].stake + msg.value;
        if (stake > type(uint128).max) revert StakeTooHigh(stake);
        _validators[msg.sender].stake = uint128(stake);
        _validators[msg.sender].changedAt = uint40(block.number);
        emit StakeAdded(msg.sender, msg.value, stake);
    }

    /// @notice Leaves: the sender is not chosen any more. Cannot be taken back. The unbonding delay starts now, or at
    /// the end of the sender's last active epoch: this one, or a later one when more want to leave than may at once.
    function requestExit() external {
        if (!_candidates.contains(msg.sender)) revert NotCandidate(msg.sender);
        _leave(msg.sender, UNBONDING_SECONDS);
    }

    /// @notice Sends the stake back after the unbonding delay. Unless it was slashed, the sender may then register
    /// again, with new keys.
    function withdraw() external nonReentrant {
        Validator storage entry = _validators[msg.sender];
        uint256 amount = entry.stake;
        if (amount == 0 || !entry.exiting) revert ExitNotRequested(msg.sender);
        if (entry.active) revert StillActive(msg.sender);
        if (block.timestamp < entry.exitAt) revert StillUnbonding(entry.exitAt);

        // A tombstone stays, so that nothing makes this operator a candidate again.
        if (entry.tombstoned) entry.stake = 0;
        else delete _validators[msg.sender];
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    /// @notice Leaves the jail, once its time is over.
    function unjail() external {
        Validator storage entry = _validators[msg.sender];
        if (entry.tombstoned) revert Tombstoned(msg.sender);
        if (entry.jailedUntil == 0) revert NotJailed(msg.sender);
        if (block.timestamp < entry.jailedUntil) revert StillJailed(entry.jailedUntil);
        entry.jailedUntil = 0;
        entry.changedAt = uint40(block.number);
        emit Unjailed(msg.sender);
    }

    /// @notice Sets where the sender's rewards go; at first they go to the sender.
    /// @param payout The address, not zero.
    function setPayout(address payout) external {
        if (_validators[msg.sender].sequence == 0) revert NotRegistered(msg.sender);
        if (payout == address(0)) revert ZeroAddress();
        _validators[msg.sender].payout = payout;
        emit PayoutSet(msg.sender, payout);
    }

    // ---- what a reporter does ----

    /// @notice Slashes a validator that voted twice, and never lets it be chosen again. The sender can `claim` a part
    /// of what is taken; the rest is burned.
    /// @param evidence The two votes, at most `MAX_EVIDENCE_BYTES`.
    function reportEquivocation(bytes calldata evidence) external nonReentrant {
        if (evidence.length > MAX_EVIDENCE_BYTES) revert EvidenceTooLong(evidence.length, MAX_EVIDENCE_BYTES);
        (bool ok, bytes memory output) = EQUIVOCATION.staticcall(evidence);
        if (!ok || output.length != 96) revert InvalidEvidence();
        (bytes32 voteHash, uint64 atEpoch, uint64 atView) = abi.decode(output, (bytes32, uint64, uint64));

        address operator = _operatorOfVote[voteHash];
        Validator storage entry = _validators[operator];
        // An operator that withdrew may be back with another key; that stake does not answer for the old key.
        if (operator == address(0) || keccak256(entry.vote) != voteHash) revert UnknownVoteKey(voteHash);
        if (entry.tombstoned) revert AlreadySlashed(operator);

        uint256 amount = uint256(entry.stake) * SLASH_PERCENT / 100;
        uint256 reward = amount / REPORTER_DIVISOR;
        entry.tombstoned = true;
        entry.stake -= uint128(amount);
        claimable[msg.sender] += reward;
        emit Slashed(operator, msg.sender, atEpoch, atView, amount, reward);
        if (!entry.exiting) _leave(operator, UNBONDING_SECONDS);
        Address.sendValue(payable(address(0)), amount - reward);
    }

    /// @notice Sends the sender its rewards for reports, and what was above the largest stake.
    function claim() external nonReentrant {
        uint256 amount = claimable[msg.sender];
        if (amount == 0) revert NothingToClaim(msg.sender);
        claimable[msg.sender] = 0;
        emit Claimed(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    // ---- what the chain does ----

    /// @notice Counts the turns of a block.
    /// @dev Positions that are not in the active set are ignored. The counters cannot overflow in 2^64 turns.
    /// @param proposer Position of the block's proposer in the active set.
    /// @param missed Positions of those that should have proposed before; the same one can be there many times.
    /// Only the first `MAX_MISSED` count.
    function beginBlock(uint256 proposer, uint256[] calldata missed) external onlySystem {
        uint256 size = _active.length;
        uint256 count = Math.min(missed.length, MAX_MISSED);
        unchecked {
            if (proposer < size) ++_turns[proposer].proposed;
            for (uint256 i = 0; i < count; ++i) {
                if (missed[i] < size) ++_turns[missed[i]].missed;
            }
        }
    }

    /// @notice Ends the epoch: pays, jails, and chooses the active set of the next one. Afterwards each member has at
    /// least `FLOOR_PERCENT` and at most `CAP_PERCENT` of one price, but for those that have to leave and are still
    /// there because only a third may leave at once.
    /// @return next The active set of the next epoch, ascending by peer key.
    /// @return rewards What the chain mints for the blocks of this epoch.
    function endEpoch() external onlySystem returns (ActiveValidator[] memory next, Reward[] memory rewards) {
        address[] memory ended = _active;
        Turns[] memory turns = new Turns[](ended.length);
        for (uint256 i = 0; i < ended.length; ++i) {
            turns[i] = _turns[i];
            delete _turns[i];
        }
        rewards = _rewards(ended, turns);
        _jail(ended, turns);
        (bytes32[] memory peers, uint256 largest) = _choose(ended);
        // Without anybody to choose, the old set goes on: a chain with bad validators can recover, one without
        // validators cannot.
        if (peers.length > 0) _replace(ended, peers, largest);

        turnSeed = bytes32(block.prevrandao);
        next = active();
        emit EpochEnded(epoch, next.length);
        ++epoch;
    }

    // ---- what a client reads ----

    /// @notice The validators of this epoch, ascending by peer key.
    /// @return set At most `MAX_VALIDATORS` entries.
    function active() public view returns (ActiveValidator[] memory set) {
        set = new ActiveValidator[](_active.length);
        for (uint256 i = 0; i < set.length; ++i) {
            address operator = _active[i];
            Validator storage entry = _validators[operator];
            set[i] = ActiveValidator(operator, entry.peer, entry.vote);
        }
    }

    /// @notice The price of a vote: the largest amount such that the members with at least that much have two thirds of
    /// the members' stake. Those that were slashed do not count, nor do jailed and exiting ones while there are others.
    /// So who holds less than a third of the stake cannot lower it, and who holds less than two thirds cannot raise it.
    /// @return The price in wei; zero when all members were slashed.
    function price() external view returns (uint256) {
        return _price(_members(_active));
    }

    /// @notice Number of candidates, jailed ones included.
    /// @return The number.
    function candidateCount() external view returns (uint256) {
        return _candidates.length();
    }

    /// @notice Candidates. The order changes when some leave: read all pages at one block.
    /// @param offset Entries to skip.
    /// @param limit Most entries to return; lowered to 100.
    /// @return page The candidates.
    function candidates(uint256 offset, uint256 limit) external view returns (Candidate[] memory page) {
        (uint256 start, uint256 end) = Page.bounds(_candidates.length(), offset, limit);
        page = new Candidate[](end - start);
        for (uint256 i = start; i < end; ++i) {
            address operator = _candidates.at(i);
            Validator storage entry = _validators[operator];
            page[i - start] = Candidate({
                operator: operator,
                peer: entry.peer,
                stake: entry.stake,
                active: entry.active,
                jailedUntil: entry.jailedUntil,
                exitAt: entry.exitAt,
                tombstoned: entry.tombstoned
            });
        }
    }

    /// @notice What is recorded about a validator; all empty when there is none.
    /// @param operator The validator.
    /// @return The record.
    function validator(address operator) external view returns (Validator memory) {
        return _validators[operator];
    }

    /// @notice Turns of an active validator in this epoch so far; zero for a position that is not in the set.
    /// @param index Position in the active set.
    /// @return proposed Turns that it took.
    /// @return missed Turns that it missed.
    function stats(uint256 index) external view returns (uint64 proposed, uint64 missed) {
        return (_turns[index].proposed, _turns[index].missed);
    }

    // ---- inside ----

    /// @dev Reverts unless all rules are in their ranges.
    function _checkParams(Params memory params) private pure {
        if (params.minStake == 0 || params.minStake > type(uint128).max) revert InvalidMinStake(params.minStake);
        if (params.unbondingSeconds > MAX_UNBONDING_SECONDS) revert InvalidUnbonding(params.unbondingSeconds);
        if (params.maxValidators == 0 || params.maxValidators > MAX_ACTIVE) {
            revert InvalidMaxValidators(params.maxValidators);
        }
        if (params.rewardPerBlock > type(uint128).max) revert InvalidReward(params.rewardPerBlock);
        if (params.slashPercent == 0 || params.slashPercent > 100) revert InvalidPercent(params.slashPercent);
        if (params.jailSeconds > MAX_JAIL_SECONDS) revert InvalidJail(params.jailSeconds);
        if (params.missPercent == 0 || params.missPercent > 100) revert InvalidPercent(params.missPercent);
        if (params.minTurns == 0) revert InvalidMinTurns();
    }

    /// @dev Reverts unless the stake is large enough and can be stored.
    function _checkStake(uint256 stake) private view {
        if (stake < MIN_STAKE) revert StakeTooLow(stake, MIN_STAKE);
        if (stake > type(uint128).max) revert StakeTooHigh(stake);
    }

    /// @dev Reverts unless operator and keys are new.
    function _checkNew(address operator, bytes32 peer, bytes memory vote) private view {
        if (vote.length != VOTE_BYTES) revert InvalidVoteLength(vote.length);
        if (_validators[operator].sequence != 0) revert AlreadyRegistered(operator);
        if (_operatorOfPeer[peer] != address(0)) revert PeerUsed(peer);
        bytes32 voteHash = keccak256(vote);
        if (_operatorOfVote[voteHash] != address(0)) revert VoteUsed(voteHash);
    }

    /// @dev Reverts unless the precompile accepts the proof for this peer key and sender. Without a precompile, the
    /// output is empty.
    function _checkPossession(bytes calldata vote, bytes calldata possession, bytes32 peer) private view {
        if (possession.length != POSSESSION_BYTES) revert InvalidPossession();
        (bool ok, bytes memory output) = POSSESSION.staticcall(abi.encodePacked(vote, possession, peer, msg.sender));
        if (!ok || output.length != 32 || uint256(bytes32(output)) != 1) revert InvalidPossession();
    }

    /// @dev Records a new candidate. All checks must be done.
    function _add(address operator, bytes32 peer, bytes memory vote, uint256 stake) private {
        Validator storage entry = _validators[operator];
        entry.stake = uint128(stake);
        entry.sequence = ++_sequence;
        entry.changedAt = uint40(block.number);
        entry.payout = operator;
        entry.peer = peer;
        entry.vote = vote;
        _operatorOfPeer[peer] = operator;
        _operatorOfVote[keccak256(vote)] = operator;
        _candidates.add(operator);
        emit Registered(operator, peer, vote, stake);
    }

    /// @dev Takes a validator from the candidates, and starts the delay until it can withdraw unless it is active.
    function _leave(address operator, uint64 delay) private {
        Validator storage entry = _validators[operator];
        _candidates.remove(operator);
        entry.exiting = true;
        if (!entry.active) entry.exitAt = uint64(block.timestamp) + delay;
        emit ExitRequested(operator, entry.exitAt);
    }

    /// @dev The candidate that a newcomer displaces: the lowest stake that is not active, the latest registration of
    /// equal ones. There is one when the list is full, because fewer can be active.
    function _lowest() private view returns (address lowest) {
        uint256 size = _candidates.length();
        uint256 lowestRank = 0;
        for (uint256 i = 0; i < size; ++i) {
            address operator = _candidates.at(i);
            if (_validators[operator].active) continue;
            uint256 rank = _rank(_validators[operator]);
            if (rank > lowestRank) (lowestRank, lowest) = (rank, operator);
        }
    }

    /// @dev Place among the candidates: smaller is better. The highest stake comes first, then the lowest sequence.
    /// The 2 high bits and the 64 low bits are free.
    function _rank(Validator storage entry) private view returns (uint256) {
        return (uint256(type(uint128).max - entry.stake) << 126) | (uint256(entry.sequence) << 64);
    }

    /// @dev Rewards of the proposers. Bounded, because one reward and the number of turns are.
    function _rewards(address[] memory ended, Turns[] memory turns) private view returns (Reward[] memory rewards) {
        rewards = new Reward[](ended.length);
        uint256 count = 0;
        for (uint256 i = 0; i < ended.length; ++i) {
            if (turns[i].proposed == 0) continue;
            rewards[count++] = Reward(_validators[ended[i]].payout, turns[i].proposed * REWARD_PER_BLOCK);
        }
        // Only shorter: there were at most `ended.length` entries.
        assembly ("memory-safe") {
            mstore(rewards, count)
        }
    }

    /// @dev Jails those that missed too many turns, but fewer than a third of the set, the worst first: when the
    /// network splits, one side must not jail all of the other.
    function _jail(address[] memory ended, Turns[] memory turns) private {
        uint256[] memory order = new uint256[](ended.length);
        uint256 count = 0;
        for (uint256 i = 0; i < ended.length; ++i) {
            uint256 missed = turns[i].missed;
            uint256 total = missed + turns[i].proposed;
            if (total < MIN_TURNS || missed * 100 <= total * MISS_PERCENT) continue;
            // Most missed first, then the lowest position.
            order[count++] = (uint256(type(uint64).max - missed) << 64) | i;
        }
        _shorten(order, count);
        Arrays.sort(order);

        uint40 jailedUntil = uint40(block.timestamp + JAIL_SECONDS);
        // With four members one may fail and the others go on; with three nobody may.
        uint256 spare = ended.length > JAIL_FLOOR ? ended.length - JAIL_FLOOR : 0;
        uint256 most = Math.min(count, Math.min(spare, (ended.length - 1) / 3));
        for (uint256 i = 0; i < most; ++i) {
            uint256 index = uint64(order[i]);
            _validators[ended[index]].jailedUntil = jailedUntil;
            emit Jailed(ended[index], jailedUntil, turns[index].proposed, turns[index].missed);
        }
    }

    /// @dev Peer keys of the next active set, ascending, and the largest stake of a member. The highest stakes are
    /// chosen, within limits that keep most of the set: of n members, at most (n - 1) / 3 may leave, but always one, and
    /// fewer than a third of the next set are newcomers, but one may always join. Slashed members leave in any case, and
    /// do not count. Empty only when all were slashed and nobody can join.
    function _choose(address[] memory ended) private view returns (bytes32[] memory peers, uint256 largest) {
        uint256[] memory members = _members(ended);
        address[] memory all = _candidates.values();
        uint256 faults = (ended.length - 1) / 3;
        uint256[] memory newcomers = _newcomers(all, faults + 1);
        uint256 perVote = _price(members);
        // Rounded up, so that the ratio of two stakes is not above that of the percentages.
        uint256 smallest = (perVote * FLOOR_PERCENT + 99) / 100;
        largest = perVote == 0 ? type(uint128).max : perVote * CAP_PERCENT / 100;
        // So many members stay in any case. Of the others, those leave that are jailed or exiting, or have too little.
        uint256 kept = Math.saturatingSub(members.length, Math.max(1, faults));
        uint256 stay = members.length;
        while (stay > kept && (members[stay - 1] >= _EXITING || _stakeOf(members[stay - 1]) < smallest)) --stay;

        // A newcomer takes a free place, or that of the last member when it has more to offer.
        uint256 joined = 0;
        for (; joined < newcomers.length; ++joined) {
            uint256 stake = Math.min(_stakeOf(newcomers[joined]), largest);
            bool free = stay + joined < MAX_VALIDATORS;
            uint256 size = free ? stay + joined + 1 : stay + joined;
            // When all were slashed there is no majority to keep.
            if (stake < smallest || (joined > 0 && 3 * (joined + 1) >= size && members.length > 0)) break;
            if (free) continue;
            if (stay == kept || stake <= _stakeOf(members[stay - 1])) break;
            --stay;
        }

        // Somebody must go on.
        if (stay + joined == 0) stay = members.length;
        peers = new bytes32[](stay + joined);
        for (uint256 i = 0; i < peers.length; ++i) {
            address operator = i < stay ? ended[uint64(members[i])] : all[uint64(newcomers[i - stay])];
            peers[i] = _validators[operator].peer;
        }
        Arrays.sort(peers);
    }

    /// @dev The price of a vote, from what `_members` gives.
    function _price(uint256[] memory members) private pure returns (uint256) {
        uint256 count = members.length;
        while (count > 0 && members[count - 1] >= _EXITING) --count;
        // When all are leaving, the price is theirs; then they are in two groups, each by rank.
        if (count == 0) count = members.length;
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) total += _stakeOf(members[i]);
        uint256 sum = 0;
        for (uint256 i = 0; i < count; ++i) {
            sum += _stakeOf(members[i]);
            if (3 * sum >= 2 * total) return _stakeOf(members[i]);
        }
        return 0;
    }

    /// @dev The stake in a rank.
    function _stakeOf(uint256 rank) private pure returns (uint256) {
        return type(uint128).max - uint128(rank >> 126);
    }

    /// @dev Members of the active set that were not slashed; who leaves first comes last: jailed ones after exiting
    /// ones after all others, each by rank. The 64 low bits are the position in `ended`.
    function _members(address[] memory ended) private view returns (uint256[] memory order) {
        order = new uint256[](ended.length);
        uint256 count = 0;
        for (uint256 i = 0; i < ended.length; ++i) {
            Validator storage entry = _validators[ended[i]];
            if (entry.tombstoned) continue;
            uint256 kind = entry.jailedUntil != 0 ? _JAILED : entry.exiting ? _EXITING : 0;
            order[count++] = kind | _rank(entry) | i;
        }
        _shorten(order, count);
        Arrays.sort(order);
    }

    /// @dev Candidates that are neither active nor jailed, by rank. The 64 low bits are the position in `all`. Who
    /// changed anything within the last `wait` blocks, this one included, has to wait: the order of turns is drawn from
    /// the randomness of this block, and who proposes the last blocks knows it before. Among `wait` blocks is one by
    /// somebody else.
    function _newcomers(address[] memory all, uint256 wait) private view returns (uint256[] memory order) {
        order = new uint256[](all.length);
        uint256 count = 0;
        for (uint256 i = 0; i < all.length; ++i) {
            Validator storage entry = _validators[all[i]];
            if (entry.active || entry.jailedUntil != 0 || entry.changedAt + wait > block.number) continue;
            order[count++] = _rank(entry) | i;
        }
        _shorten(order, count);
        Arrays.sort(order);
    }

    /// @dev Stores a new active set, lets its members claim what they have above the largest stake, and starts the
    /// unbonding delay of those that leave with it.
    function _replace(address[] memory ended, bytes32[] memory peers, uint256 largest) private {
        for (uint256 i = 0; i < ended.length; ++i) {
            _validators[ended[i]].active = false;
        }
        address[] memory operators = new address[](peers.length);
        for (uint256 i = 0; i < peers.length; ++i) {
            operators[i] = _operatorOfPeer[peers[i]];
            Validator storage entry = _validators[operators[i]];
            (entry.active, entry.voted) = (true, true);
            uint256 stake = entry.stake;
            if (stake <= largest) continue;
            entry.stake = uint128(largest);
            claimable[operators[i]] += stake - largest;
            emit StakeReturned(operators[i], stake - largest);
        }
        _active = operators;

        uint64 exitAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        for (uint256 i = 0; i < ended.length; ++i) {
            Validator storage entry = _validators[ended[i]];
            if (!entry.exiting || entry.active) continue;
            entry.exitAt = exitAt;
            emit UnbondingStarted(ended[i], exitAt);
        }
    }

    /// @dev Shortens an array in memory. `length` must not be above its length.
    function _shorten(uint256[] memory array, uint256 length) private pure {
        assembly ("memory-safe") {
            mstore(array, length)
        }
    }
}
