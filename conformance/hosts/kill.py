"""Crash safety of the whole program: validators on this machine are killed with SIGKILL at random moments, under load.

    kill.py [--kills 200] [--seed N] [--rate 30] [--keep]

What must hold: after a restart the head is not below what the validator's JSON-RPC had reported; each block that was ever
reported has one hash and one state root, everywhere; a transfer that ever had a receipt keeps it, in the same block.
OG_BIN is the binary (default target/debug/og). Exit status: 0 when everything holds, 1 when not.
"""

import argparse
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

from load import Load
from validators import Failed, RpcError, Validator, agree, check, heads, make_network, say, undisturbed, wait_heads

SIZE, BLOCK_TIME_MS, EPOCH_BLOCKS = 4, 100, 400
FIRST_P2P, FIRST_RPC = 28650, 28545
CATCH_UP_SECONDS = 180
NEAR_BLOCKS = 5
# Blocks before the head that are read again after each restart; in the end all are.
READ_AGAIN = 30


class Records:
    """Everything that any validator ever reported. It raises nothing; `wrong` has what contradicts itself."""

    def __init__(self):
        self.lock = threading.Lock()
        self.blocks = {}
        self.receipts = {}
        self.reported = [0] * SIZE
        self.wrong = []

    def complain(self, message):
        with self.lock:
            self.wrong.append(message)
        say(f"WRONG: {message}")

    def head(self, who, number):
        with self.lock:
            self.reported[who] = max(self.reported[who], number)

    def headers(self, who, headers):
        for number, header in headers.items():
            if header is None:
                self.complain(f"validator {who} has no block {number}, though its head is not below")
                continue
            with self.lock:
                first = self.blocks.setdefault(number, header)
            if first != header:
                self.complain(f"block {number} was {first}, and is {header} on validator {who}")

    def receipt(self, who, receipt):
        place = (receipt["blockNumber"], receipt["blockHash"])
        with self.lock:
            first = self.receipts.setdefault(receipt["transactionHash"], place)
        if first != place:
            self.complain(f"transfer {receipt['transactionHash']} was in {first}, and is in {place} on validator {who}")


class Watcher(threading.Thread):
    """Follows one validator through its lives, and records what it reports the moment it does."""

    def __init__(self, validator, records, ended):
        super().__init__(daemon=True)
        self.validator, self.records, self.ended = validator, records, ended

    def run(self):
        rpc, last = self.validator.rpc(timeout=10), 0
        who = self.validator.number
        while not self.ended.wait(0.05):
            try:
                head = rpc.head()
                self.records.head(who, head)
                # After a long catch-up only the newest; the end of the run reads all.
                first = max(last + 1, head - READ_AGAIN)
                if first > head:
                    continue
                self.records.headers(who, rpc.headers(first, head))
                for receipts in rpc.batch([("eth_getBlockReceipts", [hex(n)]) for n in range(first, head + 1)]):
                    for receipt in receipts or []:
                        self.records.receipt(who, receipt)
                last = head
            except OSError:
                # It was killed: after the restart everything recent is read again.
                last = max(0, last - READ_AGAIN)
            except RpcError as e:
                self.records.complain(f"validator {who} answered with an error: {e}")
        rpc.close()


