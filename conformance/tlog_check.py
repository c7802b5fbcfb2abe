"""An outside client of a node's transparency log, from the written formats (C2SP tlog-tiles, signed-note, tlog-cosignature;
RFC 6962, 9162, 8032) and with nothing but Python's own library.

    tlog_check.py URL VERIFIER_KEY [--since FILE] [--entry INDEX:HEX] [--witness VERIFIER_KEY ... --threshold N]

URL is the log's prefix, as `http://127.0.0.1:8080/log`. Reads the checkpoint and the whole log: every entry must be under its
leaf hash, every hash of a tile must be the root of the tile below it, and the root must be the signed one. `--since` keeps the
last checkpoint in a file and demands that the log has only grown since. The last line of output is JSON; the exit status is 1 and
the reason is on standard error when anything is wrong.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request

WIDTH = 256
NOTE_MAX = 128 << 10
BUNDLE_MAX = WIDTH * (2 + 0xFFFF)
# A log of which this client would read everything; 64 GiB of full-sized entries.
SIZE_MAX = 1 << 20


class Wrong(Exception):
    """The log, or an answer, is not what it must be."""


def need(condition, message):
    if not condition:
        raise Wrong(message)


# Ed25519 (RFC 8032, section 5.1), verification only. Slow; nothing here is secret.

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def point_add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = point_add(result, point)
        point, scalar = point_add(point, point), scalar >> 1
    return result


def same_point(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


def point(data):
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    need(y < P, "not a point of Ed25519")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    need((x * x - square) % P == 0 and not (x == 0 and sign), "not a point of Ed25519")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def ed25519(key, message, signature):
    """Raises `Wrong` unless `signature` is by `key` over `message`."""
    need(len(signature) == 64 and len(key) == 32, "an Ed25519 signature has 64 bytes, and a key 32")
    a, r = point(key), point(signature[:32])
    need(not same_point(point_multiply(8, a), (0, 1, 1, 0)), "the key has small order")
    s = int.from_bytes(signature[32:], "little")
    need(s < Q, "the signature is malleable")
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % Q
    need(same_point(point_multiply(s, BASE), point_add(r, point_multiply(h, a))), "the signature is wrong")


# Signed notes and checkpoints.


def unbase64(text):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Wrong(f"not base64: {text!r}") from error
    need(base64.b64encode(data).decode() == text, f"not canonical base64: {text!r}")
    return data


def decimal(text):
    need(re.fullmatch(r"0|[1-9][0-9]{0,19}", text, re.ASCII) and int(text) < 1 << 64, f"not a decimal number: {text!r}")
    return int(text)


def verifier_key(text):
    """(name, key id, signature type, public key) of `<name>+<id>+<base64>`."""
    parts = text.split("+", 2)
    need(len(parts) == 3, f"not a verifier key: {text!r}")
    name, shown, key = parts[0], parts[1], unbase64(parts[2])
    number = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    need(name and number.hex() == shown, f"the verifier key does not have its own id: {text!r}")
    need(len(key) == 33 and key[0] in (1, 4), f"not an Ed25519 verifier key: {text!r}")
    return name, number, key[0], key[1:]


def read_note(data):
    """The text of a signed note, and its signatures as (name, key id, bytes)."""
    need(len(data) <= NOTE_MAX, "the note is too long")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise Wrong("the note is not UTF-8") from error
    need(not re.search(r"[\x00-\x09\x0b-\x1f]", note), "the note has control characters")
    text, separator, lines = note.rpartition("\n\n")
    need(separator and lines.endswith("\n"), "the note has no signatures")
    signatures = []
    for line in lines[:-1].split("\n"):
        match = re.fullmatch(r"— ([^\s+]+) (\S+)", line)
        need(match, f"not a signature line: {line!r}")
        raw = unbase64(match[2])
        need(len(raw) > 4, "a signature is empty")
        signatures.append((match[1], raw[:4], raw[4:]))
    return text + "\n", signatures


def signed_by(note, key):
    """Whether `key` signed; for a cosignature, its time. Raises `Wrong` for a bad signature of this key."""
    text, signatures = note
    name, number, kind, public = verifier_key(key)
    found = None
    for _, _, signature in (s for s in signatures if s[:2] == (name, number)):
        if kind == 1:
            ed25519(public, text.encode(), signature)
            found = True
        else:
            need(len(signature) == 72, "a cosignature has 72 bytes")
            time = int.from_bytes(signature[:8], "big")
            ed25519(public, f"cosignature/v1\ntime {time}\n{text}".encode(), signature[8:])
            found = max(found or 0, time)
    return found


def read_checkpoint(data, key, witnesses=(), threshold=0):
    """(origin, size, root) of a checkpoint that the log and enough witnesses signed."""
    note = read_note(data)
    need(signed_by(note, key), "the log has not signed its checkpoint with this key")
    cosigned = sum(signed_by(note, witness) is not None for witness in set(witnesses))
    need(cosigned >= threshold, f"{cosigned} witnesses cosigned, and {threshold} must")
    lines = note[0][:-1].split("\n")
    need(len(lines) >= 3 and all(lines), "a line of the checkpoint is missing or empty")
    need(lines[0] == verifier_key(key)[0], f"the key is not of the log {lines[0]!r}")
    root = unbase64(lines[2])
    need(len(root) == 32, "the root hash has not 32 bytes")
    return lines[0], decimal(lines[1]), root


# Trees.


def leaf_hash(data):
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def split(n):
    """Largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


