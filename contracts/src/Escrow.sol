// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Audits} from "./Audits.sol";
import {Domain} from "./Domain.sol";
import {ReceiptLog} from "./ReceiptLog.sol";

/// @title Escrow
/// @notice Payments of clients to nodes. A client fills a pocket for one node and signs vouchers, each with all that it
/// owes that node so far; the node takes what they say, and gets it when the time for disputes is over.
/// @dev A pocket is exclusive to one node, so what a request costs is locked when the pocket holds it: the client can
/// spend it nowhere else, and takes it out only after `WITHDRAW_SECONDS`, in which the node can still take it.
/// Vouchers are cumulative: an old one is worth nothing after a newer one, and one taken twice pays nothing the second
/// time. Earnings wait in buckets; all settlements of one sixteenth of `WINDOW_SECONDS` share one, so at most 17 are
/// not yet due, and a node cannot hide its earnings from a refund behind many small ones. What open proceedings can cost is
/// held: as much of a bucket that is due goes into a reserve, and the rest is paid.
contract Escrow is ReentrancyGuardTransient {
    using SafeCast for uint256;

    /// @notice A client's promise.
    struct Voucher {
        /// @dev Who pays and signs.
        address client;
        /// @dev Who is paid.
        address node;
        /// @dev All that the client owes the node since the beginning, in wei.
        uint256 total;
    }

    /// @notice Money of one client for one node, in wei.
    struct Pocket {
        /// @dev What the pocket holds.
        uint128 held;
        /// @dev What the node took so far.
        uint128 taken;
        /// @dev What the client got back of it.
        uint128 refunded;
        /// @dev What the client asked to take out.
        uint128 withdrawing;
        /// @dev Unix time from which on it can; zero when it did not ask.
        uint64 withdrawAt;
    }

    /// @notice Earnings of a node.
    struct Bucket {
        /// @dev What is in it, in wei; zero after it was paid.
        uint128 amount;
        /// @dev Unix time from which on it is paid.
        uint64 releaseAt;
        /// @dev Size of the node's log at the latest settlement.
        uint64 logSize;
    }

    /// @notice Most vouchers of one settlement.
    uint256 public constant MAX_VOUCHERS = 256;
    /// @notice Buckets that a refund looks at, from the newest on.
    uint256 public constant REFUND_BUCKETS = 32;
    /// @notice EIP-712 type of a voucher.
    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(address client,address node,uint256 total)");
    /// @dev Name of the EIP-712 domain.
    string private constant _NAME = "og escrow";
    /// @dev Parts of the window in which settlements share a bucket.
    uint64 private constant _PERIODS = 16;

    /// @notice Where nodes post their logs.
    ReceiptLog public immutable LOG;
    /// @notice Judge of computations.
    address public immutable DISPUTES;
    /// @notice Judge of what no computation can decide.
    address public immutable JURY;
    /// @notice Gets a part of all payments and pays auditors with it.
    Audits public immutable AUDITS;
    /// @notice Time between the request to take money out of a pocket and the payment, in seconds.
    uint64 public immutable WITHDRAW_SECONDS;
    /// @notice Time for which earnings wait, in seconds.
    uint64 public immutable WINDOW_SECONDS;
    /// @notice Part of all payments that goes to the audits, in thousandths.
    uint256 public immutable AUDIT_PERMILLE;

    /// @notice Refunds to be collected, in wei.
    mapping(address client => uint256) public balances;
    /// @dev Pockets and buckets.
    mapping(address client => mapping(address node => Pocket)) private _pockets;
    mapping(address node => Bucket[]) private _buckets;
    /// @notice What open proceedings can cost a node of its earnings, in wei.
    mapping(address node => uint256) public holds;
    /// @notice Earnings that were due while they were held, in wei.
    mapping(address node => uint256) public reserves;

    /// @notice A client filled a pocket.
    /// @param client The client.
    /// @param node The node.
    /// @param amount What was added, in wei.
    event Deposited(address indexed client, address indexed node, uint256 amount);

    /// @notice A client wants money back out of a pocket.
    /// @param client The client.
    /// @param node The node.
    /// @param amount How much, in wei; zero when it changed its mind.
    /// @param withdrawAt Unix time from which on it can be had.
    event WithdrawRequested(address indexed client, address indexed node, uint256 amount, uint64 withdrawAt);

    /// @notice A client took money out of a pocket.
    /// @param client The client.
    /// @param node The node.
    /// @param amount How much, in wei.
    event Withdrawn(address indexed client, address indexed node, uint256 amount);

    /// @notice A node took what a voucher says.
    /// @param client Who signed it.
    /// @param node The node.
    /// @param total The voucher's total, in wei.
    /// @param amount What it brought, in wei.
    event VoucherSettled(address indexed client, address indexed node, uint256 total, uint256 amount);

    /// @notice Earnings wait in a bucket.
    /// @param node The node.
    /// @param index The bucket.
    /// @param amount What was added, in wei.
    /// @param audit What went to the audits, in wei.
    /// @param logSize Size of the node's log.
    /// @param releaseAt Unix time from which on the bucket is paid.
    event Settled(
        address indexed node, uint256 indexed index, uint256 amount, uint256 audit, uint64 logSize, uint64 releaseAt
    );

    /// @notice A bucket was paid to its node.
    /// @param node The node.
    /// @param index The bucket.
    /// @param amount How much, in wei: what was in it and in the reserve, less what stays there.
    event Released(address indexed node, uint256 indexed index, uint256 amount);

    /// @notice A node was paid what is no longer held.
    /// @param node The node.
    /// @param amount How much, in wei.
    event ReserveReleased(address indexed node, uint256 amount);

    /// @notice A client got money back for a wrong answer.
    /// @param client The client.
    /// @param node The node.
    /// @param amount How much, in wei.
    /// @param fromStake Whether it came from the node's stake and not from its earnings.
    event Refunded(address indexed client, address indexed node, uint256 amount, bool fromStake);

    /// @notice A client collected its refunds.
    /// @param client The client.
    /// @param amount How much, in wei.
    event Collected(address indexed client, uint256 amount);

    /// @notice The constructor was given a useless window or share.
    error InvalidParams();
    /// @notice The call must carry coins.
    error NoValue();
    /// @notice The pocket holds less.
    /// @param held What it holds, in wei.
    error PocketTooSmall(uint256 held);
    /// @notice Nothing was requested, or the node took all of it.
    error NothingToWithdraw();
    /// @notice It is too early.
    /// @param time Unix time from which on the call works.
    error TooEarly(uint64 time);
    /// @notice Signatures and vouchers do not match in number, or there are too many.
    error WrongCount();
    /// @notice The voucher is for another node, or not signed by its client.
    /// @param index Position in the call.
    error BadVoucher(uint256 index);
    /// @notice The node did not post a log of this size.
    /// @param logSize The size.
    error LogNotPosted(uint64 logSize);
    /// @notice The vouchers bring nothing: they were taken before, or the pockets are empty.
    error NothingDue();
    /// @notice The bucket does not exist or is empty.
    error NothingToRelease();
    /// @notice Only judges may call this.
    /// @param sender Who called.
    error OnlyJudge(address sender);
    /// @notice A client would get back more than it paid.
    error TooMuch();

    /// @notice Creates an empty escrow.
    /// @param log Where nodes post their logs.
    /// @param disputes Judge of computations.
    /// @param jury Judge of the rest.
    /// @param audits Gets the share of auditors.
    /// @param withdrawSeconds Delay of withdrawals from pockets; at most a year.
    /// @param windowSeconds Delay of payments to nodes, 16 to a year. Not shorter than the time in which an answer can be
    /// audited and disputed, else refunds come from the stake only.
    /// @param auditPermille Share of auditors; at most 1000.
    constructor(
        ReceiptLog log,
        address disputes,
        address jury,
        Audits audits,
        uint64 withdrawSeconds,
        uint64 windowSeconds,
        uint256 auditPermille
    ) {
        if (windowSeconds < _PERIODS || windowSeconds > 365 days || withdrawSeconds > 365 days) revert InvalidParams();
        if (auditPermille > 1000) revert InvalidParams();
        (LOG, DISPUTES, JURY, AUDITS) = (log, disputes, jury, audits);
        (WITHDRAW_SECONDS, WINDOW_SECONDS, AUDIT_PERMILLE) = (withdrawSeconds, windowSeconds, auditPermille);
    }

    /// @dev Lets only judges call.
    modifier onlyJudge() {
        if (msg.sender != DISPUTES && msg.sender != JURY) revert OnlyJudge(msg.sender);
        _;
    }

    // ---- what a client does ----

    /// @notice Adds the coins of the call to the sender's pocket for a node.
    /// @param node The node.
    function deposit(address node) external payable {
        if (msg.value == 0) revert NoValue();
        Pocket storage pocket = _pockets[msg.sender][node];
        pocket.held = (pocket.held + msg.value).toUint128();
        emit Deposited(msg.sender, node, msg.value);
    }

    /// @notice Asks for money out of a pocket. Replaces the request before; zero takes it back. The node can take the
    /// money with vouchers until `withdraw`.
    /// @param node The node.
    /// @param amount How much, in wei.
    function requestWithdraw(address node, uint256 amount) external {
        Pocket storage pocket = _pockets[msg.sender][node];
        if (amount > pocket.held) revert PocketTooSmall(pocket.held);
        pocket.withdrawing = uint128(amount);
        pocket.withdrawAt = amount == 0 ? 0 : uint64(block.timestamp) + WITHDRAW_SECONDS;
        emit WithdrawRequested(msg.sender, node, amount, pocket.withdrawAt);
    }

    /// @notice Pays what was requested, or what is left of it.
    /// @param node The node.
    function withdraw(address node) external nonReentrant {
        Pocket storage pocket = _pockets[msg.sender][node];
        uint256 amount = Math.min(pocket.withdrawing, pocket.held);
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < pocket.withdrawAt) revert TooEarly(pocket.withdrawAt);
        pocket.held -= uint128(amount);
        (pocket.withdrawing, pocket.withdrawAt) = (0, 0);
        emit Withdrawn(msg.sender, node, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    /// @notice Pays the sender's refunds.
    function collect() external nonReentrant {
        uint256 amount = balances[msg.sender];
        if (amount == 0) revert NothingToWithdraw();
        balances[msg.sender] = 0;
        emit Collected(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    // ---- what a node does ----

    /// @notice Takes what vouchers say out of their pockets, for the sender. A voucher brings what its total is above what
    /// was taken before, at most what the pocket holds; the rest can be taken with the same voucher later.
    /// @param vouchers At most `MAX_VOUCHERS`, for the sender.
    /// @param signatures The clients' signatures, 65 bytes each.
    /// @param logSize Size of a log that the node posted.
    /// @return index The bucket in which the earnings wait.
    function settle(Voucher[] calldata vouchers, bytes[] calldata signatures, uint64 logSize)
        external
        nonReentrant
        returns (uint256 index)
    {
        if (vouchers.length != signatures.length || vouchers.length > MAX_VOUCHERS) revert WrongCount();
        if (LOG.roots(msg.sender, logSize) == bytes32(0)) revert LogNotPosted(logSize);
        uint256 sum = 0;
        bytes32 domain = _domain();
        for (uint256 i = 0; i < vouchers.length; ++i) {
            if (!_signed(domain, vouchers[i], signatures[i])) revert BadVoucher(i);
            sum += _take(vouchers[i]);
        }
        if (sum == 0) revert NothingDue();
        uint256 audit = sum * AUDIT_PERMILLE / 1000;
        index = _fill(sum - audit, audit, logSize);
        if (audit > 0) AUDITS.fund{value: audit}();
    }

    /// @notice Pays a bucket to its node, except what open proceedings hold. Anybody may call this.
    /// @param node The node.
    /// @param index The bucket.
    function release(address node, uint256 index) external nonReentrant {
        if (index >= _buckets[node].length) revert NothingToRelease();
        Bucket storage bucket = _buckets[node][index];
        uint256 amount = bucket.amount;
        if (amount == 0) revert NothingToRelease();
        if (block.timestamp < bucket.releaseAt) revert TooEarly(bucket.releaseAt);
        bucket.amount = 0;
        amount = _unheld(node, amount);
        emit Released(node, index, amount);
        if (amount > 0) Address.sendValue(payable(node), amount);
    }

    /// @notice Pays a node what is in its reserve and no longer held. Anybody may call this.
    /// @param node The node.
    function releaseReserve(address node) external nonReentrant {
        uint256 amount = _unheld(node, 0);
        if (amount == 0) revert NothingToRelease();
        emit ReserveReleased(node, amount);
        Address.sendValue(payable(node), amount);
    }

    // ---- what a judge does ----

    /// @notice Holds a part of a node's earnings until the same judge calls `unhold`.
    /// @param node The node.
    /// @param amount The part, in wei. All holds together may be more than there is.
    function hold(address node, uint256 amount) external onlyJudge {
        holds[node] += amount;
    }

    /// @notice Takes back a `hold`.
    /// @param node The node.
    /// @param amount What was held, in wei.
    function unhold(address node, uint256 amount) external onlyJudge {
        holds[node] -= amount;
    }

    /// @notice Gives a client money back out of the node's reserve, and then out of its newest unpaid buckets.
    /// @param node The node.
    /// @param payer The client.
    /// @param amount How much, in wei; lowered to what the client paid and did not get back.
    /// @return paid What it gets.
    function refund(address node, address payer, uint256 amount) external onlyJudge returns (uint256 paid) {
        uint256 wanted = Math.min(amount, paidBy(payer, node));
        paid = Math.min(reserves[node], wanted);
        reserves[node] -= paid;
        Bucket[] storage list = _buckets[node];
        uint256 end = Math.saturatingSub(list.length, REFUND_BUCKETS);
        for (uint256 i = list.length; i > end && paid < wanted; --i) {
            uint256 part = Math.min(list[i - 1].amount, wanted - paid);
            list[i - 1].amount -= uint128(part);
            paid += part;
        }
        if (paid > 0) _refunded(node, payer, paid, false);
    }

    /// @notice Gives a client the coins of the call, which come from the node's stake.
    /// @param node The node.
    /// @param payer The client; gets at most what it paid and did not get back.
    function compensate(address node, address payer) external payable onlyJudge {
        if (msg.value > paidBy(payer, node)) revert TooMuch();
        _refunded(node, payer, msg.value, true);
    }

    // ---- views ----

    /// @notice What a client paid a node and did not get back, in wei.
    /// @param client The client.
    /// @param node The node.
    /// @return The amount.
    function paidBy(address client, address node) public view returns (uint256) {
        Pocket storage pocket = _pockets[client][node];
        return pocket.taken - pocket.refunded;
    }

    /// @notice What a node can count on for the next `WITHDRAW_SECONDS`, in wei. Less than what the pocket holds when the
    /// client asked for money back, perhaps long ago: it can then take that at any time.
    /// @param client The client.
    /// @param node The node.
    /// @return The amount.
    function lockedFor(address client, address node) external view returns (uint256) {
        Pocket storage pocket = _pockets[client][node];
        return Math.saturatingSub(pocket.held, pocket.withdrawing);
    }

    /// @notice A pocket.
    /// @param client The client.
    /// @param node The node.
    /// @return The pocket; all zero when it was never used.
    function pocketOf(address client, address node) external view returns (Pocket memory) {
        return _pockets[client][node];
    }

    /// @notice Number of buckets that a node ever had.
    /// @param node The node.
    /// @return The number.
    function bucketCount(address node) external view returns (uint256) {
        return _buckets[node].length;
    }

    /// @notice A bucket; reverts when there is none.
    /// @param node The node.
    /// @param index The bucket.
    /// @return The bucket.
    function bucketOf(address node, uint256 index) external view returns (Bucket memory) {
        return _buckets[node][index];
    }

    /// @notice EIP-712 digest that a client signs.
    /// @param voucher The voucher.
    /// @return The digest.
    function voucherDigest(Voucher calldata voucher) external view returns (bytes32) {
        return _digest(_domain(), voucher);
    }

    /// @notice The EIP-712 domain of vouchers (ERC-5267).
    /// @return fields Which fields it has: all.
    /// @return name Its name.
    /// @return version Its version.
    /// @return chainId The chain id.
    /// @return verifyingContract This contract.
    /// @return salt Hash of the genesis block.
    /// @return extensions None.
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (0x1f, _NAME, "1", block.chainid, address(this), AUDITS.BEACON().genesis(), new uint256[](0));
    }

    // ---- inside ----

    /// @dev Separator of the domain in which clients sign. Reverts before the genesis hash is known.
    function _domain() private view returns (bytes32) {
        return Domain.separator(_NAME, address(this), AUDITS.BEACON().genesis());
    }

    /// @dev What a client signs.
    function _digest(bytes32 domain, Voucher calldata voucher) private pure returns (bytes32) {
        bytes32 hashed = keccak256(abi.encode(VOUCHER_TYPEHASH, voucher.client, voucher.node, voucher.total));
        return MessageHashUtils.toTypedDataHash(domain, hashed);
    }

    /// @dev Whether a voucher is for the sender and signed by its client.
    function _signed(bytes32 domain, Voucher calldata voucher, bytes calldata signature) private view returns (bool) {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(_digest(domain, voucher), signature);
        return voucher.node == msg.sender && failure == ECDSA.RecoverError.NoError && signer == voucher.client;
    }

    /// @dev Takes what a voucher brings out of its pocket.
    function _take(Voucher calldata voucher) private returns (uint256 amount) {
        Pocket storage pocket = _pockets[voucher.client][voucher.node];
        amount = Math.min(Math.saturatingSub(voucher.total, pocket.taken), pocket.held);
        if (amount == 0) return 0;
        pocket.held -= uint128(amount);
        pocket.taken = (pocket.taken + amount).toUint128();
        emit VoucherSettled(voucher.client, voucher.node, voucher.total, amount);
    }

    /// @dev Puts earnings of the sender into its bucket of this period.
    function _fill(uint256 amount, uint256 audit, uint64 logSize) private returns (uint256 index) {
        Bucket[] storage list = _buckets[msg.sender];
        uint64 period = WINDOW_SECONDS / _PERIODS;
        uint64 releaseAt = uint64(block.timestamp) + WINDOW_SECONDS;
        index = list.length;
        if (index > 0 && (list[index - 1].releaseAt - WINDOW_SECONDS) / period == uint64(block.timestamp) / period) {
            --index;
        } else {
            list.push();
        }
        Bucket storage bucket = list[index];
        bucket.amount = (bucket.amount + amount).toUint128();
        (bucket.releaseAt, bucket.logSize) = (releaseAt, logSize);
        emit Settled(msg.sender, index, amount, audit, logSize, releaseAt);
    }

    /// @dev Adds what is due to a node's reserve, and takes out what is not held.
    function _unheld(address node, uint256 due) private returns (uint256 amount) {
        due += reserves[node];
        uint256 kept = Math.min(holds[node], due);
        reserves[node] = kept;
        return due - kept;
    }

    /// @dev Credits a refund.
    function _refunded(address node, address payer, uint256 amount, bool fromStake) private {
        _pockets[payer][node].refunded += uint128(amount);
        balances[payer] += amount;
        emit Refunded(payer, node, amount, fromStake);
    }
}
