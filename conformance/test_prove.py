"""`og prove` and `og verify`: what the chain says, checked with no network."""

import json
import subprocess
import time

import pytest
from eth_account import Account

from conftest import COIN, fund, send
from devnet import OG


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


def test_a_checkpoint_that_is_not_there(devnet, tmp_path, paid):
    text = prove(devnet, "--account", paid[0].address)
    missing = verify(tmp_path, text, "--checkpoint", f"3:0x{'11' * 32}")
    assert missing.returncode == 1 and "checkpoint" in missing.stdout
    assert verify(tmp_path, text, "--checkpoint", "nonsense").returncode == 2