class Killer:
    """Kills and restarts, and keeps the times."""

    def __init__(self, validators, records, chance):
        self.validators, self.records, self.chance = validators, records, chance
        self.kills = [0] * SIZE
        self.halts = self.again = 0
        self.ready_times, self.caught_up_times = [], []

    def kill(self, victims):
        """Returns what each victim had reported before."""
        for v in victims:
            v.process.send_signal(signal.SIGKILL)
        for v in victims:
            v.process.wait()
            self.kills[v.number] += 1
        # A watcher may hold an answer that it has not recorded yet; it counts as reported too.
        time.sleep(0.02)
        return {v.number: self.records.reported[v.number] for v in victims}

    def round(self, most):
        """One to `most` kills, mostly of one validator; returns the number of kills."""
        kind = self.chance.random()
        count = 1 if kind < 0.75 else 2 if kind < 0.93 else SIZE
        # Spread over the validators: those killed least come first, at random among equals.
        order = sorted(self.validators, key=lambda v: (self.kills[v.number] // 5, self.chance.random()))
        victims = order[: min(count, most)]
        time.sleep(self.chance.uniform(0, 1.5))
        reported = self.kill(victims)
        done = len(victims)
        self.halts += len(victims) > SIZE - (2 * SIZE // 3 + 1)
        time.sleep(self.chance.choice([0, self.chance.uniform(0, 2)]))
        for v in victims:
            v.start()
        if done < most and self.chance.random() < 0.15:
            # Killed again while it starts: what it writes while it recovers must be safe too.
            time.sleep(self.chance.uniform(0, 1.5))
            again = self.chance.choice(victims)
            self.kill([again])
            again.start()
            self.again += 1
            done += 1
        for v in victims:
            took, head = v.wait_ready(60)
            self.ready_times.append(took)
            if head < reported[v.number]:
                self.records.complain(
                    f"validator {v.number} came back at block {head}; it had reported {reported[v.number]} before\n{v.log_end(8)}"
                )
        others = [h for h in heads(self.validators).values() if h is not None]
        wait_heads(self.validators, max(others) + 1, CATCH_UP_SECONDS, f"after killing {[v.number for v in victims]}")
        self.caught_up_times.append(time.monotonic() - victims[-1].started_at)
        for v in victims:
            rpc = v.rpc()
            last = max(reported[v.number], 1)
            self.records.headers(v.number, rpc.headers(max(1, last - READ_AGAIN), last))
            rpc.close()
        return done


def settle(validators):
    """Waits until nobody is far behind."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while True:
        now = heads(validators)
        if None not in now.values() and max(now.values()) - min(now.values()) <= NEAR_BLOCKS:
            return
        check(time.monotonic() < deadline, f"heads are apart in the end: {now}")
        time.sleep(0.2)


def check_receipts(validator, records):
    """Every transfer that ever had a receipt has it here, in the same block."""
    rpc = validator.rpc(timeout=60)
    expected = list(records.receipts.items())
    for start in range(0, len(expected), 100):
        part = expected[start : start + 100]
        found = rpc.batch([("eth_getTransactionReceipt", [tx]) for tx, _ in part])
        for (tx, place), receipt in zip(part, found, strict=True):
            if receipt is None:
                records.complain(f"transfer {tx} had a receipt in block {place}, and has none on validator {validator.number}")
            else:
                records.receipt(validator.number, receipt)
    rpc.close()


def run(args, folder):
    chance = random.Random(args.seed)
    records, ended = Records(), threading.Event()
    validators = [
        Validator(folder, i, ("127.0.0.1", FIRST_P2P + i), ("127.0.0.1", FIRST_RPC + i)) for i in range(SIZE)
    ]
    load = Load(validators, args.rate, args.seed, ended, lambda: set(records.receipts))
    killer = Killer(validators, records, chance)
    try:
        make_network(validators, folder, BLOCK_TIME_MS, EPOCH_BLOCKS, load.funds())
        for v in validators:
            v.start()
        for v in validators:
            v.wait_ready()
        wait_heads(validators, 5, 180, "a new network")
        threads = [Watcher(v, records, ended) for v in validators]
        for thread in [*threads, load]:
            thread.start()
        kills, printed, began = 0, 0, time.monotonic()
        while kills < args.kills:
            kills += killer.round(args.kills - kills)
            if kills // 20 > printed:
                printed = kills // 20
                say(
                    f"{kills} kills {killer.kills}, block {max(records.reported)}, "
                    f"{len(records.receipts)} transfers with a receipt of {load.sent} sent, {len(records.wrong)} wrong"
                )
        seconds = time.monotonic() - began
        # The load goes on a little, so that all of it can be included.
        load.finish()
        ended.set()
        for thread in [*threads, load]:
            thread.join()
        settle(validators)
        last = agree(validators)
        for v in validators:
            records.headers(v.number, v.rpc(timeout=60).headers(1, last))
            check_receipts(v, records)
            for line in v.log_problems():
                records.complain(f"validator {v.number} in its log: {line}")
        ready, back = sorted(killer.ready_times), sorted(killer.caught_up_times)
        print(
            f"kills {kills} {killer.kills} in {seconds:.0f} s; without a quorum {killer.halts} times; "
            f"killed while starting {killer.again} times\n"
            f"blocks {last}, the same hashes and state roots on all validators\n"
            f"transfers sent {load.sent}, with a receipt {len(records.receipts)}, never included {load.open()}\n"
            f"start to first answer: median {statistics.median(ready):.2f} s, longest {ready[-1]:.2f} s\n"
            f"start to the next block on all validators: median {statistics.median(back):.2f} s, longest {back[-1]:.2f} s"
        )
        check(load.open() == 0, f"{load.open()} transfers were never included")
    finally:
        ended.set()
        with undisturbed():
            for v in validators:
                v.kill()
    return records.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--rate", type=float, default=30, help="transfers a second")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when everything holds")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="og-kill-")
    say(f"seed {args.seed}, data in {folder}")
    try:
        wrong = run(args, folder)
    except (Failed, OSError) as e:
        print(f"kill.py: FAILED: {e}\ndata and logs: {folder}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if wrong:
        print(f"kill.py: FAILED, {len(wrong)} times wrong; the first: {wrong[0]}\ndata and logs: {folder}")
        return 1
    if not args.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print("kill.py: everything holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
