// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @title Domain
/// @notice EIP-712 domains of this network. The salt is the hash of the genesis block, so that what was signed for one
/// network counts in no other, also when both have the same chain id and contracts at the same addresses.
library Domain {
    /// @dev EIP-712 types of the domains with and without a contract.
    bytes32 private constant _WITH_CONTRACT = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)"
    );
    bytes32 private constant _WITHOUT_CONTRACT =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)");
    /// @dev Version of all domains.
    bytes32 private constant _VERSION = keccak256("1");

    /// @notice Separator of a domain that names a contract.
    /// @param name The domain's name.
    /// @param verifier The contract.
    /// @param genesis Hash of the genesis block.
    /// @return The separator.
    function separator(string memory name, address verifier, bytes32 genesis) internal view returns (bytes32) {
        bytes32 hashed = keccak256(bytes(name));
        return keccak256(abi.encode(_WITH_CONTRACT, hashed, _VERSION, block.chainid, verifier, genesis));
    }

    /// @notice Separator of a domain that names no contract.
    /// @param name The domain's name.
    /// @param genesis Hash of the genesis block.
    /// @return The separator.
    function separator(string memory name, bytes32 genesis) internal view returns (bytes32) {
        return keccak256(abi.encode(_WITHOUT_CONTRACT, keccak256(bytes(name)), _VERSION, block.chainid, genesis));
    }
}
