"""JSON-RPC mistakes, with the codes and words that wallets know from Ethereum's clients."""

import pytest
from eth_account import Account
from web3.exceptions import Web3RPCError

from conftest import COIN, fund, send, submit


def refused(call, *words):
    """Asserts that the node refuses, and says one of `words`."""
    with pytest.raises(Web3RPCError) as caught:
        call()
    message = str(caught.value).lower()
    assert any(word in message for word in words), message


def signed(w3, account, **fields):
    tx = {
        "chainId": w3.eth.chain_id, "nonce": 0, "to": account.address, "value": 0, "gas": 21_000,
        "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9, **fields,
    }  # fmt: skip
    return account.sign_transaction(tx).raw_transaction


def test_nonce_too_low(w3, account):
    send(w3, account, to=account.address)
    refused(lambda: submit(w3, account, to=account.address, nonce=0, value=1), "nonce too low")


def test_the_same_transaction_twice(w3, account):
    """A known transaction is refused by name, or its hash is given again; it never runs twice."""
    to = Account.create().address
    raw = signed(w3, account, to=to, value=5, nonce=1)
    first = w3.eth.send_raw_transaction(raw)
    try:
        assert w3.eth.send_raw_transaction(raw) == first
    except Web3RPCError as error:
        assert "already" in str(error)
    w3.eth.send_raw_transaction(signed(w3, account))
    w3.eth.wait_for_transaction_receipt(first, 60, 0.2)
    refused(lambda: w3.eth.send_raw_transaction(raw), "nonce too low", "already known")
    assert w3.eth.get_balance(to) == 5


def test_replacement_needs_a_higher_fee(w3, account):
    """A transaction that waits for an earlier nonce can be replaced for ten per cent more."""
    to = Account.create().address
    w3.eth.send_raw_transaction(signed(w3, account, nonce=1, value=1, to=to))
    underpriced = signed(w3, account, nonce=1, value=2, to=to)
    refused(lambda: w3.eth.send_raw_transaction(underpriced), "underpriced")
    better = signed(w3, account, nonce=1, value=3, to=to, maxFeePerGas=2 * 10**11, maxPriorityFeePerGas=2 * 10**9)
    accepted = w3.eth.send_raw_transaction(better)
    w3.eth.send_raw_transaction(signed(w3, account))
    w3.eth.wait_for_transaction_receipt(accepted, 60, 0.2)
    assert w3.eth.get_balance(to) == 3


def test_insufficient_funds(w3, devnet):
    poor = fund(w3, devnet, COIN // 100)
    refused(lambda: submit(w3, poor, to=poor.address, value=COIN), "insufficient funds")
    empty = Account.create()
    refused(lambda: submit(w3, empty, to=empty.address), "insufficient funds")


def test_wrong_chain_id(w3, account):
    refused(lambda: w3.eth.send_raw_transaction(signed(w3, account, chainId=w3.eth.chain_id + 1)), "chain id", "chainid")


def test_a_legacy_transaction_without_chain_id(w3, account):
    """Without a chain id (before EIP-155) it could be replayed from another network."""
    tx = {"nonce": 0, "to": account.address, "value": 0, "gas": 21_000, "gasPrice": 10**11}
    raw = account.sign_transaction(tx).raw_transaction
    refused(lambda: w3.eth.send_raw_transaction(raw), "eip-155", "replay", "protected", "chain id", "chainid")


def test_gas_limits(w3, account):
    refused(lambda: w3.eth.send_raw_transaction(signed(w3, account, gas=20_000)), "intrinsic gas", "gas too low")
    refused(lambda: w3.eth.send_raw_transaction(signed(w3, account, gas=1 << 40)), "gas limit", "insufficient funds", "gas")


@pytest.mark.parametrize("raw", ["0x", "0x00", "0x02", "0xc0", "0x02ff", "0x7f00", "0x" + "ff" * 100])
def test_malformed_transactions(rpc, raw):
    assert "error" in rpc("eth_sendRawTransaction", raw)


def test_changed_transactions(w3, rpc, account):
    """A flipped bit gives another sender without coins, or no sender at all; never a transfer from the account."""
    good = bytes(signed(w3, account, value=COIN))
    for position in range(0, len(good), 5):
        bad = bytearray(good)
        bad[position] ^= 1
        assert "error" in rpc("eth_sendRawTransaction", f"0x{bad.hex()}"), f"byte {position}"
    assert w3.eth.get_transaction_count(account.address) == 0


def test_oversized_transaction(w3, account):
    raw = signed(w3, account, data=b"\1" * 140_000, gas=16_000_000, maxFeePerGas=10**9 * 2)
    refused(lambda: w3.eth.send_raw_transaction(raw), "oversized", "too large", "size")


def test_unknown_method(rpc):
    assert rpc("eth_makeMeRich")["error"]["code"] == -32601
    assert rpc("")["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x1234", "latest"]), ("eth_getBalance", []), ("eth_getBalance", [7, "latest"]),
        ("eth_getBalance", [f"0x{'11' * 20}", "sometime"]), ("eth_getBlockByNumber", ["12", False]),
        ("eth_getBlockByHash", ["0x12", False]), ("eth_getTransactionReceipt", ["0xzz"]),
        ("eth_sendRawTransaction", ["hello"]), ("eth_getStorageAt", [f"0x{'11' * 20}", "nope", "latest"]),
        ("eth_call", ["what", "latest"]), ("eth_getLogs", ["x"]),
    ],
    ids=lambda v: str(v)[:40],
)  # fmt: skip
def test_invalid_params(rpc, method, params):
    assert rpc(method, *params)["error"]["code"] == -32602


def test_malformed_bodies(rpc):
    for body, code in [(b"{", -32700), (b"[]", -32600), (b'{"jsonrpc":"2.0","id":1}', -32600), (b"7", -32600)]:
        response = rpc.client.post(rpc.url, content=body, headers={"content-type": "application/json"})
        assert response.status_code < 500
        if response.headers.get("content-type", "").startswith("application/json"):
            assert response.json()["error"]["code"] in (code, -32600, -32700)
        else:
            assert response.status_code >= 400


def test_batches(rpc):
    good = {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId", "params": []}
    bad = {"jsonrpc": "2.0", "id": "b", "method": "eth_none", "params": []}
    answers = {a["id"]: a for a in rpc.client.post(rpc.url, json=[good, bad]).json()}
    assert "result" in answers["a"] and answers["b"]["error"]["code"] == -32601
    notification = {"jsonrpc": "2.0", "method": "eth_chainId", "params": []}
    assert len(rpc.client.post(rpc.url, json=[good, notification]).json()) == 1
    huge = rpc.client.post(rpc.url, json=[good] * 20_000)
    assert huge.status_code >= 400 or "error" in huge.json() or len(huge.json()) < 20_000
    assert rpc("eth_chainId")["result"]


def test_log_ranges_are_bounded(rpc):
    error = rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": "0xffffff"})["error"]
    assert any(word in error["message"].lower() for word in ("range", "10,000", "10000", "limit", "exceed")), error
    assert "error" in rpc("eth_getLogs", {"fromBlock": "0x5", "toBlock": "0x1"})


def test_unknown_filters(rpc):
    assert "error" in rpc("eth_getFilterChanges", "0xdeadbeef")
    assert rpc("eth_uninstallFilter", "0xdeadbeef").get("result", False) is False
