"""What waits for a block: txpool_ methods, filters of new transactions; and the raw bytes of transactions and headers."""

import contextlib
import time

import pytest
from eth_account import Account
from eth_utils import keccak
from web3.exceptions import Web3RPCError

from conftest import artifact, connect, fund, send, submit
from devnet import Devnet

UNKNOWN = "0x" + "77" * 32


def hexed(value):
    return "0x" + bytes(value).hex()


@pytest.fixture
def gap(w3, account):
    """An account with one transaction that waits for an earlier nonce; and that transaction's hash."""
    return account, hexed(submit(w3, account, to=Account.create().address, value=1, nonce=5))


def test_a_gap_is_queued(w3, rpc, gap):
    account, waiting = gap
    assert int(rpc("txpool_status")["result"]["queued"], 16) >= 1
    everything = rpc("txpool_content")["result"]
    assert everything["queued"][account.address]["5"]["hash"] == waiting and account.address not in everything["pending"]
    lines = rpc("txpool_inspect")["result"]["queued"][account.address]
    assert lines["5"].endswith(": 1 wei + 21000 gas × " + str(w3.eth.get_transaction(waiting)["maxFeePerGas"]) + " wei")
    mine = rpc("txpool_contentFrom", account.address)["result"]
    assert list(mine["queued"]) == ["5"] and mine["pending"] == {}


def test_a_gap_is_not_in_the_pending_nonce(w3, gap):
    """A wallet that asks for its next nonce must close the gap, not grow it."""
    account, _ = gap
    assert w3.eth.get_transaction_count(account.address, "pending") == 0


def test_a_waiting_transaction(w3, rpc, gap):
    account, waiting = gap
    tx = w3.eth.get_transaction(waiting)
    assert tx["blockHash"] is tx["blockNumber"] is tx["transactionIndex"] is None
    assert (tx["from"], tx["nonce"]) == (account.address, 5)
    assert rpc("eth_getTransactionReceipt", waiting)["result"] is None
    raw = rpc("eth_getRawTransactionByHash", waiting)["result"]
    assert hexed(keccak(bytes.fromhex(raw[2:]))) == waiting
    mine = rpc("txpool_contentFrom", account.address)["result"]
    whole = {**mine["pending"], **mine["queued"]}
    assert list(whole) == ["5"] and whole["5"]["hash"] == waiting and whole["5"]["from"] == account.address.lower()
    stranger = Account.create().address
    assert rpc("txpool_contentFrom", stranger)["result"] == {"pending": {}, "queued": {}}
    assert rpc("txpool_contentFrom")["error"]["code"] == rpc("txpool_contentFrom", "0x12")["error"]["code"] == -32602


def test_a_waiting_transaction_has_a_gas_price(w3, rpc, gap):
    """geth gives the fee cap until the block decides."""
    tx = rpc("eth_getTransactionByHash", gap[1])["result"]
    assert tx["gasPrice"] == tx["maxFeePerGas"]


def test_the_pool_empties_when_the_gap_closes(w3, rpc, gap):
    account, waiting = gap
    hashes = [submit(w3, account, to=account.address, nonce=n) for n in range(5)]
    for tx in [*hashes, waiting]:
        assert w3.eth.wait_for_transaction_receipt(tx, 60, 0.1)["status"] == 1
    deadline = time.monotonic() + 10
    while rpc("txpool_contentFrom", account.address)["result"] != {"pending": {}, "queued": {}}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status = rpc("txpool_status")["result"]
    assert set(status) == {"pending", "queued"} and all(v.startswith("0x") for v in status.values())


def test_filters_of_new_transactions(w3, rpc, account):
    watch = w3.eth.filter("pending")
    first, gapped = submit(w3, account, to=account.address), submit(w3, account, to=account.address, nonce=9)
    seen, deadline = [], time.monotonic() + 30
    while not {first, gapped} <= set(seen):
        assert time.monotonic() < deadline, seen
        seen += watch.get_new_entries()
        time.sleep(0.1)
    assert len(set(seen)) == len(seen)
    assert first not in watch.get_new_entries()
    assert rpc("eth_getFilterLogs", watch.filter_id)["error"]["message"] == "filter not found"
    assert w3.eth.uninstall_filter(watch.filter_id) is True
    assert rpc("eth_getFilterChanges", watch.filter_id)["error"]["message"] == "filter not found"


def test_transactions_reach_all_validators(w3, devnet, rpc, gap):
    """One can ask any of them. What cannot run yet stays where it came in: strangers could fill everybody's memory with it."""
    other = fund(w3, devnet)
    receipt = send(w3, other, to=other.address)
    urls = devnet.ready["rpc_urls"]

    def known(url, hash_):
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionByHash", "params": [hash_]}
        return rpc.client.post(url, json=body).json()["result"] is not None

    for url in urls:
        deadline = time.monotonic() + 30
        while not known(url, hexed(receipt["transactionHash"])):
            assert time.monotonic() < deadline, url
            time.sleep(0.1)
    assert [known(url, gap[1]) for url in urls] == [url == urls[0] for url in urls]


