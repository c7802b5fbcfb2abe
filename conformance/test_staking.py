"""A validator joins a running network and leaves it, with the command line only; proofs follow the changes of the set."""

import json
import subprocess
import time

import pytest
from eth_account import Account
from web3.exceptions import ContractCustomError

import proof_check
from conftest import COIN, artifact, connect, send
from devnet import OG, Devnet, free_port, og, og_chat, og_receipt, og_verify

EPOCH = 10
STAKE = 1000


class Newcomer:
    """A validator of its own, with keys in `folder`."""

    def __init__(self, net, folder):
        self.net, self.folder, self.port, self.rpc_port = net, folder, free_port(), free_port()
        self.process = None
        self.member = self.init(folder, self.port)

    def init(self, folder, port):
        done = og("validator", "init", "--data", folder, "--announce", f"127.0.0.1:{port}", "--chain-id", self.net.chain_id)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def operator(self):
        return self.member["operator"]

    def run(self):
        """Starts it. The network file of a devnet names no peers, so they come as arguments."""
        first = self.net.p2p_port
        folders = [self.net.data / "validators" / str(i) for i in range(4)]
        peers = [self.init(folder, first + i)["peer"] for i, folder in enumerate(folders)]
        command = [OG, "validator", "run", "--data", self.folder, "--network", self.net.data / "network.json", "--listen",
                   f"127.0.0.1:{self.port}", "--rpc-listen", f"127.0.0.1:{self.rpc_port}"]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            more = [part for peer in peers for part in ("--peer", peer)]
            self.process = subprocess.Popen([*command, *more], stdout=log, stderr=subprocess.STDOUT)
        return f"http://127.0.0.1:{self.rpc_port}"

    def cli(self, action, *more):
        return og("validator", action, "--data", self.folder, "--rpc", self.net.rpc_url, *more)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()