def tree_root(hashes):
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256().digest()
    k = split(len(hashes))
    return node_hash(tree_root(hashes[:k]), tree_root(hashes[k:]))


def check_inclusion(leaf, index, size, path, root):
    """RFC 9162, section 2.1.3.2."""
    need(index < size, "the index is not below the size")
    fn, sn, result = index, size - 1, leaf
    for sibling in path:
        need(sn, "the inclusion path is too long")
        if fn & 1 or fn == sn:
            result = node_hash(sibling, result)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            result = node_hash(result, sibling)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0 and result == root, "the inclusion path does not lead to the root")


def check_consistency(old, old_root, new, new_root, path):
    """RFC 9162, section 2.1.4.2."""
    need(old <= new, f"the log shrank from {old} to {new}")
    if old in (0, new):
        need(not path and (old == 0 or old_root == new_root), f"the log has two roots for size {old}")
        return
    path = list(path)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    need(path, "the consistency path is too short")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = path[0]
    for sibling in path[1:]:
        need(sn, "the consistency path is too long")
        if fn & 1 or fn == sn:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node_hash(second, sibling)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0 and first == old_root, "the log has rewritten what it had: its old root is not the beginning of the new one")
    need(second == new_root, "the consistency path does not lead to the new root")


# The log.


def fetch(url, most, kind):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data, found = answer.read(most + 1), answer.headers.get("content-type", "")
    except (urllib.error.URLError, OSError) as error:
        raise Wrong(f"cannot fetch {url}: {error}") from error
    need(len(data) <= most, f"{url} is too long")
    need(found.split(";")[0] == kind, f"{url} has the type {found!r}")
    return data


def tile_path(level, index, width):
    digits = f"{index % 1000:03}"
    while index := index // 1000:
        digits = f"x{index % 1000:03}/{digits}"
    return f"tile/{level}/{digits}" + (f".p/{width}" if width < WIDTH else "")


