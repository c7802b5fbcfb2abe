"""A new validator joins a running network from a snapshot, without executing the chain before it.

    join.py [--blocks 300] [--keep]

Four validators make blocks; a fifth one takes the state of a recent block from one of them, checks it, registers, follows and votes.
OG_BIN is the binary (default target/debug/og). Exit status: 0 when everything holds, 1 when not.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import signer
from validators import CHAIN_ID, RpcError, Validator, agree, check, heads, make_network, og, say, undisturbed, wait_heads

SNAPSHOT_EVERY = 64
FIRST_P2P, FIRST_RPC = 28950, 28845


def transfer(rpc, key, to, coins):
    """Sends coins and waits for the receipt."""
    sender = "0x" + signer.address(key).hex()
    nonce = int(rpc.call("eth_getTransactionCount", sender, "pending"), 16)
    _, raw = signer.transfer(key, CHAIN_ID, nonce, bytes.fromhex(to[2:]), coins * 10**18, 10**12, 10**9)
    tx = rpc.call("eth_sendRawTransaction", raw)
    deadline = time.monotonic() + 30
    while rpc.call("eth_getTransactionReceipt", tx) is None:
        check(time.monotonic() < deadline, "a transfer is in no block")
        time.sleep(0.1)


def status(rpc_url):
    return json.loads(og("validator", "status", "--rpc", rpc_url, "--json"))["candidates"]


def run(folder, blocks):
    key = 0x1234567890ABCDEF
    address = "0x" + signer.address(key).hex()
    everybody = [
        Validator(folder, i, ("127.0.0.1", FIRST_P2P + i), ("127.0.0.1", FIRST_RPC + i), more=("--snapshot-every", SNAPSHOT_EVERY))
        for i in range(5)
    ]
    old, new = everybody[:4], everybody[4]
    make_network(old, folder, 100, 40, fund=[(address, 1_000_000)])
    member = json.loads(Path(new.init()).read_text())
    url = f"http://127.0.0.1:{FIRST_RPC}"
    try:
        for validator in old:
            validator.start()
        for validator in old:
            validator.wait_ready()
        wait_heads(old, blocks, 180, "the first blocks")
        transfer(old[0].rpc(), key, member["operator"], 5_000)
        wait_heads(old, blocks + SNAPSHOT_EVERY, 60, "a snapshot with the transfer")

        began = time.monotonic()
        new.more += ["--sync", url]
        new.start()
        took, head = new.wait_ready()
        check(head > blocks, f"it began at block {head}, not at a snapshot above {blocks}")
        check(head % SNAPSHOT_EVERY == 0, f"block {head} is no snapshot")
        theirs, ours = (v.rpc().call("eth_getBlockByNumber", hex(head), False) for v in (old[1], new))
        check(theirs["hash"] == ours["hash"], "the snapshot is of another chain")
        balance = int(new.rpc().call("eth_getBalance", member["operator"], "latest"), 16)
        check(balance >= 5_000 * 10**18, f"the synced state has {balance} wei for its operator")
        check(new.rpc().call("eth_getBlockByNumber", "0x5", False) is None, "it has blocks from before the snapshot")
        say(f"synced to block {head} and serving after {took:.1f} s")

        og("validator", "register", "--data", new.data(), "--rpc", url, "--stake", 1000)
        wait_heads([new], max(h or 0 for h in heads(old).values()), 60, "the new validator follows")
        deadline = time.monotonic() + 60
        while not any(c["operator"] == member["operator"] and c["active"] for c in status(url)):
            check(time.monotonic() < deadline, "it never becomes active")
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        mine = member["operator"].lower()
        while not any(proposer(new.rpc(), back) == mine for back in range(20)):
            check(time.monotonic() < deadline, "it never proposes")
            time.sleep(0.5)
        agree(everybody, first=head)
        say(f"it votes and proposes {time.monotonic() - began:.1f} s after its start")
    finally:
        with undisturbed():
            for validator in everybody:
                validator.kill()
    for validator in everybody:
        check(not validator.log_problems(), f"a thread panicked; {validator.log_end()}")


def proposer(rpc, back):
    try:
        block = rpc.call("eth_getBlockByNumber", hex(max(1, rpc.head() - back)), False)
    except RpcError:
        return None
    return block["miner"].lower() if block else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=300, help="blocks before the new validator comes")
    parser.add_argument("--keep", action="store_true", help="keep the data")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="og-join-"))
    good = False
    try:
        run(folder, args.blocks)
        good = True
    except Exception as e:  # noqa: BLE001 (the reader of the output decides)
        say(f"FAILED: {e}; the data is in {folder}")
    finally:
        if good and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    say("join: everything holds" if good else "join: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
