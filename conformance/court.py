"""What tests of audits, payments and disputes share: waiting, keys of a network, calls of its contracts. No test in here."""

import os
import time

import pytest
from eth_account import Account
from web3 import Web3
from web3.exceptions import ContractLogicError, Web3Exception

from conftest import send

# The rules of a development network, in seconds: for disputing, for all moves of a side, between announcement and opening.
WINDOW, CLOCK, OPEN = 90, 36, 8
HI = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


def until(what, seconds, why):
    """The first true value of `what()`."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"{why}: not within {seconds} s"
        time.sleep(0.3)
    return value


def key_of(devnet, kind, number):
    """Key of one of the network's own `nodes` or `auditors`."""
    return Account.from_key((devnet.data / kind / str(number) / f"{kind.removesuffix('s')}.key").read_text().strip())


def transact(w3, key, call, value=0):
    """Sends a call of a contract; its receipt, which must be good."""
    data = call._encode_transaction_data()
    receipt = send(w3, key, to=call.address, data=data, value=value, gas=5_000_000)
    assert receipt["status"] == 1, call.fn_name
    return receipt


def refused(w3, key, call, error, value=0):
    """The call must revert with this error of the contracts; `None` for the referee's own words."""
    with pytest.raises((ContractLogicError, Web3Exception)) as caught:
        call.call({"from": key.address, "value": value})
    selector = Web3.keccak(text=error)[:4].hex()
    said = str(getattr(caught.value, "data", "") or "") + str(caught.value)
    assert selector in said, f"expected {error} ({selector}), got {said}"


def announce(w3, contracts, key, subject):
    """Announces what `key` is going to open or report, and waits for the next block; returns the salt."""
    functions, salt = contracts.Disputes.functions, os.urandom(32)
    receipt = transact(w3, key, functions.announce(functions.announcementOf(key.address, subject, salt).call()))
    until(lambda: w3.eth.block_number > receipt["blockNumber"], 30, "the block after the announcement")
    return salt


def announce_dispute(w3, contracts, key, node, receipt_id, opening=b"\0"):
    """Announces a dispute about a claim; returns the salt."""
    receipt_id = bytes.fromhex(receipt_id[2:]) if isinstance(receipt_id, str) else receipt_id
    return announce(w3, contracts, key, contracts.Disputes.functions.disputeSubject(node, receipt_id, opening).call())
