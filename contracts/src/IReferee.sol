// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @notice What the contracts need to know of a signed claim.
struct ClaimInfo {
    /// @dev The node that signed.
    address node;
    /// @dev EIP-712 digest of the claim: what the node signed, and what its log has.
    bytes32 digest;
    /// @dev Name of the request: two claims of one node with the same id answer the same request.
    bytes32 receiptId;
    /// @dev Who pays; zero when the answer was free.
    address payer;
    /// @dev Price in wei.
    uint128 price;
    /// @dev Unix time in milliseconds at which the node signed.
    uint64 timeMs;
    /// @dev Id of the model in the `ModelRegistry`.
    bytes32 model;
    /// @dev How the answer is checked.
    uint8 rung;
}

/// @title IReferee
/// @notice The precompile that reads claims and plays dispute games. It has no state: who calls keeps the game's.
/// @dev The turn after a step is `CHALLENGER_MOVES`, `NODE_MOVES`, `CHALLENGER_WON` or `NODE_WON`.
interface IReferee {
    /// @notice Decodes a canonical claim of this network and checks the node's signature. Reverts when either is bad.
    /// @param encoded The claim.
    /// @param signature The node's signature.
    /// @return What the claim says.
    function claim(bytes calldata encoded, bytes calldata signature) external view returns (ClaimInfo memory);

    /// @notice Starts a game about a signed claim. Reverts when the claim, signature or opening is bad.
    /// @param encoded The claim.
    /// @param signature The node's signature.
    /// @param opening What the challenger alleges.
    /// @return info What the claim says.
    /// @return state First state of the game.
    /// @return turn Who moves next or has won.
    function start(bytes calldata encoded, bytes calldata signature, bytes calldata opening)
        external
        view
        returns (ClaimInfo memory info, bytes memory state, uint8 turn);

    /// @notice The state after a move. Reverts when the move is not valid.
    /// @param state State before the move.
    /// @param move The move of the party on turn.
    /// @return next State after the move.
    /// @return turn Who moves next or has won.
    function play(bytes calldata state, bytes calldata move) external view returns (bytes memory next, uint8 turn);
}

/// @dev Address of the precompile.
IReferee constant REFEREE = IReferee(address(0x0a03));
/// @dev The challenger moves next.
uint8 constant CHALLENGER_MOVES = 0;
/// @dev The node, or who defends its claim, moves next.
uint8 constant NODE_MOVES = 1;
/// @dev The claim is wrong.
uint8 constant CHALLENGER_WON = 2;
/// @dev The challenge is wrong.
uint8 constant NODE_WON = 3;
