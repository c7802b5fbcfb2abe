"""Payments: pockets in the escrow, vouchers, settlement, release, and what is refused."""

import contextlib
import subprocess

import httpx
import pytest
from eth_account import Account
from web3 import Web3

from claims import parts_of, voucher
from conftest import COIN, connect, fund, send
from court import HI, WINDOW, transact, until
from devnet import OG, Devnet, free_port

# A node settles every ten seconds.
SETTLE = 30


@pytest.fixture(scope="module")
def paid(w3, devnet, contracts, node_api, ask_node):
    """An account that has paid the first node for an answer; what it owes."""
    key = fund(w3, devnet)
    transact(w3, key, contracts.Escrow.functions.deposit(node_api.address), value=COIN)
    promise = lambda total: voucher(key, node_api.address, total, devnet.chain_id, contracts.Escrow.address)  # noqa: E731
    answer = ask_node(og_payment=promise(0))
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    price = usage["prompt_tokens"] * int(answer.headers["og-price-input"]) + usage["completion_tokens"] * int(
        answer.headers["og-price-output"]
    )
    claim, _ = parts_of(bytes.fromhex(answer.headers["og-receipt"][2:]))
    assert bytes.fromhex(key.address[2:]) in claim, "the receipt names who pays"
    taken = node_api.post("/og/v1/payments", headers={"og-payment": promise(price)})
    assert taken.status_code == 200, taken.text
    return {"key": key, "price": price, "promise": promise}


def test_a_voucher_is_settled(paid, contracts, node_api, devnet):
    escrow, client = contracts.Escrow, paid["key"].address
    pocket = lambda: escrow.functions.pocketOf(client, node_api.address).call()  # noqa: E731
    until(lambda: pocket()[1] == paid["price"], SETTLE, "the node takes what was promised")
    assert pocket()[0] == COIN - paid["price"]
    (event,) = escrow.events.VoucherSettled.get_logs(from_block=0, argument_filters={"client": client, "node": node_api.address})
    assert event["args"]["amount"] == event["args"]["total"] == paid["price"]
    settled = escrow.events.Settled.get_logs(from_block=event["blockNumber"], argument_filters={"node": node_api.address})
    (own,) = [e["args"] for e in settled if e["transactionHash"] == event["transactionHash"]]
    # 13 in 1000 go to auditors; other clients may have been settled with it.
    taken = own["amount"] + own["audit"]
    assert taken >= paid["price"] and own["audit"] == taken * 13 // 1000
    time_of = connect(devnet).eth.get_block(event["blockNumber"])["timestamp"]
    assert own["releaseAt"] == time_of + WINDOW
    paid["bucket"] = own["index"], own["releaseAt"]


def test_payments_that_are_refused(ask_node, paid, devnet, node_api, contracts, w3):
    key, escrow = paid["key"], contracts.Escrow.address
    stranger, chain_id = Account.create(), devnet.chain_id
    who, total, signature = paid["promise"](paid["price"]).split(" ")
    forged = {
        "signed by another": f"{who} {total} {voucher(stranger, node_api.address, paid['price'], chain_id, escrow).split(' ')[2]}",
        "a larger total": f"{who} {paid['price'] + 1} {signature}",
        "for another node": voucher(key, devnet.ready["nodes"][1], paid["price"], chain_id, escrow),
        "of another network": voucher(key, node_api.address, paid["price"], chain_id + 1, escrow),
        "of another escrow": voucher(key, node_api.address, paid["price"], chain_id, stranger.address),
        "of another domain": voucher(key, node_api.address, paid["price"], chain_id, escrow, name="og log"),
        "an empty pocket": voucher(stranger, node_api.address, 0, chain_id, escrow),
        "a promise without a pocket": voucher(stranger, node_api.address, COIN, chain_id, escrow),
    }
    for name, header in forged.items():
        answer = ask_node(og_payment=header)
        assert answer.status_code == 402 and answer.json()["error"]["code"] == "payment_required", f"{name}: {answer.text}"
    for header in ("x", f"{who} {total}", f"{who} -1 {signature}", f"{who} {total} 0x00"):
        assert ask_node(og_payment=header).status_code == 400, header
        assert node_api.post("/og/v1/payments", headers={"og-payment": header}).status_code == 400
    assert node_api.post("/og/v1/payments").status_code == 400
    # A pocket that holds less than an answer may cost.
    poor = fund(w3, devnet, COIN)
    transact(w3, poor, contracts.Escrow.functions.deposit(node_api.address), value=1000)
    assert ask_node(og_payment=voucher(poor, node_api.address, 0, chain_id, escrow)).status_code == 402


