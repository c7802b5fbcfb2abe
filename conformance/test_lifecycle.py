"""How a network starts, stops, dies and comes back. These tests start networks of their own."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time

import httpx
import pytest
from eth_account import Account

import proof_check
from conftest import COIN, connect, fund, send, submit
from devnet import Devnet, og_chat, og_receipt, og_verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that the tests of this file stop and start."""
    net = Devnet(tmp_path_factory.mktemp("own"))
    try:
        yield net
    finally:
        net.kill()


@pytest.fixture
def own(folder):
    """The same network, running: started again when the test before stopped it."""
    if folder.process is None or folder.process.poll() is not None:
        folder.start()
    return folder


def chat_id(net):
    done = og_chat(net, "Hi", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["receipt_id"]


@contextlib.contextmanager
def long_answer(net):
    """A stream that has begun and is not read to its end."""
    with httpx.Client(timeout=60) as client:
        model = client.get(f"{net.proxy_url}/v1/models").json()["data"][0]["id"]
        messages = [{"role": "user", "content": "Hi"}]
        body = {"model": model, "messages": messages, "stream": True, "temperature": 2, "max_tokens": 400}
        with client.stream("POST", f"{net.proxy_url}/v1/chat/completions", json=body) as answer:
            next(answer.iter_bytes())
            yield


def refused(net, *words):
    """Asserts that the network does not start, soon, with an error that has all `words`."""
    started = time.monotonic()
    done = subprocess.run(net.command(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode not in (0, 101), "it must fail, and not by a panic"
    assert time.monotonic() - started < 60
    said = done.stderr + done.stdout
    assert "panicked" not in said
    assert all(re.search(word, said, re.IGNORECASE) for word in words), said
    assert not net.ready_file.exists()


def test_a_port_in_use_is_a_clear_error(tmp_path):
    for name in ("rpc_port", "proxy_port"):
        net = Devnet(tmp_path / name)
        net.folder.mkdir()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            setattr(net, name, taken.getsockname()[1])
            refused(net, "in use", str(getattr(net, name)), name.replace("_", "-"))


def test_two_networks_do_not_share_a_folder(own):
    other = Devnet(own.folder)
    other.ready_file = own.folder / "other.json"
    refused(other, "data|folder|directory|in use|lock")
    assert connect(own).eth.block_number >= 0


def test_the_data_folder_keeps_secrets(own):
    """Files that others can read have no secret keys."""
    secrets = [key["private_key"].removeprefix("0x").lower() for key in own.ready["keys"]]
    for path in own.data.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            text = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in text.lower() and bytes.fromhex(secret) not in text, path


@pytest.mark.parametrize("attempt", [1, 2])
def test_kill_9_loses_nothing_that_was_final(own, tmp_path, attempt):
    w3 = connect(own)
    account, to = fund(w3, own), Account.create().address
    receipt = send(w3, account, to=to, value=COIN)
    kept = {n: w3.eth.get_block(n)["hash"] for n in (0, 1, receipt["blockNumber"])}
    receipt_id = chat_id(own)
    before = json.loads(og_receipt(own, receipt_id))
    own.kill()
    own.start()
    w3 = connect(own)
    assert w3.eth.get_balance(to) == COIN and w3.eth.get_transaction_count(account.address) == 1
    assert {n: w3.eth.get_block(n)["hash"] for n in kept} == kept
    assert w3.eth.get_transaction_receipt(receipt["transactionHash"])["blockHash"] == receipt["blockHash"]
    height = w3.eth.block_number
    assert height >= receipt["blockNumber"]
    again = json.loads(og_receipt(own, receipt_id))
    assert (again["receipt"], again["disclosure"]) == (before["receipt"], before["disclosure"])
    # It goes on: blocks, transfers, answers, and a log that extends the old one.
    assert send(w3, account, to=to, value=COIN)["blockNumber"] > receipt["blockNumber"]
    assert w3.eth.get_balance(to) == 2 * COIN
    newer = proof_check.check(og_receipt(own, chat_id(own)))
    same_node = newer["receipt"]["claim"]["node"] == before["receipt"]["claim"]["node"]
    assert newer["log"]["index"] > before["log"]["index"] or not same_node


def test_kill_9_in_the_middle_of_work(own):
    """Transfers and a stream are under way; afterwards the ledger is one that the old one extends to."""
    w3 = connect(own)
    account, to = fund(w3, own), Account.create().address
    with long_answer(own):
        for nonce in range(10):
            submit(w3, account, to=to, value=1, nonce=nonce)
        tip = w3.eth.get_block("latest")
        own.kill()
    own.start()
    w3 = connect(own)
    assert w3.eth.get_block(tip["number"])["hash"] == tip["hash"]
    assert w3.eth.get_balance(to) == w3.eth.get_transaction_count(account.address)
    assert chat_id(own)


def test_a_proof_outlives_the_network(own, tmp_path):
    """Ctrl-C ends everything within 10 s with status 0; `og verify` needs nothing of it."""
    path = tmp_path / "proof.json"
    path.write_bytes(og_receipt(own, chat_id(own)))
    assert own.stop(seconds=10) == 0, own.tail()
    for port in (own.rpc_port, own.proxy_port):
        with socket.socket() as s:
            assert s.connect_ex(("127.0.0.1", port)) != 0, f"something still listens on {port}"
    with pytest.raises(ProcessLookupError):
        os.killpg(own.process.pid, 0)
    done = og_verify(path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_starts_again_after_ctrl_c(own):
    tip = connect(own).eth.get_block("latest")
    assert own.stop() == 0
    own.start()
    assert connect(own).eth.get_block(tip["number"])["hash"] == tip["hash"]
    assert chat_id(own)


def test_ctrl_c_while_it_answers(own):
    with long_answer(own):
        assert own.stop(seconds=10) == 0, own.tail()
