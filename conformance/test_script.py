"""What a deployment script does (Foundry, Hardhat): many transactions with nonces chosen beforehand; then nothing may ever change."""

import random
import time

from web3 import Web3

from conftest import deployed

COUNT = 20


def test_a_script_and_what_it_saw(w3, devnet):
    """Sends 20 transactions in a random order to different validators. What was seen once, a receipt or a block, stays."""
    owner, token = deployed(w3, devnet, "WrappedNative")
    start = w3.eth.block_number
    others = [Web3(Web3.HTTPProvider(url)) for url in devnet.ready["rpc_urls"]]
    first = w3.eth.get_transaction_count(owner.address)
    fee = w3.eth.get_block("latest")["baseFeePerGas"] * 2 + 10**9
    common = {"chainId": w3.eth.chain_id, "to": token.address, "data": "0xd0e30db0", "gas": 100_000}
    prices = {"maxFeePerGas": fee, "maxPriorityFeePerGas": 10**9}
    signed = [owner.sign_transaction({**common, **prices, "nonce": first + n, "value": n + 1}) for n in range(COUNT)]
    order = list(range(COUNT))
    random.Random(4).shuffle(order)
    for n in order:
        others[n % len(others)].eth.send_raw_transaction(signed[n].raw_transaction)

    receipts, blocks, deadline = {}, {}, time.monotonic() + 90
    while len(receipts) < COUNT or w3.eth.block_number < max(r["blockNumber"] for r in receipts.values()) + 10:
        assert time.monotonic() < deadline, f"{len(receipts)} of {COUNT} after 90 s"
        asked = random.choice(others)
        tip = asked.eth.get_block("latest")
        assert blocks.setdefault(tip["number"], tip["hash"]) == tip["hash"], "a block was replaced"
        for n, tx in enumerate(signed):
            found = asked.provider.make_request("eth_getTransactionReceipt", ["0x" + bytes(tx.hash).hex()])["result"]
            if found:
                seen = w3.eth.get_transaction_receipt(tx.hash) if asked is others[0] else None
                kept = receipts.setdefault(n, {"raw": found, "blockNumber": int(found["blockNumber"], 16)})
                assert kept["raw"] == found, "a receipt changed"
                assert seen is None or seen["status"] == 1
        time.sleep(0.05)

    places = [(int(r["raw"]["blockNumber"], 16), int(r["raw"]["transactionIndex"], 16)) for _, r in sorted(receipts.items())]
    assert places == sorted(places), "nonces decide the order, not the time of sending"
    assert w3.eth.get_transaction_count(owner.address) == first + COUNT
    assert token.functions.balanceOf(owner.address).call() == sum(range(1, COUNT + 1))

    events = token.events.Deposit().get_logs(from_block=start, argument_filters={"account": owner.address})
    assert [e["args"]["amount"] for e in events] == list(range(1, COUNT + 1))
    assert [e["transactionHash"] for e in events] == [tx.hash for tx in signed]
    # Every validator has the same history.
    for other in others:
        deadline = time.monotonic() + 30
        while other.eth.block_number < places[-1][0]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for number, block_hash in blocks.items():
            if number <= places[-1][0]:
                assert other.eth.get_block(number)["hash"] == block_hash
        for n, kept in receipts.items():
            again = other.provider.make_request("eth_getTransactionReceipt", ["0x" + bytes(signed[n].hash).hex()])["result"]
            assert again == kept["raw"]


def test_everything_that_is_shown_is_final(w3):
    """`latest`, `safe` and `finalized` are one block: there is nothing that could be reorganised."""
    for _ in range(20):
        first = w3.eth.block_number
        safe, final, latest = (w3.eth.get_block(tag)["number"] for tag in ("safe", "finalized", "latest"))
        assert first <= safe <= final <= latest <= first + 5
        time.sleep(0.05)