def test_raw_transactions_of_blocks(w3, rpc, account):
    receipt = send(w3, account, to=account.address)
    number, index = hex(receipt["blockNumber"]), hex(receipt["transactionIndex"])
    raws = {
        rpc("eth_getRawTransactionByHash", hexed(receipt["transactionHash"]))["result"],
        rpc("eth_getRawTransactionByBlockNumberAndIndex", number, index)["result"],
        rpc("eth_getRawTransactionByBlockHashAndIndex", hexed(receipt["blockHash"]), index)["result"],
    }
    (raw,) = raws
    assert keccak(bytes.fromhex(raw[2:])) == receipt["transactionHash"]
    # geth gives no bytes, not null.
    assert rpc("eth_getRawTransactionByHash", UNKNOWN)["result"] in ("0x", None)
    assert rpc("eth_getRawTransactionByBlockNumberAndIndex", number, "0x99")["result"] in ("0x", None)
    assert rpc("eth_getRawTransactionByBlockHashAndIndex", UNKNOWN, "0x0")["result"] in ("0x", None)
    assert rpc("eth_getRawTransactionByHash", "0x12")["error"]["code"] == -32602


def test_headers(w3, rpc):
    tip = w3.eth.block_number
    block = rpc("eth_getBlockByNumber", hex(tip), False)["result"]
    header = rpc("eth_getHeaderByNumber", hex(tip))["result"]
    assert rpc("eth_getHeaderByHash", block["hash"])["result"] == header
    assert not {"transactions", "uncles", "withdrawals"} & set(header)
    assert all(block[name] == value for name, value in header.items() if name != "size")
    assert rpc("eth_getHeaderByNumber", "earliest")["result"]["number"] == "0x0"
    assert rpc("eth_getHeaderByNumber", "0xfffffff")["result"] is rpc("eth_getHeaderByHash", UNKNOWN)["result"] is None


def test_receipts_of_blocks(w3, rpc, devnet):
    account = fund(w3, devnet)
    receipt = send(w3, account, to=account.address)
    number, block_hash = hex(receipt["blockNumber"]), hexed(receipt["blockHash"])
    receipts = rpc("eth_getBlockReceipts", number)["result"]
    assert rpc("eth_getBlockReceipts", block_hash)["result"] == receipts
    assert rpc("eth_getBlockReceipts", {"blockHash": block_hash})["result"] == receipts
    hashes = rpc("eth_getBlockByHash", block_hash, False)["result"]["transactions"]
    assert [r["transactionHash"] for r in receipts] == hashes
    assert receipts == [rpc("eth_getTransactionReceipt", h)["result"] for h in hashes]
    assert int(receipts[-1]["cumulativeGasUsed"], 16) == sum(int(r["gasUsed"], 16) for r in receipts)
    assert rpc("eth_getBlockReceipts", "0xfffffff")["result"] is rpc("eth_getBlockReceipts", UNKNOWN)["result"] is None
    assert rpc("eth_getBlockReceipts", "earliest")["result"] == []


def test_rewards_in_the_fee_history_are_weighted_by_gas(w3, devnet):
    """Half of the gas of a block with a large cheap transaction and a small dear one paid the low tip."""
    large, small = fund(w3, devnet), fund(w3, devnet)
    code = artifact("WrappedNative")["bytecode"]
    for _ in range(8):
        one = submit(w3, large, data=code, gas=3_000_000, maxFeePerGas=10**11, maxPriorityFeePerGas=10**9)
        other = submit(w3, small, to=small.address, maxFeePerGas=10**11, maxPriorityFeePerGas=5 * 10**9)
        blocks = {w3.eth.wait_for_transaction_receipt(h, 60, 0.1)["blockNumber"] for h in (one, other)}
        if len(blocks) == 1 and w3.eth.get_block_transaction_count(min(blocks)) == 2:
            rewards = w3.eth.fee_history(1, min(blocks), [10, 50, 100])["reward"]
            assert rewards == [[10**9, 10**9, 5 * 10**9]]
            return
    raise RuntimeError("the two transactions never came into one block")


def test_percentiles_in_the_fee_history_must_increase(rpc):
    assert "error" in rpc("eth_feeHistory", "0x2", "latest", [50, 10])


def test_one_transaction_cannot_keep_the_others_out(tmp_path):
    """It asks for a whole block, more than one transaction may have (EIP-7825). On a network of its own: it stops what is there."""
    net = Devnet(tmp_path)
    try:
        own = connect(net.start())
        greedy, other = fund(own, net), fund(own, net)
        with contextlib.suppress(Web3RPCError):
            submit(own, greedy, to=greedy.address, gas=60_000_000, maxPriorityFeePerGas=5 * 10**9, maxFeePerGas=10**10)
        waiting = submit(own, other, to=other.address)
        assert own.eth.wait_for_transaction_receipt(waiting, 20, 0.2)["status"] == 1
    finally:
        net.kill()