def status(net, operator=None):
    """(epoch, what the contract says of the candidates or of one of them)."""
    done = og("validator", "status", "--rpc", net.rpc_url, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if operator is None:
        return found["epoch"], found["candidates"]
    return found["epoch"], next((c for c in found["candidates"] if c["operator"].lower() == operator.lower()), None)


def until(what, seconds=90):
    """The first true value of `what()`."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)
    return value


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    net = Devnet(tmp_path_factory.mktemp("staking"), "--epoch-blocks", str(EPOCH))
    net.p2p_port = free_port(run=8)
    try:
        yield net.start()
    finally:
        net.kill()


@pytest.fixture(scope="module")
def w3(net):
    return connect(net)


@pytest.fixture(scope="module")
def staking(w3, net):
    return w3.eth.contract(address=w3.to_checksum_address(net.ready["contracts"]["Staking"]), abi=artifact("Staking")["abi"])


@pytest.fixture(scope="module")
def newcomer(net, tmp_path_factory):
    it = Newcomer(net, tmp_path_factory.mktemp("newcomer"))
    try:
        yield it
    finally:
        it.kill()


def members(w3, *epoch):
    return w3.provider.make_request("og_validators", list(epoch))["result"]


def proof_of_an_answer(net, path):
    done = og_chat(net, "Hi", "--json")
    assert done.returncode == 0, done.stderr
    path.write_bytes(og_receipt(net, json.loads(done.stdout)["receipt_id"]))
    assert og_verify(path).returncode == 0
    return proof_check.check(path.read_bytes())


def test_init_keeps_keys(newcomer):
    member = newcomer.member
    assert set(member) == {"chain_id", "operator", "key", "peer"} and set(member["key"]) == {"peer", "vote", "possession"}
    assert member["peer"] == f"{member['key']['peer']}@127.0.0.1:{newcomer.port}"
    assert newcomer.init(newcomer.folder, newcomer.port) == member, "the second time shows the same keys"
    assert not [p for p in newcomer.folder.rglob("*.key") if p.stat().st_mode & 0o077]


def test_the_first_validators(net, w3, staking):
    _, candidates = status(net)
    assert len(candidates) == 4 == staking.functions.candidateCount().call()
    assert all(c["active"] and int(c["stake"]) >= STAKE * COIN and not c["tombstoned"] for c in candidates)
    assert {c["peer"] for c in candidates} == {m["peer"] for m in members(w3)["members"]}
    plain = og("validator", "status", "--rpc", net.rpc_url)
    assert plain.returncode == 0 and plain.stdout.count("active") == 4


def test_without_coins_nobody_registers(newcomer):
    done = newcomer.cli("register", "--stake", STAKE)
    assert done.returncode not in (0, 101) and newcomer.operator.lower() in done.stderr.lower() and "coins" in done.stderr
    for action in ("exit", "withdraw", "unjail"):
        done = newcomer.cli(action)
        assert done.returncode not in (0, 101) and done.stderr.strip(), action


def test_too_little_stake_is_refused(net, w3, newcomer):
    rich = Account.from_key(net.ready["keys"][0]["private_key"])
    to = w3.to_checksum_address(newcomer.operator)
    assert send(w3, rich, to=to, value=(STAKE + 100) * COIN)["status"] == 1
    done = newcomer.cli("register", "--stake", STAKE - 1)
    assert done.returncode not in (0, 101) and "stake" in done.stderr
    assert status(net, newcomer.operator)[1] is None


@pytest.mark.xfail(strict=True, reason="only `execution reverted (code 3)`")
def test_the_command_line_says_why_the_contract_refuses(newcomer):
    done = newcomer.cli("withdraw")
    assert "NotRegistered" in done.stderr or "not registered" in done.stderr, done.stderr


@pytest.mark.xfail(strict=True, reason="it stays at block 0 without a word until its operator has registered")
def test_a_node_follows_before_it_registers(w3, newcomer):
    """Help: "Run a validator, or a node that follows without voting". A validator should be in step before it votes."""
    url = newcomer.run()
    other = type(w3)(type(w3.provider)(url))
    until(other.is_connected)
    until(lambda: other.eth.block_number > 0, seconds=15)


def test_a_validator_joins(net, w3, newcomer, staking, tmp_path):
    before = members(w3)
    if newcomer.process is None:
        newcomer.run()
    done = newcomer.cli("register", "--stake", STAKE)
    assert done.returncode == 0 and newcomer.operator.lower() in done.stdout.lower(), done.stderr
    registered_in = status(net)[0]
    epoch = until(lambda: (found := status(net, newcomer.operator))[1] and found[1]["active"] and found[0])
    assert epoch <= registered_in + 3, "a few epochs at most"
    after = until(lambda: (now := members(w3)) if now_has(w3, newcomer) else None)
    assert len(after["members"]) == len(before["members"]) + 1 and after["since"] > before["since"]
    mine = {"peer": newcomer.member["key"]["peer"], "vote": newcomer.member["key"]["vote"]}
    assert mine in after["members"] and after["members"] == sorted(after["members"], key=lambda m: m["peer"])
    until(lambda: w3.eth.block_number // EPOCH >= after["since"])
    # A proof from now on has the way from the first validators to these.
    proof = until(lambda: (p := proof_of_an_answer(net, tmp_path / "proof.json"))["ledger"]["handovers"] and p)
    (handover,) = proof["ledger"]["handovers"]
    assert handover["next"]["epoch"] == after["since"] and handover["next"]["members"] == after["members"]
    assert w3.provider.make_request("og_handovers", [])["result"]["handovers"] == [handover]
    (event,) = staking.events.Registered().get_logs(from_block=1)
    assert event["args"]["operator"].lower() == newcomer.operator.lower()


def now_has(w3, newcomer):
    return newcomer.member["key"]["peer"] in {m["peer"] for m in members(w3)["members"]}


def test_it_proposes_and_is_paid(w3, newcomer):
    """It followed the chain from genesis, is in step, makes blocks, and gets its share at the end of the epoch."""
    other = type(w3)(type(w3.provider)(f"http://127.0.0.1:{newcomer.rpc_port}"))
    until(lambda: abs(other.eth.block_number - w3.eth.block_number) < 5)
    operator = w3.to_checksum_address(newcomer.operator)
    newest = lambda: range(w3.eth.block_number - 20, w3.eth.block_number + 1)  # noqa: E731
    number = until(lambda: next((n for n in newest() if w3.eth.get_block(n)["miner"] == operator), None))
    last = number // EPOCH * EPOCH + EPOCH - 1
    until(lambda: w3.eth.block_number >= last)
    paid = [w for w in w3.eth.get_block(last)["withdrawals"] if w["address"] == operator]
    assert len(paid) == 1 and paid[0]["amount"] > 0
    assert other.eth.get_block(number)["hash"] == w3.eth.get_block(number)["hash"]


def test_it_cannot_withdraw_while_it_votes(newcomer, staking, w3):
    with pytest.raises(ContractCustomError):
        staking.functions.withdraw().call({"from": w3.to_checksum_address(newcomer.operator)})
    assert newcomer.cli("withdraw").returncode not in (0, 101)


def test_a_validator_leaves(net, w3, newcomer, staking, tmp_path):
    done = newcomer.cli("exit")
    assert done.returncode == 0, done.stderr
    asked_in = status(net)[0]
    until(lambda: not now_has(w3, newcomer))
    gone = members(w3)
    assert len(gone["members"]) == 4 and gone["since"] <= asked_in + 2
    candidate = status(net, newcomer.operator)[1]
    assert candidate is None or not candidate["active"]
    until(lambda: w3.eth.block_number // EPOCH >= gone["since"])
    proof = until(lambda: (p := proof_of_an_answer(net, tmp_path / "proof.json"))["ledger"]["handovers"][1:] and p)
    sizes = [len(h["next"]["members"]) for h in proof["ledger"]["handovers"]]
    assert sizes == [5, 4] and proof["ledger"]["handovers"][-1]["next"]["members"] == gone["members"]
    # The stake stays for the unbonding delay; the network goes on without the one that left.
    assert newcomer.cli("withdraw").returncode not in (0, 101)
    operator = w3.to_checksum_address(newcomer.operator)
    assert staking.functions.validator(operator).call()[-1] is not None
    newcomer.kill()
    start = w3.eth.block_number
    until(lambda: w3.eth.block_number > start + 2 * EPOCH)


def changed(handover, epochs=0, members=0):
    """The handover to another epoch, or to fewer members."""
    other = json.loads(json.dumps(handover))
    other["next"]["epoch"] += epochs
    other["next"]["members"] = other["next"]["members"][members:]
    return other


def test_handovers_cannot_be_cut_or_mixed(net, w3, newcomer, tmp_path):
    """Both checkers refuse a proof without a handover that matters, with one twice, in another order, or changed.

    Now the first validators vote again: a proof without any handover would be one as good.
    """
    path = tmp_path / "proof.json"
    proof_of_an_answer(net, path)
    whole = json.loads(path.read_bytes())
    first, second = whole["ledger"]["handovers"]
    for handovers in (
        [first], [second], [second, first], [first, first, second], [first, second, second], [first, changed(second, members=1)],
        [changed(first, epochs=1), second], [first, changed(second, epochs=-1)], [changed(first, members=1), second],
        [{**first, "certificate": second["certificate"]}, second], [{**first, "header": second["header"]}, second],
    ):  # fmt: skip
        bad = {**whole, "ledger": {**whole["ledger"], "handovers": handovers}}
        data = json.dumps(bad, indent=2, ensure_ascii=False).encode() + b"\n"
        path.write_bytes(data)
        done = og_verify(path)
        assert done.returncode not in (0, 101) and (done.stderr + done.stdout).strip()
        with pytest.raises(Exception):  # noqa: B017 (libraries raise their own)
            proof_check.check(data)
