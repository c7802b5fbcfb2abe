//! The tree as static files (C2SP tlog-tiles): tiles of 256 hashes, and bundles of 256 entries. A client fetches what it
//! needs and computes every proof itself.

use super::{bad, bound, decimal};
use crate::{TypesError, merkle};
use alloy_primitives::B256;
use std::{fmt, str::FromStr};

/// Hashes of a full tile, entries of a full bundle.
pub const WIDTH: u16 = 256;
/// Bits of an index that one level of tiles takes.
pub const HEIGHT: u32 = 8;
/// Highest level in a path.
pub const LEVEL_MAX: u8 = 63;
/// Longest entry in bytes.
pub const ENTRY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest bundle in bytes.
pub const BUNDLE_BYTES_MAX: usize = WIDTH as usize * (2 + ENTRY_BYTES_MAX);

/// Name of one file of a log. As text, the path below the log's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TilePath {
    /// `tile/<level>/<index>[.p/<width>]`
    Tile {
        /// Level, from 0 for leaf hashes.
        level: u8,
        /// Which tile of the level.
        index: u64,
        /// Number of hashes: 1 to 255 in a partial tile, 256 in a full one.
        width: u16,
    },
    /// `tile/entries/<index>[.p/<width>]`
    Entries {
        /// Which bundle.
        index: u64,
        /// Number of entries: 1 to 255 in a partial bundle, 256 in a full one.
        width: u16,
    },
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match self {
            Self::Tile { level, index, width } => {
                write!(f, "tile/{level}/")?;
                (*index, *width)
            }
            Self::Entries { index, width } => {
                f.write_str("tile/entries/")?;
                (*index, *width)
            }
        };
        // Groups of three digits; all but the last begin with an x.
        let mut unit = 1u64;
        while index / unit >= 1000 {
            unit *= 1000;
        }
        while unit > 1 {
            write!(f, "x{:03}/", index / unit % 1000)?;
            unit /= 1000;
        }
        write!(f, "{:03}", index % 1000)?;
        if width < WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
    }
}

impl FromStr for TilePath {
    type Err = TypesError;

    fn from_str(text: &str) -> Result<Self, TypesError> {
        const WHAT: &str = "path of a tile";
        // Seven groups of digits are the longest.
        bound(WHAT, text.len(), 64)?;
        let read = || {
            let (kind, rest) = text.strip_prefix("tile/")?.split_once('/')?;
            let (index, width) = match rest.split_once(".p/") {
                Some((index, width)) => {
                    let width = decimal(width).and_then(|w| u16::try_from(w).ok())?;
                    (index, (1..WIDTH).contains(&width).then_some(width)?)
                }
                None => (rest, WIDTH),
            };
            let index = parse_index(index)?;
            if kind == "entries" {
                return Some(Self::Entries { index, width });
            }
            let level = decimal(kind).and_then(|l| u8::try_from(l).ok()).filter(|l| *l <= LEVEL_MAX)?;
            Some(Self::Tile { level, index, width })
        };
        read().ok_or_else(|| {
            bad(WHAT, "expected tile/<level>/<index>[.p/<width>] or tile/entries/<index>[.p/<width>]")
        })
    }
}

fn parse_index(text: &str) -> Option<u64> {
    let mut index = 0u64;
    let mut groups = text.split('/').peekable();
    let mut first = true;
    while let Some(group) = groups.next() {
        let digits = if groups.peek().is_some() { group.strip_prefix('x')? } else { group };
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let value: u64 = digits.parse().ok()?;
        // 67 is 067 and not x000/067.
        if first && value == 0 && groups.peek().is_some() {
            return None;
        }
        first = false;
        index = index.checked_mul(1000)?.checked_add(value)?;
    }
    Some(index)
}

/// Number of hashes that tile `index` of `level` has in a tree of `size` leaves: 0 when there is no such tile.
pub fn width_at(size: u64, level: u8, index: u64) -> u16 {
    let hashes = size.checked_shr(HEIGHT * u32::from(level)).unwrap_or(0);
    let before = index.saturating_mul(u64::from(WIDTH));
    hashes.saturating_sub(before).min(u64::from(WIDTH)) as u16
}

/// Bytes of a tile of the tree of the first `size` leaves, 32 a hash. A narrower tile of an older tree is still there;
/// `None` for one that is wider than the tree, or empty.
pub fn tile(log: &merkle::Log, size: u64, level: u8, index: u64, width: u16) -> Option<Vec<u8>> {
    if width == 0 || size > log.len() || width > width_at(size, level, index) {
        return None;
    }
    let hashes = log.subtrees(HEIGHT * u32::from(level), index * u64::from(WIDTH), usize::from(width))?;
    Some(hashes.concat())
}

/// Reads a tile of `width` hashes.
///
/// # Errors
/// [`TypesError`] when it has another length.
pub fn parse_tile(bytes: &[u8], width: u16) -> Result<Vec<B256>, TypesError> {
    if width == 0 || width > WIDTH || bytes.len() != 32 * usize::from(width) {
        return Err(bad(
            "tile",
            format!("expected 32 bytes for each of {width} hashes, got {}", bytes.len()),
        ));
    }
    Ok(bytes.chunks_exact(32).map(B256::from_slice).collect())
}

/// A bundle of entries: each with its length before it in two big-endian bytes.
///
/// # Errors
/// [`TypesError::TooLarge`] when an entry or the number of them is too large for the format.
pub fn bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, TypesError> {
    bound("number of entries", entries.len(), usize::from(WIDTH))?;
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let too_large =
            |_| TypesError::TooLarge { what: "log entry", size: entry.len(), max: ENTRY_BYTES_MAX };
        out.extend(u16::try_from(entry.len()).map_err(too_large)?.to_be_bytes());
        out.extend(entry);
    }
    Ok(out)
}

/// Reads a bundle of `width` entries.
///
/// # Errors
/// [`TypesError`] when it ends early, has bytes left over, or is too large.
pub fn parse_bundle(mut bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TypesError> {
    const WHAT: &str = "entry bundle";
    bound(WHAT, bytes.len(), BUNDLE_BYTES_MAX)?;
    bound("number of entries", usize::from(width), usize::from(WIDTH))?;
    let mut out = Vec::with_capacity(usize::from(width));
    for _ in 0..width {
        let entry = bytes
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        let (entry, rest) = entry.ok_or_else(|| bad(WHAT, "it ends in the middle of an entry"))?;
        out.push(entry);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(out) } else { Err(bad(WHAT, "there are bytes after the last entry")) }
}
