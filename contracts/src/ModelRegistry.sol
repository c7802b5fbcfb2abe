// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Page} from "./Page.sol";
import {Text} from "./Text.sol";

/// @title ModelRegistry
/// @notice Permissionless list of models, keyed by content. A model's id is the hash of its manifest, so nobody,
/// its publisher included, can change what an id means. Entries are never changed or removed, and each costs
/// `PUBLISH_FEE`, which is burnt.
/// @dev The contract proves that a manifest hashes to its id. It does not parse the manifest: readers decode it strictly
/// and ignore entries that do not decode. The fee cannot be a deposit: receipts name models for ever, so no entry is
/// ever unused. It makes a long list expensive; readers should still list by offers (`NodeRegistry.models`), not from here. The recorded publisher is who paid for the entry first, not
/// necessarily the author of the weights.
contract ModelRegistry {
    /// @notice One published model.
    struct Model {
        /// @dev Who published it first.
        address publisher;
        /// @dev Block timestamp of the publication, in seconds.
        uint64 publishedAt;
        /// @dev Canonical RLP bytes of the manifest.
        bytes manifest;
        /// @dev Where the weights can be fetched; only a hint, since the manifest commits to them.
        string uri;
    }

    /// @notice Longest manifest, in bytes.
    uint256 public constant MAX_MANIFEST_BYTES = 16 * 1024;
    /// @notice Longest URI, in bytes.
    uint256 public constant MAX_URI_BYTES = 512;

    /// @notice Where fees go: nobody has its key.
    address payable public constant BURN = payable(0x000000000000000000000000000000000000dEaD);

    /// @notice What an entry costs, in wei.
    uint256 public immutable PUBLISH_FEE;

    /// @dev Published models.
    mapping(bytes32 modelId => Model) private _models;
    /// @dev Their ids in the order of publication.
    bytes32[] private _ids;

    /// @notice A model was published.
    /// @param modelId keccak-256 of the manifest.
    /// @param publisher Who published it.
    /// @param uri Where the weights can be fetched; may be empty.
    event ModelPublished(bytes32 indexed modelId, address indexed publisher, string uri);

    /// @notice The manifest does not hash to the given id: compute the id from exactly these bytes.
    /// @param given Id in the call.
    /// @param computed keccak-256 of the manifest in the call.
    error ModelIdMismatch(bytes32 given, bytes32 computed);

    /// @notice The manifest is empty or longer than `MAX_MANIFEST_BYTES`.
    /// @param length Its length in bytes.
    error ManifestSize(uint256 length);

    /// @notice The model is already in the registry; entries cannot be changed.
    /// @param modelId The id.
    error ModelAlreadyPublished(bytes32 modelId);

    /// @notice No model with this id was published.
    /// @param modelId The id.
    error ModelNotFound(bytes32 modelId);

    /// @notice The coins of the call are not `PUBLISH_FEE`.
    /// @param given What they are, in wei.
    /// @param fee What they must be.
    error WrongFee(uint256 given, uint256 fee);

    /// @notice Creates an empty registry.
    /// @param publishFee What an entry costs, in wei.
    constructor(uint256 publishFee) {
        PUBLISH_FEE = publishFee;
    }

    /// @notice Publishes a model. Anyone may; the first caller is recorded as publisher. The coins of the call are `PUBLISH_FEE`.
    /// @param modelId keccak-256 of `manifest`.
    /// @param manifest Canonical RLP bytes, 1 to `MAX_MANIFEST_BYTES` bytes.
    /// @param uri Where the weights can be fetched: printable ASCII, at most `MAX_URI_BYTES` bytes; may be empty.
    function publish(bytes32 modelId, bytes calldata manifest, string calldata uri) external payable {
        if (msg.value != PUBLISH_FEE) revert WrongFee(msg.value, PUBLISH_FEE);
        if (manifest.length == 0 || manifest.length > MAX_MANIFEST_BYTES) revert ManifestSize(manifest.length);
        bytes32 computed = keccak256(manifest);
        if (computed != modelId) revert ModelIdMismatch(modelId, computed);
        if (exists(modelId)) revert ModelAlreadyPublished(modelId);
        Text.check(uri, MAX_URI_BYTES);

        _models[modelId] =
            Model({publisher: msg.sender, publishedAt: uint64(block.timestamp), manifest: manifest, uri: uri});
        _ids.push(modelId);
        emit ModelPublished(modelId, msg.sender, uri);
        if (msg.value > 0) Address.sendValue(BURN, msg.value);
    }

    /// @notice Whether a model with this id was published.
    /// @param modelId The id.
    /// @return Whether it was published.
    function exists(bytes32 modelId) public view returns (bool) {
        return _models[modelId].publisher != address(0);
    }

    /// @notice One model; reverts with `ModelNotFound` when it was not published.
    /// @param modelId The id.
    /// @return The entry.
    function get(bytes32 modelId) external view returns (Model memory) {
        if (!exists(modelId)) revert ModelNotFound(modelId);
        return _models[modelId];
    }

    /// @notice Number of published models.
    /// @return The number.
    function count() external view returns (uint256) {
        return _ids.length;
    }

    /// @notice Ids in the order of publication. The order never changes, so paging is stable.
    /// @param offset Entries to skip.
    /// @param limit Most entries to return; lowered to 100.
    /// @return page The ids.
    function ids(uint256 offset, uint256 limit) external view returns (bytes32[] memory page) {
        (uint256 start, uint256 end) = Page.bounds(_ids.length, offset, limit);
        page = new bytes32[](end - start);
        for (uint256 i = start; i < end; ++i) {
            page[i - start] = _ids[i];
        }
    }
}
