"""web3.py against a validator: what wallets and scripts do."""

import time

from eth_account import Account
from web3 import Web3

from conftest import COIN, fund, send, submit


def test_identity(w3, devnet, rpc):
    assert w3.is_connected()
    assert w3.eth.chain_id == devnet.chain_id
    assert rpc("net_version")["result"] == str(devnet.chain_id)
    assert rpc("eth_syncing")["result"] is False
    assert rpc("eth_accounts")["result"] == []
    assert rpc("net_listening")["result"] in (True, False)
    assert isinstance(w3.client_version, str) and w3.client_version
    assert rpc("web3_sha3", "0x68656c6c6f")["result"] == Web3.to_hex(Web3.keccak(b"hello"))


def test_blocks_are_made(w3):
    before, deadline = w3.eth.block_number, time.monotonic() + 60
    while w3.eth.block_number == before:
        assert time.monotonic() < deadline, "no new block for a minute"
        time.sleep(0.1)


def test_blocks(w3):
    tip = w3.eth.get_block("latest")
    assert w3.eth.get_block(tip["hash"])["number"] == tip["number"]
    assert w3.eth.get_block(tip["number"])["hash"] == tip["hash"]
    assert w3.eth.get_block(tip["number"] - 1)["hash"] == tip["parentHash"]
    assert w3.eth.get_block("earliest")["number"] == 0
    for tag in ("safe", "finalized"):
        assert w3.eth.get_block(tag)["number"] >= tip["number"]
    assert abs(tip["timestamp"] - time.time()) < 300
    assert w3.eth.get_block(0)["extraData"] and len(tip["extraData"]) == 32


def test_eip1559_transfer(w3, account):
    to = Account.create().address
    before, gas_price = w3.eth.get_balance(account.address), w3.eth.gas_price
    receipt = send(w3, account, to=to, value=COIN)
    assert gas_price > 0 and receipt["status"] == 1 and receipt["gasUsed"] == 21_000 and receipt["type"] == 2
    assert w3.eth.get_balance(to) == COIN
    paid = receipt["gasUsed"] * receipt["effectiveGasPrice"]
    assert w3.eth.get_balance(account.address) == before - COIN - paid
    assert w3.eth.get_transaction_count(account.address) == 1
    block = w3.eth.get_block(receipt["blockNumber"], full_transactions=True)
    mine = [tx for tx in block["transactions"] if tx["hash"] == receipt["transactionHash"]]
    assert len(mine) == 1 and mine[0]["from"] == account.address and mine[0]["value"] == COIN
    tx = w3.eth.get_transaction(receipt["transactionHash"])
    assert (tx["blockHash"], tx["transactionIndex"]) == (receipt["blockHash"], receipt["transactionIndex"])
    assert w3.eth.get_transaction_by_block(receipt["blockNumber"], receipt["transactionIndex"])["hash"] == tx["hash"]
    hashes = w3.eth.get_block(receipt["blockNumber"])["transactions"]
    assert receipt["transactionHash"] in hashes
    assert w3.eth.get_block_transaction_count(receipt["blockNumber"]) == len(hashes)


def test_block_receipts(w3, account):
    receipt = send(w3, account, to=account.address)
    assert receipt in w3.eth.get_block_receipts(receipt["blockNumber"])


def test_legacy_and_access_list_transfers(w3, account):
    to = Account.create().address
    common = {"chainId": w3.eth.chain_id, "to": to, "value": 7, "gas": 30_000, "gasPrice": w3.eth.gas_price * 2}
    access = {"type": 1, "accessList": [{"address": to, "storageKeys": ["0x" + "00" * 32]}]}
    for nonce, extra in enumerate(({}, access)):
        raw = account.sign_transaction({**common, **extra, "nonce": nonce}).raw_transaction
        receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(raw), 60, 0.2)
        assert receipt["status"] == 1 and receipt["type"] == nonce
    assert w3.eth.get_balance(to) == 14


def test_nonces_in_order_although_sent_out_of_order(w3, account):
    to = Account.create().address
    hashes = [submit(w3, account, to=to, value=1, nonce=nonce) for nonce in (2, 1, 0)]
    receipts = [w3.eth.wait_for_transaction_receipt(h, 60, 0.2) for h in hashes]
    places = [(r["blockNumber"], r["transactionIndex"]) for r in receipts]
    assert places == sorted(places, reverse=True)
    assert w3.eth.get_balance(to) == 3
    assert w3.eth.get_transaction_count(account.address, "pending") == 3


def test_many_transfers(w3, devnet):
    sender, to = fund(w3, devnet), Account.create().address
    hashes = [submit(w3, sender, to=to, value=1, nonce=nonce) for nonce in range(30)]
    assert all(w3.eth.wait_for_transaction_receipt(h, 120, 0.2)["status"] == 1 for h in hashes)
    assert w3.eth.get_balance(to) == 30


def test_fees(w3):
    history = w3.eth.fee_history(4, "latest", [10, 90])
    count = len(history["gasUsedRatio"])
    assert 1 <= count <= 4 and len(history["baseFeePerGas"]) == count + 1
    assert all(len(rewards) == 2 for rewards in history["reward"])
    tip = w3.eth.get_block(history["oldestBlock"] + count - 1)
    assert history["baseFeePerGas"][-2] == tip["baseFeePerGas"]
    assert w3.eth.max_priority_fee >= 0
    assert w3.eth.gas_price >= 1


def test_unknown_things_are_null(rpc):
    zero = f"0x{'00' * 32}"
    for method, params in [
        ("eth_getBlockByHash", [zero, False]), ("eth_getBlockByNumber", ["0x7fffffff", False]),
        ("eth_getTransactionByHash", [zero]), ("eth_getTransactionReceipt", [zero]),
        ("eth_getTransactionByBlockNumberAndIndex", ["0x0", "0x99"]),
    ]:  # fmt: skip
        assert rpc(method, *params)["result"] is None, method


def test_block_filters(w3, account):
    blocks = w3.eth.filter("latest")
    receipt = send(w3, account, to=account.address)
    seen, deadline = [], time.monotonic() + 30
    while receipt["blockHash"] not in seen:
        assert time.monotonic() < deadline
        seen += blocks.get_new_entries()
        time.sleep(0.1)
    assert len(set(seen)) == len(seen)
    assert w3.eth.uninstall_filter(blocks.filter_id) is True
