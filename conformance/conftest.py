"""Fixtures: one network for the whole run, and clients of it."""

import itertools
import json
from types import SimpleNamespace

import httpx
import openai
import pytest
from eth_account import Account
from web3 import Web3

from devnet import ROOT, Devnet

COIN = 10**18
# A site whose pages may use the shared network.
ORIGIN = "https://wallet.example"
SHARED = []


@pytest.fixture(autouse=True)
def alive():
    """Ends the run when the shared network died: all other tests would only say that they cannot connect."""
    yield
    for net in SHARED:
        if net.process.poll() is not None:
            pytest.exit(f"the network died with status {net.process.returncode}:\n{net.tail()}", returncode=1)


@pytest.fixture(scope="session")
def devnet(tmp_path_factory):
    """The network that most tests share. Killed at the end; how it stops is tested in test_lifecycle.py."""
    net = Devnet(tmp_path_factory.mktemp("devnet"), "--allow-origin", ORIGIN)
    try:
        SHARED.append(net.start())
        yield net
        assert "panicked at" not in net.log.read_text(errors="replace"), "a thread panicked; see the log of the network"
    finally:
        SHARED.clear()
        net.kill()


@pytest.fixture(scope="session")
def ai(devnet):
    """The official OpenAI client. No retries, so that every failure is seen."""
    with openai.OpenAI(base_url=f"{devnet.proxy_url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def model(ai):
    """Name of the first model that is served."""
    return ai.models.list().data[0].id


@pytest.fixture(scope="session")
def http(devnet):
    """Plain HTTP to the proxy."""
    with httpx.Client(base_url=devnet.proxy_url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def w3(devnet):
    return connect(devnet)


def connect(devnet):
    return Web3(Web3.HTTPProvider(devnet.rpc_url, request_kwargs={"timeout": 60}))


@pytest.fixture(scope="session")
def rpc(devnet):
    """`rpc(method, *params)` gives the raw JSON-RPC answer; no client library in between."""
    ids = itertools.count(1)
    with httpx.Client(timeout=60) as client:

        def call(method, *params):
            body = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": list(params)}
            answer = client.post(devnet.rpc_url, json=body).json()
            assert answer["jsonrpc"] == "2.0" and answer["id"] == body["id"]
            return answer

        call.client = client
        call.url = devnet.rpc_url
        yield call


def send(w3, account, **fields):
    """Signs and sends an EIP-1559 transaction, and waits until it is in a block. Returns its receipt."""
    return w3.eth.wait_for_transaction_receipt(submit(w3, account, **fields), timeout=60, poll_latency=0.2)


def submit(w3, account, **fields):
    """Signs and sends an EIP-1559 transaction. Returns its hash."""
    fee = w3.eth.get_block("latest")["baseFeePerGas"] * 2 + 10**9
    tx = {
        "chainId": w3.eth.chain_id, "nonce": w3.eth.get_transaction_count(account.address, "pending"), "value": 0,
        "maxFeePerGas": fee, "maxPriorityFeePerGas": 10**9, "gas": 21_000, **fields,
    }  # fmt: skip
    return w3.eth.send_raw_transaction(account.sign_transaction(tx).raw_transaction)


def fund(w3, devnet, amount=10 * COIN):
    """A new account with `amount` wei. Tests use new accounts because the nodes use the network's own keys."""
    account = Account.create()
    rich = Account.from_key(devnet.ready["keys"][0]["private_key"])
    receipt = send(w3, rich, to=account.address, value=amount)
    assert receipt["status"] == 1
    return account


@pytest.fixture
def account(w3, devnet):
    return fund(w3, devnet)


def artifact(name):
    return json.loads((ROOT / "contracts" / "artifacts" / f"{name}.json").read_text())


def deployed(w3, devnet, name):
    """A new account, and a contract without constructor arguments that it deployed."""
    owner, code = fund(w3, devnet), artifact(name)
    receipt = send(w3, owner, data=code["bytecode"], gas=3_000_000)
    assert receipt["status"] == 1
    return owner, w3.eth.contract(address=receipt["contractAddress"], abi=code["abi"])


@pytest.fixture(scope="session")
def contracts(w3, devnet):
    """The system contracts at the addresses of the ready file."""
    return SimpleNamespace(
        **{name: w3.eth.contract(address=address, abi=artifact(name)["abi"]) for name, address in addresses(devnet).items()}
    )


def addresses(devnet):
    return {name: Web3.to_checksum_address(address) for name, address in devnet.ready["contracts"].items()}


@pytest.fixture(scope="session")
def node_api(devnet):
    """The first node's own interface; `address` is its account."""
    with httpx.Client(base_url=devnet.ready["node_urls"][0].rstrip("/"), timeout=120) as client:
        client.address = devnet.ready["nodes"][0]
        assert client.get("/og/v1/info").json()["node"].lower() == client.address.lower()
        yield client


@pytest.fixture(scope="session")
def ask_node(node_api, model):
    """`ask_node(og_nonce=…)` asks the first node itself; the arguments are headers."""

    def run(**headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        return node_api.post("/v1/chat/completions", json=body, headers=headers)

    return run
