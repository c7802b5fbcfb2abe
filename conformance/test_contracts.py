"""Contracts through web3.py: deploy, call, revert, events; and the system contracts of genesis."""

import pytest
from eth_account import Account
from web3.exceptions import ContractCustomError, ContractLogicError, Web3RPCError

from conftest import COIN, artifact, fund, send

UNKNOWN = b"\x77" * 32


def transact(w3, account, call, **fields):
    """Sends a contract call with estimated gas; returns the receipt."""
    gas = call.estimate_gas({"from": account.address, **fields}) * 5 // 4
    data = call.build_transaction({"gas": gas, "gasPrice": 0, "chainId": 0, "nonce": 0, "from": account.address})["data"]
    return send(w3, account, to=call.address, data=data, gas=gas, **fields)


@pytest.fixture(scope="module")
def token(w3, devnet):
    """A WrappedNative of our own, deployed from the committed artefact."""
    owner, code = fund(w3, devnet), artifact("WrappedNative")
    data = code["bytecode"]
    gas = w3.eth.estimate_gas({"from": owner.address, "data": data})
    receipt = send(w3, owner, data=data, gas=gas * 5 // 4)
    assert receipt["status"] == 1 and len(w3.eth.get_code(receipt["contractAddress"])) > 1000
    return w3.eth.contract(address=receipt["contractAddress"], abi=code["abi"])


def test_token(w3, devnet, token):
    alice, bob = fund(w3, devnet), Account.create().address
    first = transact(w3, alice, token.functions.deposit(), value=3 * COIN)
    second = transact(w3, alice, token.functions.transfer(bob, COIN))
    assert first["status"] == second["status"] == 1
    assert token.functions.balanceOf(alice.address).call() == 2 * COIN
    assert token.functions.balanceOf(bob).call() == COIN
    assert token.functions.totalSupply().call() >= 3 * COIN
    assert w3.eth.get_balance(token.address) >= 3 * COIN
    (event,) = token.events.Transfer().process_receipt(second)
    assert dict(event["args"]) == {"from": alice.address, "to": bob, "value": COIN}


def test_logs_by_topic(w3, devnet, token):
    alice, bob, carol = fund(w3, devnet), Account.create().address, Account.create().address
    start = transact(w3, alice, token.functions.deposit(), value=COIN)["blockNumber"]
    sent = [transact(w3, alice, token.functions.transfer(to, n + 1)) for n, to in enumerate([bob, carol, bob])]
    all_from_alice = token.events.Transfer().get_logs(from_block=start, argument_filters={"from": alice.address})
    assert [e["args"]["value"] for e in all_from_alice] == [1, 2, 3]
    to_bob = token.events.Transfer().get_logs(from_block=start, argument_filters={"to": bob})
    assert [e["transactionHash"] for e in to_bob] == [sent[0]["transactionHash"], sent[2]["transactionHash"]]
    either = token.events.Transfer().get_logs(from_block=start, argument_filters={"to": [bob, carol]})
    assert len(either) == 3
    only = {"fromBlock": start, "address": Account.create().address}
    assert w3.eth.get_logs(only) == []
    block = {"blockHash": sent[1]["blockHash"], "address": token.address}
    assert carol in [token.events.Transfer().process_log(log)["args"]["to"] for log in w3.eth.get_logs(block)]
    indices = [log["logIndex"] for log in w3.eth.get_block_receipts(sent[0]["blockNumber"])[0]["logs"]]
    assert indices == sorted(indices)


def test_log_filters(w3, devnet, token):
    alice = fund(w3, devnet)
    watch = token.events.Deposit().create_filter(from_block="latest", argument_filters={"account": alice.address})
    transact(w3, alice, token.functions.deposit(), value=5)
    assert [e["args"]["amount"] for e in watch.get_all_entries()] == [5]
    w3.eth.uninstall_filter(watch.filter_id)
    with pytest.raises(Web3RPCError):
        watch.get_new_entries()


def test_custom_errors_carry_their_data(w3, account, token):
    call = token.functions.transfer(Account.create().address, 5)
    for attempt in (call.call, call.estimate_gas):
        with pytest.raises(ContractCustomError) as caught:
            attempt({"from": account.address})
        selector = w3.keccak(text="ERC20InsufficientBalance(address,uint256,uint256)")[:4].hex()
        assert selector in str(caught.value.data)


def test_revert_code_and_words(rpc, contracts):
    call = {"to": contracts.ModelRegistry.address, "data": contracts.ModelRegistry.encode_abi("get", [UNKNOWN])}
    error = rpc("eth_call", call, "latest")["error"]
    assert error["code"] == 3 and "execution reverted" in error["message"]
    assert error["data"].startswith("0x") and UNKNOWN.hex() in error["data"]
    assert rpc("eth_estimateGas", call)["error"]["code"] == 3


def test_panics_and_reasons_are_decoded(rpc, w3):
    # Init code that reverts with Error("no"), and one with Panic(0x11).
    reason = "08c379a0" + f"{32:064x}" + f"{2:064x}" + b"no".hex().ljust(64, "0")
    panic = "4e487b71" + f"{0x11:064x}"
    for data, word in ((reason, "no"), (panic, "overflow")):
        size = len(data) // 2
        code = f"0x60{size:02x}600c60003960{size:02x}6000fd{data}"
        error = rpc("eth_call", {"data": code}, "latest")["error"]
        assert error["code"] == 3 and data in error["data"] and word in error["message"], error


def test_a_reverting_transaction_is_in_a_block_with_status_0(w3, account, token):
    data = token.encode_abi("transfer", [account.address, 10**30])
    receipt = send(w3, account, to=token.address, data=data, gas=100_000)
    assert receipt["status"] == 0 and receipt["logs"] == [] and 21_000 < receipt["gasUsed"] < 100_000


def test_call_sees_value_and_state(w3, account, token):
    assert token.functions.name().call() == "Wrapped OG"
    with pytest.raises((ContractLogicError, Web3RPCError)):
        token.functions.deposit().call({"from": Account.create().address, "value": 10**30})
    estimate = token.functions.deposit().estimate_gas({"from": account.address, "value": 1})
    assert 40_000 < estimate < 120_000
    assert w3.eth.estimate_gas({"from": account.address, "to": account.address}) == 21_000


def test_storage(w3, devnet, token):
    alice = fund(w3, devnet)
    transact(w3, alice, token.functions.deposit(), value=77)
    key = w3.keccak(bytes(12) + bytes.fromhex(alice.address[2:]) + bytes(32))
    assert int.from_bytes(w3.eth.get_storage_at(token.address, int.from_bytes(key)), "big") == 77


def test_system_contracts_are_the_committed_ones(w3, contracts):
    """Code at genesis is the artefact's, apart from immutables (zero in the artefact)."""
    for name in ("ModelRegistry", "NodeRegistry", "ReceiptLog", "WrappedNative"):
        committed = bytes.fromhex(artifact(name)["deployedBytecode"][2:])
        deployed = w3.eth.get_code(getattr(contracts, name).address)
        assert len(deployed) == len(committed), name
        assert all(c in (d, 0) for c, d in zip(committed, deployed, strict=True)), name
        assert sum(c != d for c, d in zip(committed, deployed, strict=True)) < len(committed) // 8, name


def test_registries_say_who_serves_what(contracts, devnet, ai, model):
    nodes, models = contracts.NodeRegistry.functions, contracts.ModelRegistry.functions
    served = nodes.models(0, 100).call()
    assert served and nodes.nodeCount().call() >= 1
    assert nodes.MODELS().call() == contracts.ModelRegistry.address
    assert contracts.ReceiptLog.functions.NODES().call() == contracts.NodeRegistry.address
    raw = ai.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    asked = bytes.fromhex(raw.headers["og-model"][2:])
    assert asked in served and models.exists(asked).call()
    offers = nodes.nodesFor(asked, 0, 100).call()
    urls = {url.rstrip("/") for url in devnet.ready["node_urls"]}
    assert {offer[1].rstrip("/") for offer in offers} <= urls
    assert raw.headers["og-node"].lower() in {offer[0].lower() for offer in offers}
    assert all(offer[2] >= nodes.MIN_STAKE().call() and nodes.isActive(offer[0]).call() for offer in offers)


def test_anybody_can_publish_a_model(w3, account, contracts):
    manifest = b"\xc1\x80" + account.address.encode()
    model_id = w3.keccak(manifest)
    fee, functions = contracts.ModelRegistry.functions.PUBLISH_FEE().call(), contracts.ModelRegistry.functions
    receipt = transact(w3, account, functions.publish(model_id, manifest, ""), value=fee)
    assert receipt["status"] == 1 and contracts.ModelRegistry.functions.exists(model_id).call()
    with pytest.raises(ContractCustomError):
        functions.publish(UNKNOWN, manifest, "").call({"from": account.address, "value": fee})
    with pytest.raises(ContractCustomError):
        functions.publish(w3.keccak(b"\xc0"), b"\xc0", "").call({"from": account.address})


def test_strangers_cannot_post_to_a_log(account, contracts):
    with pytest.raises(ContractCustomError):
        contracts.ReceiptLog.functions.append(0, 1, UNKNOWN).call({"from": account.address})
