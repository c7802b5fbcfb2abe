"""Kinds of transactions (EIP-2930, EIP-7702) and what every block writes for contracts (EIP-2935, EIP-4788, EIP-4399)."""

import pytest
from eth_account import Account

from conftest import COIN, deployed, fund, send
from evm import STORES, deploys, returns, word
from proof_check import set_commitment

HISTORY = "0x0000F90827F1C53a10cb7A02335B175320002935"
ROOTS = "0x000F3df6D732807Ef1319fB7B8bB8522d0Beac02"
NOBODY = "0x" + "00" * 20


def send_raw(w3, account, tx):
    fee = w3.eth.get_block("latest")["baseFeePerGas"] * 2 + 10**9
    fees = {"maxFeePerGas": fee, "maxPriorityFeePerGas": 10**9} if tx["type"] != 1 else {"gasPrice": fee}
    whole = {"chainId": w3.eth.chain_id, "nonce": w3.eth.get_transaction_count(account.address), "value": 0, **fees, **tx}
    raw = account.sign_transaction(whole).raw_transaction
    return w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(raw), 60, 0.2)


def authorise(w3, account, target, nonce, chain_id=None):
    chain_id = w3.eth.chain_id if chain_id is None else chain_id
    return account.sign_authorization({"chainId": chain_id, "address": target, "nonce": nonce})


@pytest.fixture(scope="module")
def stores(w3, devnet):
    """A contract that keeps the first word of its call data in slot 0 and logs it."""
    receipt = send(w3, fund(w3, devnet), data=deploys(STORES), gas=200_000)
    assert receipt["status"] == 1
    return receipt["contractAddress"]


def test_set_code_transaction(w3, rpc, devnet, stores):
    """EIP-7702: an account lends itself a contract's code; somebody else pays."""
    sponsor, authority = fund(w3, devnet), Account.create()
    signed = authorise(w3, authority, stores, 0)
    tx = {"type": 4, "to": authority.address, "data": word(42), "gas": 200_000, "authorizationList": [signed]}
    receipt = send_raw(w3, sponsor, tx)
    assert (receipt["status"], receipt["type"]) == (1, 4)
    assert bytes(w3.eth.get_code(authority.address)) == b"\xef\x01\x00" + bytes.fromhex(stores[2:])
    assert w3.eth.get_transaction_count(authority.address) == 1
    assert int.from_bytes(w3.eth.get_storage_at(authority.address, 0)) == 42, "the code ran in the account's own storage"
    assert int.from_bytes(w3.eth.get_storage_at(stores, 0)) == 0
    assert [log["address"] for log in receipt["logs"]] == [authority.address]
    found = rpc("eth_getTransactionByHash", "0x" + bytes(receipt["transactionHash"]).hex())["result"]
    (listed,) = found["authorizationList"]
    assert (listed["address"], listed["nonce"], listed["chainId"]) == (stores.lower(), "0x0", hex(w3.eth.chain_id))
    assert {"r", "s", "yParity"} <= set(listed)
    # Anybody can now call the account, and it can take its code back.
    assert send(w3, sponsor, to=authority.address, data=word(43), gas=100_000)["status"] == 1
    assert int.from_bytes(w3.eth.get_storage_at(authority.address, 0)) == 43
    back = authorise(w3, authority, NOBODY, 1)
    send_raw(w3, sponsor, {"type": 4, "to": sponsor.address, "gas": 200_000, "authorizationList": [back]})
    assert w3.eth.get_code(authority.address) == b""


def test_an_account_can_lend_itself_code(w3, account, stores):
    nonce = w3.eth.get_transaction_count(account.address)
    signed = authorise(w3, account, stores, nonce + 1)
    tx = {"type": 4, "to": account.address, "data": word(7), "gas": 200_000, "authorizationList": [signed]}
    assert send_raw(w3, account, tx)["status"] == 1
    assert w3.eth.get_transaction_count(account.address) == nonce + 2
    assert int.from_bytes(w3.eth.get_storage_at(account.address, 0)) == 7
    assert send(w3, account, to=account.address, value=1, gas=100_000)["status"] == 1, "it still sends transactions"


def test_wrong_authorisations_are_skipped(w3, devnet, account, stores):
    """Another network's, a used nonce: the transaction runs, the account stays as it was. Chain id 0 means every network."""
    one, two, three = (Account.create() for _ in range(3))
    signed = [authorise(w3, one, stores, 0, w3.eth.chain_id + 1), authorise(w3, two, stores, 5), authorise(w3, three, stores, 0, 0)]
    receipt = send_raw(w3, account, {"type": 4, "to": account.address, "gas": 300_000, "authorizationList": signed})
    assert receipt["status"] == 1
    assert [len(w3.eth.get_code(a.address)) for a in (one, two, three)] == [0, 0, 23]


def test_estimate_and_call_with_an_authorisation(w3, rpc, account, stores):
    authority = Account.create()
    signed = authorise(w3, authority, stores, 0)
    listed = [{
        "chainId": hex(signed.chain_id), "address": stores, "nonce": "0x0", "yParity": hex(signed.y_parity), "r": hex(signed.r),
        "s": hex(signed.s),
    }]  # fmt: skip
    call = {"from": account.address, "to": authority.address, "data": word(1)}
    plain = int(rpc("eth_estimateGas", call)["result"], 16)
    assert int(rpc("eth_estimateGas", {**call, "authorizationList": listed})["result"], 16) - plain > 25_000 + 20_000 - 5000


