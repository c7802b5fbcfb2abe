"""`og prove` and `og verify`: what the chain says, checked with no network."""

import json
import subprocess
import time

import pytest
from eth_account import Account
from web3 import Web3

from conftest import COIN, fund, send
from devnet import OG
from proof_check import check


def prove(devnet, *what, seconds=60):
    """The proof as text. A block may get its certificate a moment after it is seen."""
    deadline = time.monotonic() + seconds
    while True:
        got = subprocess.run([OG, "prove", "--rpc", devnet.rpc_url, *what], capture_output=True, text=True, timeout=60, check=False)
        if got.returncode == 0:
            return got.stdout
        assert "not finalised yet" in got.stderr and time.monotonic() < deadline, got.stderr
        time.sleep(0.2)


def verify(tmp_path, text, *more):
    path = tmp_path / "proof.json"
    path.write_text(text)
    return subprocess.run([OG, "verify", *more, str(path)], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def paid(w3, devnet):
    account = fund(w3, devnet, 2 * COIN)
    return account, send(w3, account, to=Account.create().address, value=COIN)


def test_an_account_and_its_absence(devnet, tmp_path, paid):
    account, _ = paid
    text = prove(devnet, "--account", account.address)
    good = verify(tmp_path, text, "--network", devnet.ready["network"])
    assert good.returncode == 0 and "The proof holds" in good.stdout, good.stdout
    assert account.address in good.stdout
    nobody = prove(devnet, "--account", Account.create().address)
    assert verify(tmp_path, nobody).returncode == 0
    other = verify(tmp_path, text, "--network", "0x" + "11" * 32)
    assert other.returncode == 1 and "FAIL" in other.stdout


def test_a_storage_slot(devnet, tmp_path):
    staking = devnet.ready["contracts"]["Staking"]
    text = prove(devnet, "--account", staking, *[a for i in range(8) for a in ("--slot", str(i))])
    assert verify(tmp_path, text).returncode == 0
    slots = json.loads(text)["account"]["slots"]
    assert any(int(s["value"], 16) for s in slots), "every slot is zero"


def test_a_transaction_and_its_receipt(devnet, tmp_path, paid):
    _, receipt = paid
    text = prove(devnet, "--transaction", receipt["transactionHash"].to_0x_hex())
    good = verify(tmp_path, text)
    assert good.returncode == 0 and "transaction" in good.stdout and "receipt" in good.stdout, good.stdout


@pytest.mark.parametrize("what", ["balance", "nonce", "code", "address", "header", "view", "signers", "proof", "epoch_blocks", "extra"])
def test_a_changed_proof_does_not_hold(devnet, tmp_path, paid, what):
    account, _ = paid
    proof = json.loads(prove(devnet, "--account", account.address))
    match what:
        case "balance":
            proof["account"]["balance"] = str(int(proof["account"]["balance"]) + 1)
        case "nonce":
            proof["account"]["nonce"] += 1
        case "code":
            proof["account"]["code_hash"] = "0x" + "00" * 32
        case "address":
            proof["account"]["address"] = "0x" + "22" * 20
        case "header":
            proof["headers"][-1] = proof["headers"][-1][:-2] + "00"
        case "view":
            proof["certificate"]["view"] += 1
        case "signers":
            proof["certificate"]["signers"] = "0x01"
        case "proof":
            proof["account"]["proof"] = proof["account"]["proof"][:-1]
        case "epoch_blocks":
            proof["network"]["epoch_blocks"] += 1
        case "extra":
            proof["surprise"] = 1
    assert verify(tmp_path, json.dumps(proof)).returncode == 1


def block_of(devnet, number):
    """NUMBER:HASH of a block."""
    w3 = Web3(Web3.HTTPProvider(devnet.rpc_url))
    return f"{number}:{w3.eth.get_block(number)['hash'].to_0x_hex()}"


def test_a_checkpoint_that_is_not_there(devnet, tmp_path, paid):
    text = prove(devnet, "--account", paid[0].address)
    network = ("--network", devnet.ready["network"])
    missing = verify(tmp_path, text, *network, "--checkpoint", f"3:0x{'11' * 32}")
    assert missing.returncode == 1 and "starts at genesis" in missing.stdout
    assert verify(tmp_path, text, *network, "--checkpoint", "nonsense").returncode == 2
    assert verify(tmp_path, text, "--checkpoint", f"3:0x{'11' * 32}").returncode == 2, "of which network?"


def test_what_the_chain_says_from_a_checkpoint_on(devnet, tmp_path, paid):
    network, checkpoint = ("--network", devnet.ready["network"]), block_of(devnet, 2)
    text = prove(devnet, "--account", paid[0].address, "--checkpoint", checkpoint)
    assert verify(tmp_path, text, *network, "--checkpoint", checkpoint).returncode == 0
    unnamed = verify(tmp_path, text, *network)
    assert unnamed.returncode == 1 and "--checkpoint" in unnamed.stdout
    other = verify(tmp_path, text, *network, "--checkpoint", block_of(devnet, 3))
    assert other.returncode == 1 and "your checkpoint is 3:" in other.stdout


def test_an_answer_from_a_checkpoint_on(devnet, tmp_path, ai, model):
    """From an older checkpoint validators vouch for the file; from a newer one its own state does, and no validator is named at all."""
    receipt = ai.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4).headers["og-receipt-id"]
    network = devnet.ready["network"]
    get = lambda *more: subprocess.run([OG, "receipt", "get", receipt, "--proxy", devnet.proxy_url, *more], capture_output=True, text=True, timeout=90, check=False)  # noqa: E731
    first = get()
    assert first.returncode == 0, first.stderr
    assert "keys of the first validators" in verify(tmp_path, first.stdout, "--network", network).stdout
    w3 = Web3(Web3.HTTPProvider(devnet.rpc_url))
    for number in (2, w3.eth.block_number):
        checkpoint = block_of(devnet, number)
        got = get("--checkpoint", checkpoint)
        assert got.returncode == 0, got.stderr
        good = verify(tmp_path, got.stdout, "--network", network, "--checkpoint", checkpoint)
        assert good.returncode == 0, good.stdout
        assert verify(tmp_path, got.stdout, "--network", network).returncode == 1, "a reader without the checkpoint"
        number, block = checkpoint.split(":")
        parsed = check(got.stdout.encode(), network, (int(number), block))
        assert parsed["network"]["validators"] == []
        assert ("certificate" in parsed["ledger"]) == (number == "2")
        # Besides request and response it is short, and does not grow with the number of validators.
        assert len(got.stdout) - sum(len(parsed["disclosure"][k]) for k in ("request", "response")) < 64 << 10
        for pointer, value in ((("ledger", "checkpoint", "header"), first.stdout), (("validators_root",), "0x" + "11" * 32)):
            broken = json.loads(got.stdout)
            at = broken
            for name in pointer[:-1]:
                at = at[name]
            at[pointer[-1]] = json.loads(value)["genesis_header"] if pointer[-1] == "header" else value
            assert verify(tmp_path, json.dumps(broken, indent=2, ensure_ascii=False) + "\n", "--network", network, "--checkpoint", checkpoint).returncode == 1