class Log:
    """The tree of one checkpoint, out of tiles."""

    def __init__(self, url, size):
        self.url, self.size, self.tiles = url.rstrip("/"), size, {}

    def width(self, level, index):
        return min(WIDTH, max(0, (self.size >> 8 * level) - WIDTH * index))

    def tile(self, level, index):
        """Hashes of a tile; fetched once."""
        if (level, index) not in self.tiles:
            width = self.width(level, index)
            need(width, f"a log of {self.size} has no tile {level}/{index}")
            path = tile_path(level, index, width)
            data = fetch(f"{self.url}/{path}", 32 * WIDTH, "application/octet-stream")
            need(len(data) == 32 * width, f"{path} has {len(data)} bytes")
            self.tiles[level, index] = [data[i : i + 32] for i in range(0, len(data), 32)]
        return self.tiles[level, index]

    def entries(self, index):
        """Entries of a bundle."""
        width = self.width(0, index)
        path = tile_path("entries", index, width)
        data = fetch(f"{self.url}/{path}", BUNDLE_MAX, "application/octet-stream")
        entries = []
        for _ in range(width):
            need(len(data) >= 2, f"{path} ends early")
            end = 2 + int.from_bytes(data[:2], "big")
            need(len(data) >= end, f"{path} ends early")
            entries.append(data[2:end])
            data = data[end:]
        need(not data, f"{path} has bytes after its last entry")
        return entries

    def root(self, lo, n):
        """Root of n leaves from lo, from as few tiles as there are."""
        if n & (n - 1) == 0:
            level = (n.bit_length() - 1) // 8
            unit = 1 << 8 * level
            # A complete subtree: some neighbours in one tile.
            first, count = lo // unit, n // unit
            return tree_root(self.tile(level, first // WIDTH)[first % WIDTH : first % WIDTH + count])
        k = split(n)
        return node_hash(self.root(lo, k), self.root(lo + k, n - k))

    def inclusion_path(self, index):
        lo, n, path = 0, self.size, []
        while n > 1:
            k = split(n)
            if index - lo < k:
                path.append(self.root(lo + k, n - k))
                n = k
            else:
                path.append(self.root(lo, k))
                lo, n = lo + k, n - k
        return path[::-1]

    def consistency_path(self, old):
        """RFC 6962, section 2.1.2."""
        lo, n, m, whole, path = 0, self.size, old, True, []
        if m == 0:
            return []
        while m != n:
            k = split(n)
            if m <= k:
                path.append(self.root(lo + k, n - k))
                n = k
            else:
                path.append(self.root(lo, k))
                lo, n, m, whole = lo + k, n - k, m - k, False
        if not whole:
            path.append(self.root(lo, n))
        return path[::-1]


def check_all(log, root):
    """Reads every entry and every tile; the leaf hashes."""
    need(log.size <= SIZE_MAX, f"the log has {log.size} entries; this client reads at most {SIZE_MAX}")
    leaves = []
    for index in range(-(-log.size // WIDTH)):
        hashes = [leaf_hash(entry) for entry in log.entries(index)]
        need(hashes == log.tile(0, index), f"the entries of bundle {index} are not those of the tree")
        leaves += hashes
    level = 1
    while log.size >> 8 * level:
        for i in range(log.size >> 8 * level):
            found = log.tile(level, i // WIDTH)[i % WIDTH]
            need(found == tree_root(log.tile(level - 1, i)), f"hash {i} of level {level} is not the root of the tile below")
        level += 1
    need(tree_root(leaves) == root, "the entries do not have the signed root")
    return leaves


def check(url, key, since=None, entries=(), witnesses=(), threshold=0):
    """Checks a log; the checkpoint, and a summary. `since`: an older checkpoint (a signed note). `entries`: (index, data)."""
    data = fetch(url.rstrip("/") + "/checkpoint", NOTE_MAX, "text/plain")
    origin, size, root = read_checkpoint(data, key, witnesses, threshold)
    log = Log(url, size)
    leaves = check_all(log, root)
    for index in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
        check_inclusion(leaves[index], index, size, log.inclusion_path(index), root)
    for index, entry in entries:
        need(index < size, f"the log has no entry {index} yet")
        check_inclusion(leaf_hash(entry), index, size, log.inclusion_path(index), root)
    old = 0
    if since is not None:
        before, old, old_root = read_checkpoint(since, key)
        need(before == origin, "the older checkpoint is of another log")
        need(old <= size, f"the log shrank from {old} to {size}")
        check_consistency(old, old_root, size, root, log.consistency_path(old))
        need(tree_root(leaves[:old]) == old_root, "the first entries do not have the older root")
    return data, {"origin": origin, "size": size, "root": root.hex(), "since": old, "tiles": len(log.tiles)}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("--since", metavar="FILE")
    parser.add_argument("--entry", metavar="INDEX:HEX", action="append", default=[])
    parser.add_argument("--witness", metavar="VERIFIER_KEY", action="append", default=[])
    parser.add_argument("--threshold", type=int, default=0)
    given = parser.parse_args(arguments)
    since = None
    if given.since and os.path.exists(given.since):
        with open(given.since, "rb") as file:
            since = file.read()
    entries = []
    for entry in given.entry:
        index, _, data = entry.partition(":")
        entries.append((decimal(index), bytes.fromhex(data)))
    try:
        note, summary = check(given.url, given.key, since, entries, given.witness, given.threshold)
    except Wrong as wrong:
        print(f"tlog_check: {wrong}", file=sys.stderr)
        return 1
    if given.since:
        with open(given.since, "wb") as file:
            file.write(note)
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