def test_access_list_transaction(w3, rpc, devnet):
    """EIP-2930: slots that are named beforehand cost less when they are used."""
    owner, token = deployed(w3, devnet, "WrappedNative")
    data = token.encode_abi("balanceOf", [owner.address])
    call = {"from": owner.address, "to": token.address, "data": data}
    listed = rpc("eth_createAccessList", call)["result"]["accessList"]
    receipt = send_raw(w3, owner, {"type": 1, "to": token.address, "data": data, "gas": 100_000, "accessList": listed})
    assert (receipt["status"], receipt["type"]) == (1, 1)
    found = rpc("eth_getTransactionByHash", "0x" + bytes(receipt["transactionHash"]).hex())["result"]
    assert found["accessList"] == listed and found["type"] == "0x1" and found["gasPrice"] and found["yParity"] in ("0x0", "0x1")
    plain = send(w3, owner, to=token.address, data=data, gas=100_000)
    # 2400 for the address, 1900 for the slot; the slot then costs 100 instead of 2100.
    assert receipt["gasUsed"] - plain["gasUsed"] == 2400 + 1900 - 2000


def test_hashes_of_old_blocks_are_in_a_contract(w3, rpc):
    """EIP-2935: the last 8191 blocks."""
    tip = w3.eth.block_number
    ask = lambda n: rpc("eth_call", {"to": HISTORY, "data": word(n)}, hex(tip))  # noqa: E731
    for number in {0, 1, tip // 2, tip - 1}:
        # The contract has the parents of blocks, from the first on.
        assert ask(number)["result"] == "0x" + bytes(w3.eth.get_block(number)["hash"]).hex(), number
    assert ask(tip)["error"]["code"] == ask(tip + 1)["error"]["code"] == 3
    assert rpc("eth_call", {"to": HISTORY, "data": "0x12"}, "latest")["error"]["code"] == 3


def test_the_validator_set_is_in_a_contract_by_time(w3, rpc):
    """EIP-4788: here the root is that of the validators who vote."""
    block = w3.eth.get_block("latest")
    number = hex(block["number"])
    root = rpc("eth_call", {"to": ROOTS, "data": word(block["timestamp"])}, number)["result"]
    assert root == "0x" + bytes(block["parentBeaconBlockRoot"]).hex()
    named = rpc("og_validators")["result"]
    assert root == named["commitment"] == "0x" + set_commitment(named["members"]).hex()
    for unknown in (0, 1, block["timestamp"] + 100):
        assert rpc("eth_call", {"to": ROOTS, "data": word(unknown)}, number)["error"]["code"] == 3


def test_a_contract_sees_randomness(w3, devnet):
    """EIP-4399: PREVRANDAO is the header's mixHash, in transactions too."""
    account = fund(w3, devnet)
    seen = set()
    for _ in range(2):
        # Init code that keeps PREVRANDAO and NUMBER.
        receipt = send(w3, account, data="0x44600055" + "43600155" + "00", gas=200_000)
        block = w3.eth.get_block(receipt["blockNumber"])
        slot = lambda n, at=receipt["contractAddress"]: bytes(w3.eth.get_storage_at(at, n))  # noqa: E731
        assert slot(0) == bytes(block["mixHash"]) != bytes(32) and int.from_bytes(slot(1)) == receipt["blockNumber"]
        seen.add(slot(0))
    assert len(seen) == 2


def submit_with_gas(w3, rpc, account, gas):
    # The lowest tip, so that it stands in nobody's way should it stay in the pool.
    fields = {"chainId": w3.eth.chain_id, "nonce": 0, "to": account.address, "value": 0, "gas": gas}
    raw = account.sign_transaction({**fields, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 1}).raw_transaction
    return rpc("eth_sendRawTransaction", "0x" + bytes(raw).hex())


def test_the_largest_transaction(w3, rpc, account):
    """EIP-7825: one transaction has at most 2**24 gas of a block's 60 million."""
    assert w3.eth.get_block("latest")["gasLimit"] == 60_000_000
    assert w3.eth.wait_for_transaction_receipt(submit_with_gas(w3, rpc, account, 1 << 24)["result"], 60, 0.2)["status"] == 1


@pytest.mark.parametrize("gas", [(1 << 24) + 1, 60_000_000])
def test_a_transaction_that_no_block_can_have_is_refused(w3, rpc, account, gas):
    assert "gas" in submit_with_gas(w3, rpc, account, gas)["error"]["message"]


def test_cancun_and_prague_instructions(rpc):
    """BLOBBASEFEE, MCOPY, transient storage, PUSH0, CLZ."""
    here = "0x" + "c0" * 20
    for code, value in [("4a", 1), ("5f", 0), ("6007 5f5d 5f5c", 7), ("6009 5f52 6020 5f6020 5e 6020 51", 9), ("6001 1e", 255)]:
        state = {here: {"code": returns(code.replace(" ", "")), "balance": hex(COIN)}}
        assert int(rpc("eth_call", {"to": here}, "latest", state)["result"], 16) == value, code
