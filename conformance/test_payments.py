"""Payments: pockets in the escrow, authorisations, vouchers, settlement, release, and what is refused."""

import contextlib
import json
import secrets
import subprocess
import time

import httpx
import pytest
from eth_account import Account
from web3 import Web3

from claims import authorisation, parts_of, receipt_id, voucher
from conftest import COIN, connect, fund, send
from court import HI, WINDOW, transact, until
from devnet import OG, Devnet, free_port

# A node settles every ten seconds.
SETTLE = 30
# Price of a generated token of the dear node, in wei: near the registry's highest.
DEAR = 5 * 10**12


class Wallet:
    """An account that pays one node, request by request."""

    def __init__(self, key, node, url, net, escrow):
        self.key, self.node, self.url, self.escrow = key, node, url, escrow
        self.chain_id, self.genesis = net.chain_id, net.genesis
        self.sequence = 0
        self.body = json.dumps({"model": net.ready["model"]["name"], "max_tokens": 4, **HI}).encode()

    def payment(self, nonce, key=None, node=None, max_price=COIN, sequence=None, expiry=None, **changes):
        """The header `og-payment` for the request with this nonce."""
        self.sequence += 1
        network = {"chain_id": self.chain_id, "genesis": self.genesis, "escrow": self.escrow, **changes}
        node = node or self.node
        receipt = receipt_id(self.chain_id, self.genesis, node, nonce, self.body)
        expiry = int(time.time()) + 300 if expiry is None else expiry
        return authorisation(key or self.key, node, receipt, max_price, sequence or self.sequence, expiry, **network)

    def ask(self, header, nonce):
        headers = {"og-payment": header, "og-nonce": nonce, "content-type": "application/json"}
        return httpx.post(f"{self.url}/v1/chat/completions", content=self.body, headers=headers, timeout=120)

    def buy(self, **changes):
        nonce = fresh()
        return self.ask(self.payment(nonce, **changes), nonce)

    def promise(self, total, sequence=None):
        sequence = self.sequence if sequence is None else sequence
        return voucher(self.key, self.node, total, sequence, self.chain_id, self.genesis, self.escrow)

    def pay(self, header):
        return httpx.post(f"{self.url}/og/v1/payments", headers={"og-voucher": header}, timeout=60)


def fresh():
    return f"0x{secrets.token_hex(32)}"


def price_of(answer, price_input=None, price_output=None):
    usage = answer.json()["usage"]
    price_input = price_input or int(answer.headers["og-price-input"])
    price_output = price_output or int(answer.headers["og-price-output"])
    return usage["prompt_tokens"] * price_input + usage["completion_tokens"] * price_output


@pytest.fixture(scope="module")
def paid(w3, devnet, contracts, node_api):
    """An account that has paid the first node for an answer; what it owes."""
    key = fund(w3, devnet)
    transact(w3, key, contracts.Escrow.functions.deposit(node_api.address), value=COIN)
    url = devnet.ready["node_urls"][0].rstrip("/")
    wallet = Wallet(key, node_api.address, url, devnet, contracts.Escrow.address)
    answer = wallet.buy()
    assert answer.status_code == 200, answer.text
    price = price_of(answer)
    claim, _ = parts_of(bytes.fromhex(answer.headers["og-receipt"][2:]))
    assert bytes.fromhex(key.address[2:]) in claim, "the receipt names who pays"
    taken = wallet.pay(wallet.promise(price))
    assert taken.status_code == 200, taken.text
    return {"key": key, "price": price, "wallet": wallet}


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


def refused(answer, name=""):
    assert answer.status_code == 402 and answer.json()["error"]["code"] == "payment_required", f"{name}: {answer.text}"


def test_payments_that_are_refused(paid, devnet, contracts, w3):
    wallet, stranger = paid["wallet"], Account.create()
    now = int(time.time())
    changed = {
        "for another node": {"node": devnet.ready["nodes"][1]},
        "of another chain": {"chain_id": devnet.chain_id + 1},
        "of another network": {"genesis": "0x" + "ab" * 32},
        "of another escrow": {"escrow": stranger.address},
        "of another domain": {"name": "og log"},
        "expired": {"expiry": now - 5},
        "valid for ever": {"expiry": now + 10**7},
        "for less than the answer may cost": {"max_price": 1},
        "used before": {"sequence": 1},
        "an empty pocket": {"key": stranger},
    }
    for name, changes in changed.items():
        refused(wallet.buy(**changes), name)
    nonce = fresh()
    words = wallet.payment(nonce).split(" ")
    refused(wallet.ask(" ".join([stranger.address, *words[1:]]), nonce), "signed by another")
    refused(wallet.ask(" ".join([words[0], str(2 * COIN), *words[2:]]), nonce), "a higher price")
    for header in ("x", " ".join(words[:4]), " ".join([words[0], "-1", *words[2:]]), " ".join([*words[:4], "0x00"])):
        assert wallet.ask(header, nonce).status_code == 400, header
        assert wallet.pay(header).status_code == 400
    # A pocket that holds less than an answer may cost.
    poor = fund(w3, devnet, COIN)
    transact(w3, poor, contracts.Escrow.functions.deposit(wallet.node), value=1000)
    refused(wallet.buy(key=poor), "a small pocket")


