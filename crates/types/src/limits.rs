//! Bounds on everything that can come from outside. Units are in the names.

/// Longest request body that is served or proved (1 MiB).
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Longest response (a JSON body or a whole SSE stream) that is receipted or proved (8 MiB).
pub const RESPONSE_BYTES_MAX: usize = 8 << 20;
/// Longest canonical model manifest (16 KiB, as in the `ModelRegistry` contract).
pub const MANIFEST_BYTES_MAX: usize = 16 << 10;
/// Longest evidence body of one mode (1 MiB).
pub const EVIDENCE_BYTES_MAX: usize = 1 << 20;
/// Most pieces of evidence in one receipt.
pub const EVIDENCE_COUNT_MAX: usize = 8;
/// Longest proof file (16 MiB).
pub const PROOF_BYTES_MAX: usize = 16 << 20;
/// Deepest Merkle path in a log (2^63 entries).
pub const MERKLE_PATH_MAX: usize = 63;
/// Most nodes in one Merkle-Patricia proof (64 nibbles and the root).
pub const TRIE_PROOF_NODES_MAX: usize = 65;
/// Most validators in one set.
pub const VALIDATORS_MAX: usize = 256;
/// Most changes of the validator set in one proof.
pub const HANDOVERS_MAX: usize = 4096;
/// Longest header in bytes.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Most headers between a block and the certified one in a chain proof.
pub const HEADERS_MAX: usize = 4096;
/// Most slots, or transactions and receipts, in a chain proof.
pub const ITEMS_MAX: usize = 1024;
