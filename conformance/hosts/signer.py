"""Signed EIP-1559 transfers with the standard library alone: Keccak-256, secp256k1, RLP. For tests: not constant-time."""

import hashlib
import hmac

MASK = (1 << 64) - 1


def _round_constants():
    """The 24 constants of Keccak-f[1600], from its shift register."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for bit in range(7):
            if register & 1:
                constant |= 1 << ((1 << bit) - 1)
            register = (register << 1) ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return constants


def _lane_walk():
    """(lane, rotation) in the order in which rho and pi visit them."""
    walk, x, y = [], 1, 0
    for step in range(24):
        walk.append((x + 5 * y, (step + 1) * (step + 2) // 2 % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return walk


ROUNDS, WALK = _round_constants(), _lane_walk()


def _permute(a):
    for constant in ROUNDS:
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        d = [c[x - 1] ^ ((c[(x + 1) % 5] << 1 | c[(x + 1) % 5] >> 63) & MASK) for x in range(5)]
        a = [lane ^ d[i % 5] for i, lane in enumerate(a)]
        b = a[:]
        for (source, turn), (target, _) in zip(WALK, WALK[1:] + WALK[:1], strict=True):
            b[target] = (a[source] << turn | a[source] >> (64 - turn)) & MASK
        a = [
            b[i] ^ (~b[i - i % 5 + (i + 1) % 5] & MASK & b[i - i % 5 + (i + 2) % 5])
            for i in range(25)
        ]  # fmt: skip
        a[0] ^= constant
    return a


def keccak256(data):
    padded = bytearray(data) + bytes(136 - len(data) % 136)
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    state = [0] * 25
    for start in range(0, len(padded), 136):
        for lane in range(17):
            state[lane] ^= int.from_bytes(padded[start + 8 * lane : start + 8 * lane + 8], "little")
        state = _permute(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def _add(one, two):
    """Sum of two affine points; None is the point at infinity."""
    if one is None or two is None:
        return one or two
    if one[0] == two[0]:
        if (one[1] + two[1]) % P == 0:
            return None
        slope = 3 * one[0] * one[0] * pow(2 * one[1], -1, P) % P
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, P) % P
    x = (slope * slope - one[0] - two[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _windows():
    """Every multiple of the generator by one 4-bit digit, so that a product is 64 sums and no doubling."""
    table, base = [], G
    for _ in range(64):
        row = [None]
        for _ in range(16):
            row.append(_add(row[-1], base))
        base = row.pop()
        table.append(row)
    return table


WINDOWS = _windows()


def _times_generator(scalar):
    total = None
    for row in WINDOWS:
        total = _add(total, row[scalar & 15])
        scalar >>= 4
    return total


def address(key):
    x, y = _times_generator(key)
    return keccak256(x.to_bytes(32) + y.to_bytes(32))[12:]


def sign(key, digest):
    """(parity, r, s) with the nonce of RFC 6979 and the lower s."""
    secret = key.to_bytes(32) + (int.from_bytes(digest) % N).to_bytes(32)
    k, v = bytes(32), b"\x01" * 32
    for mark in (b"\x00", b"\x01"):
        k = hmac.digest(k, v + mark + secret, hashlib.sha256)
        v = hmac.digest(k, v, hashlib.sha256)
    # A first candidate outside 1..N has a chance of 2^-127, so there is no second.
    v = hmac.digest(k, v, hashlib.sha256)
    nonce = int.from_bytes(v)
    x, y = _times_generator(nonce)
    r = x % N
    s = pow(nonce, -1, N) * (int.from_bytes(digest) + r * key) % N
    return (y & 1, r, s) if s <= N // 2 else (1 - (y & 1), r, N - s)


def rlp(item):
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8)
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _rlp_head(0x80, len(item)) + item
    body = b"".join(map(rlp, item))
    return _rlp_head(0xC0, len(body)) + body


def _rlp_head(kind, length):
    if length < 56:
        return bytes([kind + length])
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([kind + 55 + len(size)]) + size


def transfer(key, chain_id, nonce, to, value, fee_max, tip):
    """(hash, raw transaction) of a transfer of `value` wei, both in hex."""
    fields = [chain_id, nonce, tip, fee_max, 21_000, to, value, b"", []]
    raw = b"\x02" + rlp([*fields, *sign(key, keccak256(b"\x02" + rlp(fields)))])
    return "0x" + keccak256(raw).hex(), "0x" + raw.hex()
