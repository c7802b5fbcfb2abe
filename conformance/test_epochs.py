"""Ends of epochs: rewards as withdrawals (EIP-4895), the next validators as a request (EIP-7685), and the og_ methods of light clients."""

import time

import pytest
import rlp
from eth_utils import keccak
from trie import HexaryTrie

from conftest import artifact, connect
from devnet import Devnet
from ledger_check import FIELDS, header_bytes
from proof_check import check_final, check_first_set, follow, network_commitment, raw, requests_hash, set_commitment

EPOCH = 10
NO_REQUESTS = "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
GWEI = 10**9


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A network with short epochs, some of which have ended."""
    net = Devnet(tmp_path_factory.mktemp("epochs"), "--epoch-blocks", str(EPOCH))
    try:
        net.start()
        w3, deadline = connect(net), time.monotonic() + 60
        while w3.eth.block_number < 3 * EPOCH:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield net
    finally:
        net.kill()


@pytest.fixture(scope="module")
def own(net):
    """web3.py for this network."""
    return connect(net)


@pytest.fixture(scope="module")
def ask(own):
    """`ask(method, *params)` gives the whole answer of this network."""
    return lambda method, *params: own.provider.make_request(method, list(params))


def number(text):
    return int(text, 16)


def rewards(ask, block):
    return ask("eth_getBlockByNumber", hex(block), False)["result"]["withdrawals"]


def test_only_ends_of_epochs_have_withdrawals_and_requests(own, ask):
    for n in range(1, own.eth.block_number + 1):
        block = ask("eth_getBlockByNumber", hex(n), False)["result"]
        ends = n % EPOCH == EPOCH - 1
        assert bool(block["withdrawals"]) == ends and (block["requestsHash"] != NO_REQUESTS) == ends, n


def test_withdrawals_root(own):
    """The trie of the list that the block shows has the root that the header has."""
    for n in (EPOCH - 1, 2 * EPOCH - 1, 5):
        block = own.eth.get_block(n)
        trie = HexaryTrie({})
        for position, w in enumerate(block["withdrawals"]):
            trie[rlp.encode(position)] = rlp.encode([w["index"], w["validatorIndex"], raw(w["address"].lower()), w["amount"]])
        assert trie.root_hash == block["withdrawalsRoot"], n
        assert keccak(header_bytes(block)) == block["hash"]


def test_rewards_arrive(own, ask):
    """Amounts are in gwei; each block of the epoch pays its proposer, and no index comes twice."""
    # The next end of an epoch in which nobody paid tips.
    tip = own.eth.block_number
    ends = [n for n in range(EPOCH - 1, tip, EPOCH) if not own.eth.get_block(n)["transactions"]]
    assert ends
    staking = own.eth.contract(address=own.to_checksum_address(ask("og_network")["result"]["network"]["contracts"]["staking"]),
                               abi=artifact("Staking")["abi"])  # fmt: skip
    per_block = staking.functions.REWARD_PER_BLOCK().call()
    indices = []
    for n in ends:
        paid = rewards(ask, n)
        indices += [number(w["index"]) for w in paid]
        assert [number(w["validatorIndex"]) for w in paid] == list(range(len(paid)))
        assert sum(number(w["amount"]) for w in paid) * GWEI <= per_block * EPOCH
        assert all(number(w["amount"]) > 0 for w in paid)
        for w in paid:
            who = own.to_checksum_address(w["address"])
            gained = own.eth.get_balance(who, n) - own.eth.get_balance(who, n - 1)
            assert gained == number(w["amount"]) * GWEI
    assert len(set(indices)) == len(indices) == sum(len(rewards(ask, n)) for n in ends) and indices == sorted(indices)
    # Over several epochs everybody proposed, so everybody was paid.
    operators = {c[0].lower() for c in staking.functions.candidates(0, 100).call()}
    assert {w["address"].lower() for n in ends for w in rewards(ask, n)} <= operators


def test_web3_py_reads_withdrawals(own, ask):
    """web3.py shows what the raw answer has."""
    block = own.eth.get_block(EPOCH - 1)
    assert [(w["index"], w["amount"]) for w in block["withdrawals"]] == [
        (number(w["index"]), number(w["amount"])) for w in rewards(ask, EPOCH - 1)
    ]


def test_headers_name_who_votes_and_who_votes_next(own, ask):
    for epoch in (0, 1):
        named = ask("og_validators", hex(epoch))["result"]
        following = ask("og_validators", hex(epoch + 1))["result"]
        assert named["epoch"] == epoch and named["commitment"] == "0x" + set_commitment(named["members"]).hex()
        for n in range(max(epoch * EPOCH, 1), (epoch + 1) * EPOCH):
            assert own.eth.get_block(n)["parentBeaconBlockRoot"].hex().removeprefix("0x") == named["commitment"][2:]
        last = own.eth.get_block((epoch + 1) * EPOCH - 1)
        assert bytes(last["requestsHash"]) == requests_hash(epoch + 1, following["members"])


def test_og_network(own, ask):
    found = ask("og_network")["result"]
    assert set(found) == {"network", "genesisHeader"}
    network = found["network"]
    assert (network["version"], network["epoch_blocks"]) == (4, EPOCH)
    assert rlp.decode(raw(found["genesisHeader"]))[FIELDS.index("extraData")] == network_commitment(network)
    check_first_set(network)
    assert [{k: v[k] for k in ("peer", "vote")} for v in network["validators"]] == ask("og_validators", "0x0")["result"]["members"]


def test_og_validators(own, ask):
    newest = ask("og_validators")["result"]
    assert set(newest) == {"epoch", "since", "members", "commitment"}
    assert newest["since"] == 0 and len(newest["members"]) == 4
    assert own.eth.block_number // EPOCH - 1 <= newest["epoch"] <= own.eth.block_number // EPOCH + 1
    error = ask("og_validators", "0xffffff")["error"]
    assert error["code"] == -32001 and "epoch" in error["message"]
    assert ask("og_validators", "latest")["error"]["code"] == -32602


def test_og_handovers(own, ask):
    """The set never changed here, so there is nothing to prove."""
    for params in ([], ["0x1"], ["0xffffff"]):
        assert ask("og_handovers", *params)["result"] == {"handovers": []}
    network, genesis = ask("og_network")["result"]["network"], bytes(own.eth.get_block(0)["hash"])
    assert follow(network, [], genesis, 0, network["validators"]) == network["validators"]


def test_og_final_header(own, ask):
    """Certificates of blocks inside and at the end of an epoch, checked without this project's code."""
    network, genesis = ask("og_network")["result"]["network"], bytes(own.eth.get_block(0)["hash"])
    for n in (1, EPOCH - 1, EPOCH, 2 * EPOCH + 3):
        found = ask("og_finalHeader", hex(n))["result"]
        assert set(found) == {"number", "hash", "header", "certificate"} and found["number"] == n
        assert found["hash"] == "0x" + bytes(own.eth.get_block(n)["hash"]).hex()
        if found["certificate"] is not None:
            check_final(raw(found["header"]), found["certificate"], network["validators"], EPOCH, genesis)
    # The end of an epoch always has one: the next validators start from it.
    assert ask("og_finalHeader", hex(EPOCH - 1))["result"]["certificate"]
    assert ask("og_finalHeader", "0x0")["result"]["certificate"] is None
    assert ask("og_finalHeader", "0xffffff")["error"]["code"] == -32000


def test_og_finalized(own, ask):
    network, genesis = ask("og_network")["result"]["network"], bytes(own.eth.get_block(0)["hash"])
    found = ask("og_finalized")["result"]
    assert own.eth.block_number - 10 <= found["number"] <= own.eth.block_number
    check_final(raw(found["header"]), found["certificate"], network["validators"], EPOCH, genesis)


def test_all_validators_tell_the_same(net, own):
    tip = own.eth.block_number - 2
    for url in net.ready["rpc_urls"][1:]:
        other = type(own)(type(own.provider)(url))
        for n in (0, EPOCH - 1, tip):
            assert other.eth.get_block(n)["hash"] == own.eth.get_block(n)["hash"]
