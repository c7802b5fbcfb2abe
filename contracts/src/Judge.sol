// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Escrow} from "./Escrow.sol";
import {NodeRegistry} from "./NodeRegistry.sol";

/// @title Judge
/// @notice What all judges of nodes do with money: hold what a case can cost, slash the stake, give the payer its money
/// back, pay who reported, burn the rest, and keep what they owe until it is taken.
/// @dev The burnt part is sent to `BURN`, whose key nobody has, so that it is seen in that account. It is what makes a
/// node that reports itself lose.
abstract contract Judge is ReentrancyGuardTransient {
    /// @notice Where burnt coins go.
    address payable public constant BURN = payable(0x000000000000000000000000000000000000dEaD);

    /// @notice Stakes of nodes.
    NodeRegistry public immutable NODES;
    /// @notice Money of clients.
    Escrow public immutable ESCROW;
    /// @notice Part of a slash that goes to who reported, in thousandths.
    uint256 public immutable BOUNTY_PERMILLE;

    /// @notice What can be withdrawn, in wei.
    mapping(address owner => uint256) public balances;
    /// @notice Open proceedings against a node. Nothing depends on the number: what they hold counts.
    mapping(address node => uint256) public openCount;

    /// @notice A node lost stake.
    /// @param node The node.
    /// @param receiptId The receipt; zero when it is not about one.
    /// @param taken What it lost, in wei.
    /// @param bounty What the reporter gets of it.
    /// @param refunded What the payer gets back, from earnings and stake.
    event Punished(address indexed node, bytes32 indexed receiptId, uint256 taken, uint256 bounty, uint256 refunded);

    /// @notice Somebody withdrew.
    /// @param owner Who.
    /// @param amount How much, in wei.
    event Withdrawn(address indexed owner, uint256 amount);

    /// @notice The constructor was given useless rules.
    error InvalidParams();
    /// @notice The sender has nothing to withdraw.
    error NothingToWithdraw();
    /// @notice Coins come with a function, or from the contracts that hold stakes.
    error UnexpectedCoins();
    /// @notice The coins of the call are not the bond.
    /// @param given What they are, in wei.
    /// @param bond What they must be.
    error WrongBond(uint256 given, uint256 bond);
    /// @notice The node has no stake that could be slashed.
    /// @param node The node.
    error NotBonded(address node);

    /// @dev Stores what all judges need.
    constructor(NodeRegistry nodes, Escrow escrow, uint256 bountyPermille) {
        if (bountyPermille > 1000) revert InvalidParams();
        (NODES, ESCROW, BOUNTY_PERMILLE) = (nodes, escrow, bountyPermille);
    }

    /// @notice Receives slashed stakes.
    receive() external payable {
        if (!_paysUs(msg.sender)) revert UnexpectedCoins();
    }

    /// @notice Pays what the sender is owed.
    function withdraw() external nonReentrant {
        uint256 amount = balances[msg.sender];
        if (amount == 0) revert NothingToWithdraw();
        balances[msg.sender] = 0;
        emit Withdrawn(msg.sender, amount);
        Address.sendValue(payable(msg.sender), amount);
    }

    /// @dev Who may send coins without a function.
    function _paysUs(address sender) internal view virtual returns (bool) {
        return sender == address(NODES);
    }

    /// @dev Counts new proceedings, and keeps what they can cost the node: `slash` of its stake and `price` of its earnings.
    function _begin(address node, uint256 slash, uint256 price) internal {
        (, uint256 stake,,) = NODES.nodeInfo(node);
        if (stake == 0) revert NotBonded(node);
        ++openCount[node];
        if (slash > 0) NODES.hold(node, slash);
        if (price > 0) ESCROW.hold(node, price);
    }

    /// @dev Takes back `_begin`; the amounts are what that was given.
    function _end(address node, uint256 slash, uint256 price) internal {
        --openCount[node];
        if (slash > 0) NODES.unhold(node, slash);
        if (price > 0) ESCROW.unhold(node, price);
    }

    /// @dev Slashes a node by `amount`, and gives the payer back what it paid for this answer: from the node's earnings, and
    /// where they do not suffice from the stake. At most half of the stake that is left after the bounty is used for
    /// that, so that a node that pays itself still loses.
    /// @return taken What the node lost.
    /// @return bounty What of it is the reporter's, still here: the caller credits it.
    /// @return left What is left of it, still here: the caller burns it.
    function _punish(address node, bytes32 receiptId, uint256 amount, address payer, uint256 price)
        internal
        returns (uint256 taken, uint256 bounty, uint256 left)
    {
        uint256 paid = payer == address(0) ? 0 : Math.min(price, ESCROW.paidBy(payer, node));
        uint256 refunded = paid == 0 ? 0 : ESCROW.refund(node, payer, paid);
        if (amount > 0) taken = NODES.slash(node, amount);
        bounty = taken * BOUNTY_PERMILLE / 1000;
        left = taken - bounty;
        uint256 missing = Math.min(paid - refunded, left / 2);
        if (missing > 0) {
            ESCROW.compensate{value: missing}(node, payer);
            left -= missing;
        }
        emit Punished(node, receiptId, taken, bounty, refunded + missing);
    }

    /// @dev Sends coins where nobody gets them.
    function _burn(uint256 amount) internal {
        if (amount > 0) Address.sendValue(BURN, amount);
    }
}
