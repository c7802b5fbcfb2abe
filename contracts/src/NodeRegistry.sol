// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";
import {ModelRegistry} from "./ModelRegistry.sol";
import {Page} from "./Page.sol";
import {Text} from "./Text.sol";

/// @title NodeRegistry
/// @notice Who serves which model, where, at which price, and with how much stake. Anyone who stakes may register; the
/// sender's address is the node's name and the key that signs its receipts.
/// @dev Life of an entry: `register` (active) -> `requestExit` (bonded, not listed) -> `withdraw` (gone). The stake
/// stays locked for `UNBONDING_SECONDS` after `requestExit`, so that a node cannot cheat and leave at once, and what a
/// slasher holds of it longer. Two contracts, the slashers, may take stake: they judge what nodes signed. A node whose
/// stake falls below `MIN_STAKE` leaves the lists as if it had asked to; one that lost all may register again at once.
contract NodeRegistry is ReentrancyGuardTransient {
    using EnumerableSet for EnumerableSet.AddressSet;
    using EnumerableSet for EnumerableSet.Bytes32Set;

    /// @dev One bonded node. `stake` (wei) is never zero for a bonded node; `exitAt` is the Unix time from which on it
    /// can be withdrawn, zero while the node is active; `endpoint` is the base URL of its API.
    struct Node {
        uint128 stake;
        uint64 exitAt;
        string endpoint;
    }

    /// @dev Prices in wei per token of the prompt and of the answer.
    struct Price {
        uint128 perInputToken;
        uint128 perOutputToken;
    }

    /// @notice A node that serves a model.
    struct NodeOffer {
        /// @dev Name of the node and signer of its receipts.
        address node;
        /// @dev Base URL of its API.
        string endpoint;
        /// @dev Stake in wei.
        uint256 stake;
        /// @dev Price of a prompt token in wei.
        uint128 pricePerInputToken;
        /// @dev Price of a generated token in wei.
        uint128 pricePerOutputToken;
    }

    /// @notice A model that a node serves.
    struct ModelOffer {
        /// @dev Id in the `ModelRegistry`.
        bytes32 modelId;
        /// @dev Price of a prompt token in wei.
        uint128 pricePerInputToken;
        /// @dev Price of a generated token in wei.
        uint128 pricePerOutputToken;
    }

    /// @notice Longest endpoint URL, in bytes.
    uint256 public constant MAX_ENDPOINT_BYTES = 256;
    /// @notice Most models that one node offers; bounds the work of `requestExit`.
    uint256 public constant MAX_OFFERS = 64;

    /// @notice Tokens of a long answer with its prompt: the usual context of large models.
    uint256 public constant PRICE_TOKENS = 131_072;
    /// @notice A long answer costs at most this part of `MIN_STAKE`: one in so many. What a wrong answer costs its node is a
    /// fixed sum below `MIN_STAKE`, so what it can bring must be bounded; why 130, docs/economics.md says.
    uint256 public constant PRICE_SHARE = 130;

    /// @notice Longest unbonding delay that a network can choose (a year), so that no stake is locked for ever.
    uint64 public constant MAX_UNBONDING_SECONDS = 365 days;

    /// @notice Smallest stake of a node, in wei; not zero.
    uint256 public immutable MIN_STAKE;
    /// @notice Highest price of a token, in wei: `MIN_STAKE / PRICE_SHARE / PRICE_TOKENS`.
    uint256 public immutable MAX_TOKEN_PRICE;
    /// @notice Time from `requestExit` until the stake can be withdrawn, in seconds.
    uint64 public immutable UNBONDING_SECONDS;
    /// @notice The registry that says which models exist.
    ModelRegistry public immutable MODELS;
    /// @notice First slasher: the contract that judges computations.
    address public immutable DISPUTES;
    /// @notice Second slasher: the contract that judges what no computation can.
    address public immutable JURY;

    /// @dev Bonded nodes: active, or waiting to withdraw.
    mapping(address node => Node) private _nodes;
    /// @dev Active nodes.
    EnumerableSet.AddressSet private _active;
    /// @dev Models that an active node offers, and the same relation by model.
    mapping(address node => EnumerableSet.Bytes32Set) private _modelsOf;
    mapping(bytes32 modelId => EnumerableSet.AddressSet) private _nodesOf;
    mapping(address node => mapping(bytes32 modelId => Price)) private _prices;
    /// @dev Models with at least one offer.
    EnumerableSet.Bytes32Set private _offered;

    /// @notice What open proceedings against a node can cost it, in wei; that much of its stake cannot be withdrawn.
    mapping(address node => uint256 amount) public holds;

    /// @notice A node registered.
    /// @param node The node.
    /// @param endpoint Base URL of its API.
    /// @param stake Its stake in wei.
    event NodeRegistered(address indexed node, string endpoint, uint256 stake);

    /// @notice A node changed its endpoint.
    /// @param node The node.
    /// @param endpoint New base URL of its API.
    event EndpointUpdated(address indexed node, string endpoint);

    /// @notice A node added stake.
    /// @param node The node.
    /// @param amount What was added, in wei.
    /// @param stake New total in wei.
    event StakeAdded(address indexed node, uint256 amount, uint256 stake);

    /// @notice A node offers a model, or changed its prices.
    /// @param node The node.
    /// @param modelId The model.
    /// @param pricePerInputToken Price of a prompt token in wei.
    /// @param pricePerOutputToken Price of a generated token in wei.
    event OfferSet(
        address indexed node, bytes32 indexed modelId, uint128 pricePerInputToken, uint128 pricePerOutputToken
    );

    /// @notice A node no longer offers a model.
    /// @param node The node.
    /// @param modelId The model.
    event OfferRemoved(address indexed node, bytes32 indexed modelId);

    /// @notice A node left.
    /// @param node The node.
    /// @param exitAt Unix time from which on the stake can be withdrawn.
    event ExitRequested(address indexed node, uint64 exitAt);

    /// @notice A node took its stake out.
    /// @param node The node.
    /// @param amount The stake in wei.
    event Withdrawn(address indexed node, uint256 amount);

    /// @notice A slasher took stake from a node.
    /// @param node The node.
    /// @param amount What was taken, in wei.
    /// @param stake What is left, in wei.
    event NodeSlashed(address indexed node, uint256 amount, uint256 stake);

    /// @notice The constructor was given a minimal stake of zero or one above 128 bits.
    /// @param minStake The minimal stake in wei.
    error InvalidMinStake(uint256 minStake);

    /// @notice The constructor was given a delay above `MAX_UNBONDING_SECONDS`.
    /// @param unbondingSeconds The delay.
    error InvalidUnbonding(uint64 unbondingSeconds);

    /// @notice The stake is below `MIN_STAKE`: send more coins with the call.
    /// @param stake Coins in the call, in wei.
    /// @param minimum `MIN_STAKE`.
    error StakeTooLow(uint256 stake, uint256 minimum);

    /// @notice The stake does not fit into 128 bits.
    /// @param stake The stake in wei.
    error StakeTooHigh(uint256 stake);

    /// @notice The endpoint is empty.
    error EmptyEndpoint();

    /// @notice The node is already registered, or its stake was not yet withdrawn after an exit.
    /// @param node The node.
    error AlreadyRegistered(address node);

    /// @notice The sender is not an active node: register first.
    /// @param node The sender.
    error NotActive(address node);

    /// @notice The model is not in the `ModelRegistry`: publish it first.
    /// @param modelId The model.
    error UnknownModel(bytes32 modelId);

    /// @notice The price of a token is above `MAX_TOKEN_PRICE`: no stake answers for it.
    /// @param price The price in wei.
    /// @param maximum `MAX_TOKEN_PRICE`.
    error PriceTooHigh(uint256 price, uint256 maximum);

    /// @notice The node already offers `MAX_OFFERS` models: remove one first.
    /// @param maximum `MAX_OFFERS`.
    error TooManyOffers(uint256 maximum);

    /// @notice The node does not offer this model.
    /// @param node The node.
    /// @param modelId The model.
    error OfferNotFound(address node, bytes32 modelId);

    /// @notice The sender did not request to exit, or has nothing to withdraw.
    /// @param node The sender.
    error ExitNotRequested(address node);

    /// @notice The unbonding delay is not over.
    /// @param exitAt Unix time from which on the stake can be withdrawn.
    error StillUnbonding(uint64 exitAt);

    /// @notice Proceedings against the node are open: wait for their end.
    /// @param node The node.
    /// @param amount What they hold, in wei: all that is left of its stake.
    error Held(address node, uint256 amount);

    /// @notice Only `DISPUTES` and `JURY` may call this.
    /// @param sender Who called.
    error OnlySlasher(address sender);

    /// @notice The call must carry coins.
    error NoValue();

    /// @notice Creates an empty registry with fixed rules.
    /// @param models_ The registry that says which models exist.
    /// @param minStake Smallest stake, in wei; not zero.
    /// @param unbondingSeconds Time from `requestExit` until the stake can be withdrawn; at most
    /// `MAX_UNBONDING_SECONDS`.
    /// @param disputes First slasher.
    /// @param jury Second slasher.
    constructor(ModelRegistry models_, uint256 minStake, uint64 unbondingSeconds, address disputes, address jury) {
        if (minStake == 0 || minStake > type(uint128).max) revert InvalidMinStake(minStake);
        if (unbondingSeconds > MAX_UNBONDING_SECONDS) revert InvalidUnbonding(unbondingSeconds);
        MODELS = models_;
        MIN_STAKE = minStake;
        MAX_TOKEN_PRICE = minStake / PRICE_SHARE / PRICE_TOKENS;
        UNBONDING_SECONDS = unbondingSeconds;
        DISPUTES = disputes;
        JURY = jury;
    }

    /// @dev Lets only active nodes call.
    modifier onlyActive() {
        if (!isActive(msg.sender)) revert NotActive(msg.sender);
        _;
    }

    /// @dev Lets only slashers call.
    modifier onlySlasher() {
        if (msg.sender != DISPUTES && msg.sender != JURY) revert OnlySlasher(msg.sender);
        _;
    }

    // ---- what a node does ----

    /// @notice Registers the sender with the coins of the call as stake.
    /// @param endpoint Base URL of its API: printable ASCII, 1 to `MAX_ENDPOINT_BYTES` bytes.
    function register(string calldata endpoint) external payable {
        if (_nodes[msg.sender].stake != 0) revert AlreadyRegistered(msg.sender);
        if (msg.value < MIN_STAKE) revert StakeTooLow(msg.value, MIN_STAKE);
        _checkEndpoint(endpoint);

        _nodes[msg.sender] = Node({stake: _toStake(msg.value), exitAt: 0, endpoint: endpoint});
        _active.add(msg.sender);
        emit NodeRegistered(msg.sender, endpoint, msg.value);
    }

    /// @notice Changes where the sender is reached.
    /// @param endpoint As in `register`.
    function updateEndpoint(string calldata endpoint) external onlyActive {
        _checkEndpoint(endpoint);
        _nodes[msg.sender].endpoint = endpoint;
        emit EndpointUpdated(msg.sender, endpoint);
    }

    /// @notice Adds the coins of the call to the sender's stake.
    function topUp() external payable onlyActive {
        if (msg.value == 0) revert NoValue();
        uint256 stake = _nodes[msg.sender].stake + msg.value;
        _nodes[msg.sender].stake = _toStake(stake);
        emit StakeAdded(msg.sender, msg.value, stake);
    }

    /// @notice Offers a model, or changes its prices. A price of zero is allowed, one above `MAX_TOKEN_PRICE` is not.
    /// @param modelId Id in the `ModelRegistry`.
    /// @param pricePerInputToken Price of a prompt token in wei.
    /// @param pricePerOutputToken Price of a generated token in wei.
    function setOffer(bytes32 modelId, uint128 pricePerInputToken, uint128 pricePerOutputToken) external onlyActive {
        if (!MODELS.exists(modelId)) revert UnknownModel(modelId);
        uint256 highest = Math.max(pricePerInputToken, pricePerOutputToken);
        if (highest > MAX_TOKEN_PRICE) revert PriceTooHigh(highest, MAX_TOKEN_PRICE);
        if (_modelsOf[msg.sender].add(modelId)) {
            if (_modelsOf[msg.sender].length() > MAX_OFFERS) revert TooManyOffers(MAX_OFFERS);
            _nodesOf[modelId].add(msg.sender);
            _offered.add(modelId);
        }
        _prices[msg.sender][modelId] = Price(pricePerInputToken, pricePerOutputToken);
        emit OfferSet(msg.sender, modelId, pricePerInputToken, pricePerOutputToken);
    }

    /// @notice Stops offering a model.
    /// @param modelId The model.
    function removeOffer(bytes32 modelId) external onlyActive {
        if (!_modelsOf[msg.sender].contains(modelId)) revert OfferNotFound(msg.sender, modelId);
        _removeOffer(msg.sender, modelId);
    }

    /// @notice Leaves: removes all offers at once and starts the unbonding delay. Cannot be taken back; post the last
    /// receipts to the `ReceiptLog` before.
    function requestExit() external onlyActive {
        _exit(msg.sender);
    }

    /// @notice Sends the stake back after the unbonding delay, except what open proceedings hold: that can be had with another
    /// call when they have ended. The node may register again when nothing is left here.
    function withdraw() external nonReentrant {
        Node storage node = _nodes[msg.sender];
        uint256 amount = node.stake;
        if (amount == 0 || _active.contains(msg.sender)) revert ExitNotRequested(msg.sender);
        if (block.timestamp < node.exitAt) revert StillUnbonding(node.exitAt);
        uint256 kept = Math.min(holds[msg.sender], amount);
        if (kept == amount) revert Held(msg.sender, kept);

        amount -= kept;
        if (kept == 0) delete _nodes[msg.sender];
        else node.stake = uint128(kept);
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    // ---- what a slasher does ----

    /// @notice Takes stake from a node, active or unbonding, and sends it to the slasher.
    /// @param node The node.
    /// @param amount What to take, in wei.
    /// @return taken What was taken: less when there is less, zero when the node is not bonded.
    function slash(address node, uint256 amount) external nonReentrant onlySlasher returns (uint256 taken) {
        uint256 stake = _nodes[node].stake;
        taken = amount < stake ? amount : stake;
        if (taken == 0) return 0;

        uint256 left = stake - taken;
        _nodes[node].stake = uint128(left);
        emit NodeSlashed(node, taken, left);
        if (left < MIN_STAKE && isActive(node)) _exit(node);
        // Nothing is left to wait for.
        if (left == 0) delete _nodes[node];
        Address.sendValue(payable(msg.sender), taken);
    }

    /// @notice Keeps a node from withdrawing a part of its stake until the same slasher calls `unhold`.
    /// @param node The node.
    /// @param amount The part, in wei. All holds together may be more than the stake.
    function hold(address node, uint256 amount) external onlySlasher {
        holds[node] += amount;
    }

    /// @notice Takes back a `hold`.
    /// @param node The node.
    /// @param amount What was held, in wei.
    function unhold(address node, uint256 amount) external onlySlasher {
        holds[node] -= amount;
    }

    // ---- what a client reads ----

    /// @notice Whether an address is a registered node that did not leave.
    /// @param node The address.
    /// @return Whether it is listed and may post to the `ReceiptLog`.
    function isActive(address node) public view returns (bool) {
        return _active.contains(node);
    }

    /// @notice Number of active nodes.
    /// @return The number.
    function nodeCount() external view returns (uint256) {
        return _active.length();
    }

    /// @notice Addresses of active nodes. The order changes when nodes leave: read all pages at one block.
    /// @param offset Entries to skip.
    /// @param limit Most entries to return; lowered to 100.
    /// @return The addresses.
    function nodes(uint256 offset, uint256 limit) external view returns (address[] memory) {
        (uint256 start, uint256 end) = Page.bounds(_active.length(), offset, limit);
        return _active.values(start, end);
    }

    /// @notice What is recorded about a node; all empty when it is not bonded.
    /// @param node The node.
    /// @return endpoint Base URL of its API.
    /// @return stake Stake in wei, also while it is unbonding.
    /// @return active Whether it is listed.
    /// @return exitAt Unix time from which on it can withdraw; 0 while it is active.
    function nodeInfo(address node)
        external
        view
        returns (string memory endpoint, uint256 stake, bool active, uint64 exitAt)
    {
        Node storage entry = _nodes[node];
        return (entry.endpoint, entry.stake, isActive(node), entry.exitAt);
    }

    /// @notice Number of models that a node offers.
    /// @param node The node.
    /// @return The number.
    function offerCount(address node) external view returns (uint256) {
        return _modelsOf[node].length();
    }

    /// @notice Models that a node offers, with prices. At most `MAX_OFFERS` entries.
    /// @param node The node.
    /// @return offers The offers.
    function offersOf(address node) external view returns (ModelOffer[] memory offers) {
        bytes32[] memory ids = _modelsOf[node].values();
        offers = new ModelOffer[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            Price memory price = _prices[node][ids[i]];
            offers[i] = ModelOffer(ids[i], price.perInputToken, price.perOutputToken);
        }
    }

    /// @notice Number of models that at least one active node offers.
    /// @return The number.
    function modelCount() external view returns (uint256) {
        return _offered.length();
    }

    /// @notice Models that at least one active node offers. The order changes: read all pages at one block.
    /// @param offset Entries to skip.
    /// @param limit Most entries to return; lowered to 100.
    /// @return Ids in the `ModelRegistry`.
    function models(uint256 offset, uint256 limit) external view returns (bytes32[] memory) {
        (uint256 start, uint256 end) = Page.bounds(_offered.length(), offset, limit);
        return _offered.values(start, end);
    }

    /// @notice Number of active nodes that offer a model.
    /// @param modelId The model.
    /// @return The number.
    function nodeCountFor(bytes32 modelId) external view returns (uint256) {
        return _nodesOf[modelId].length();
    }

    /// @notice Active nodes that offer a model. The order changes: read all pages at one block.
    /// @param modelId The model.
    /// @param offset Entries to skip.
    /// @param limit Most entries to return; lowered to 100.
    /// @return page The offers.
    function nodesFor(bytes32 modelId, uint256 offset, uint256 limit) external view returns (NodeOffer[] memory page) {
        (uint256 start, uint256 end) = Page.bounds(_nodesOf[modelId].length(), offset, limit);
        page = new NodeOffer[](end - start);
        for (uint256 i = start; i < end; ++i) {
            address node = _nodesOf[modelId].at(i);
            Price memory price = _prices[node][modelId];
            page[i - start] = NodeOffer({
                node: node,
                endpoint: _nodes[node].endpoint,
                stake: _nodes[node].stake,
                pricePerInputToken: price.perInputToken,
                pricePerOutputToken: price.perOutputToken
            });
        }
    }

    // ---- inside ----

    /// @dev Takes a node from all lists and starts its unbonding delay.
    function _exit(address node) private {
        uint64 exitAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        _nodes[node].exitAt = exitAt;
        _active.remove(node);
        for (uint256 left = _modelsOf[node].length(); left > 0; --left) {
            _removeOffer(node, _modelsOf[node].at(left - 1));
        }
        emit ExitRequested(node, exitAt);
    }

    /// @dev Removes one offer from all lists. The offer must exist.
    function _removeOffer(address node, bytes32 modelId) private {
        _modelsOf[node].remove(modelId);
        delete _prices[node][modelId];
        _nodesOf[modelId].remove(node);
        if (_nodesOf[modelId].length() == 0) _offered.remove(modelId);
        emit OfferRemoved(node, modelId);
    }

    /// @dev Reverts unless the endpoint can be stored and printed.
    function _checkEndpoint(string calldata endpoint) private pure {
        if (bytes(endpoint).length == 0) revert EmptyEndpoint();
        Text.check(endpoint, MAX_ENDPOINT_BYTES);
    }

    /// @dev Narrows to the stored width.
    function _toStake(uint256 stake) private pure returns (uint128) {
        if (stake > type(uint128).max) revert StakeTooHigh(stake);
        return uint128(stake);
    }
}