def test_what_is_public_is_no_login(paid, contracts):
    """Who copies a victim's voucher from the ledger, or an authorisation from the wire, gets nothing, and the victim is served on."""
    wallet = paid["wallet"]
    events = contracts.Escrow.events.VoucherSettled.get_logs(from_block=0, argument_filters={"client": paid["key"].address})
    assert events, "the voucher is on the ledger"
    published = wallet.promise(paid["price"], 1)
    nonce = fresh()
    assert wallet.ask(published, nonce).status_code == 400, "a voucher is no authorisation"
    client, total, sequence, signature = published.split(" ")
    refused(wallet.ask(f"{client} {COIN} {int(sequence) + 1} {int(time.time()) + 300} {signature}", nonce), "the voucher's signature")
    header = wallet.payment(nonce)
    refused(wallet.ask(header, fresh()), "another request with the same authorisation")
    assert wallet.ask(header, nonce).status_code == 200
    assert wallet.ask(header, nonce).status_code in (402, 409), "the same request again"
    assert wallet.buy().status_code == 200, "the victim is served on"


def test_strangers_promises_are_not_kept(paid):
    wallet = paid["wallet"]
    for _ in range(50):
        stranger = Wallet.__new__(Wallet)
        stranger.__dict__ = {**wallet.__dict__, "key": Account.create()}
        refused(wallet.pay(stranger.promise(COIN, 10**15)))


@pytest.fixture(scope="module")
def dear(tmp_path_factory):
    """A node whose tokens are dear enough that an answer is worth a transaction, and which serves nobody for nothing."""
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
            DEAR,
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


def test_a_voucher_must_pay_for_what_was_logged(dear):
    net, url, address = dear
    w3 = connect(net)
    escrow = Web3.to_checksum_address(net.ready["contracts"]["Escrow"])
    key = fund(w3, net, 10 * COIN)
    wallet = Wallet(key, address, url, net, escrow)
    free = httpx.post(f"{url}/v1/chat/completions", json=json.loads(wallet.body), timeout=120)
    refused(free, "it wants to be paid")
    data = Web3.keccak(text="deposit(address)")[:4] + bytes(12) + bytes.fromhex(address[2:])
    assert send(w3, key, to=escrow, data=data, value=COIN, gas=200_000)["status"] == 1
    first = wallet.buy()
    assert first.status_code == 200, first.text
    due = price_of(first, 10**9, DEAR)
    refused(wallet.pay(wallet.promise(due - 1)))
    assert wallet.pay(wallet.promise(due)).status_code == 200
    refused(wallet.pay(wallet.promise(due)), "the same again")
    assert wallet.buy().status_code == 200


def test_an_answer_that_nobody_vouches_for_is_redeemed(dear):
    """A client that goes away without a voucher pays the price of its logged answer once its authorisation has expired."""
    net, url, address = dear
    w3 = connect(net)
    escrow = Web3.to_checksum_address(net.ready["contracts"]["Escrow"])
    key = fund(w3, net, 10 * COIN)
    wallet = Wallet(key, address, url, net, escrow)
    data = Web3.keccak(text="deposit(address)")[:4] + bytes(12) + bytes.fromhex(address[2:])
    assert send(w3, key, to=escrow, data=data, value=COIN, gas=200_000)["status"] == 1
    answer = wallet.buy(expiry=int(time.time()) + 3)
    assert answer.status_code == 200, answer.text
    topic = Web3.keccak(text="Redeemed(address,address,bytes32,uint64,uint256)")
    where = {"address": escrow, "fromBlock": 0, "topics": [topic, "0x" + bytes(12).hex() + key.address[2:].lower()]}
    (event,) = until(lambda: w3.eth.get_logs(where), 60, "the node redeems the authorisation")
    assert int.from_bytes(event["data"][32:]) == price_of(answer, 10**9, DEAR)


def test_earnings_are_released_after_the_window(paid, contracts, node_api, w3):
    index, release_at = paid["bucket"]
    where = {"node": node_api.address, "index": index}
    events = lambda: contracts.Escrow.events.Released.get_logs(from_block=0, argument_filters=where)  # noqa: E731
    (released, *_) = until(events, WINDOW + 60, "the bucket is paid")
    assert w3.eth.get_block(released["blockNumber"])["timestamp"] >= release_at
    assert released["args"]["amount"] >= paid["price"] * 987 // 1000
    assert contracts.Escrow.functions.bucketOf(node_api.address, index).call()[0] == 0