def test_an_old_voucher_takes_nothing_back(ask_node, paid, contracts, node_api):
    """Totals only grow: an older promise is no fault, and takes nothing away."""
    assert ask_node(og_payment=paid["promise"](0)).status_code == 200
    assert contracts.Escrow.functions.pocketOf(paid["key"].address, node_api.address).call()[1] >= paid["price"]


@pytest.fixture(scope="module")
def dear(tmp_path_factory):
    """A node whose tokens are so dear that one answer is more than a client may owe, and which serves nobody for nothing."""
    folder = tmp_path_factory.mktemp("dear")
    net = Devnet(folder / "net", "--validators", "1", "--nodes", "1", "--auditors", "0")
    net.folder.mkdir()
    data, process = folder / "node", None
    try:
        net.start()
        data.mkdir(mode=0o700)
        w3, key, port = connect(net), Account.create(), free_port()
        (data / "node.key").write_text(key.key.hex().removeprefix("0x") + "\n")
        (data / "node.key").chmod(0o600)
        rich = Account.from_key(net.ready["keys"][0]["private_key"])
        send(w3, rich, to=key.address, value=200 * COIN)
        url = f"http://127.0.0.1:{port}"
        arguments = [
            "--rpc",
            net.rpc_url,
            "--data",
            data,
            "--listen",
            f"127.0.0.1:{port}",
            "--price-output",
            10**15,
            "--require-payment",
        ]
        with (folder / "node.log").open("wb") as log:
            process = subprocess.Popen([OG, "node", *map(str, arguments)], stdout=log, stderr=subprocess.STDOUT)

        def ready():
            assert process.poll() is None, (folder / "node.log").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/health").status_code == 200
            return False

        until(ready, 120, "the node is ready")
        yield net, url, key.address
    finally:
        if process is not None:
            process.kill()
            process.wait()
        net.kill()


def test_who_owes_much_must_promise_before_the_next_answer(dear):
    net, url, address = dear
    w3 = connect(net)
    escrow = net.ready["contracts"]["Escrow"]
    body = {"model": net.ready["model"]["name"], **HI}
    key = fund(w3, net, 10 * COIN)
    assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).status_code == 402, "it wants to be paid"
    data = Web3.keccak(text="deposit(address)")[:4] + bytes(12) + bytes.fromhex(address[2:])
    assert send(w3, key, to=Web3.to_checksum_address(escrow), data=data, value=COIN, gas=200_000)["status"] == 1

    def ask_node(total):
        header = voucher(key, address, total, net.chain_id, Web3.to_checksum_address(escrow))
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"og-payment": header}, timeout=120)

    first = ask_node(0)
    assert first.status_code == 200, first.text
    usage = first.json()["usage"]
    due = usage["prompt_tokens"] * 10**9 + usage["completion_tokens"] * 10**15
    assert due > 10**15, "one answer is more than may be owed"
    late = ask_node(0)
    assert late.status_code == 402 and str(due) in late.json()["error"]["message"], late.text
    assert ask_node(due - 10**15 - 1).status_code == 402
    assert ask_node(due).status_code == 200


def test_earnings_are_released_after_the_window(paid, contracts, node_api, w3):
    index, release_at = paid["bucket"]
    where = {"node": node_api.address, "index": index}
    events = lambda: contracts.Escrow.events.Released.get_logs(from_block=0, argument_filters=where)  # noqa: E731
    (released, *_) = until(events, WINDOW + 60, "the bucket is paid")
    assert w3.eth.get_block(released["blockNumber"])["timestamp"] >= release_at
    assert released["args"]["amount"] >= paid["price"] * 987 // 1000
    assert contracts.Escrow.functions.bucketOf(node_api.address, index).call()[0] == 0
