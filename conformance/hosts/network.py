"""Validators on different hosts, with slow, lossy and cut lines between them, dead hosts and a hostile one.

    network.py [--sizes 4,7] [--only latency,minority,…] [--keep]

Needs root, iproute2 and a kernel with network namespaces. OG_BIN is the binary (default target/debug/og). Exit status: 0 when
everything holds, 1 when not, 77 when this machine cannot make the hosts.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import links
from validators import (
    START_SECONDS, Failed, Sampler, Validator, agree, check, heads, make_network, say, table, undisturbed, wait_heads,
)  # fmt: skip

BLOCK_TIME_MS, EPOCH_BLOCKS = 250, 40
# Blocks that may still become final after a line was cut: votes for them are on the way.
LATE_BLOCKS = 3
# How far a head may be behind the others and count as caught up; blocks come while heads are asked for.
NEAR_BLOCKS = 3
RECOVERY_SECONDS = 120
CUT_SECONDS = 15
GARBAGE_SECONDS, GARBAGE_CONNECTIONS = 20, 200
# What a peer may cost in memory that is not in the set of validators.
GARBAGE_MIB_MAX = 200

COLUMNS = ("validators", "scenario", "blocks/s", "interval", "longest", "heads apart", "recovery", "remark")


class Hosts:
    """A network with one validator a host, and one more host without."""

    def __init__(self, size, folder):
        self.size, self.folder = size, Path(folder)
        # As many as may fail: consensus needs more than two thirds.
        self.faulty = (size - 1) // 3
        self.validators = []
        self.rows = []
        self.lan = links.Lan(size + 1)
        try:
            self.validators = [
                Validator(self.folder, i, (self.lan.lan_ip(i), 8650), (self.lan.mgmt_ip(i), 8545), self.lan.inside(i))
                for i in range(size)
            ]
            make_network(self.validators, self.folder, BLOCK_TIME_MS, EPOCH_BLOCKS)
            for v in self.validators:
                v.start()
            for v in self.validators:
                v.wait_ready()
            wait_heads(self.validators, 5, START_SECONDS, "a new network")
        except BaseException:
            self.close()
            raise

    def row(self, scenario, measured=None, recovery=None, remark=""):
        m = measured
        self.rows.append((
            str(self.size), scenario, f"{m['rate']:.2f}" if m else "", f"{m['median'] * 1000:.0f} ms" if m else "",
            f"{m['longest']:.1f} s" if m else "", str(m["spread"]) if m else "",
            "" if recovery is None else f"{recovery:.1f} s", remark,
        ))  # fmt: skip

    def measure(self, seconds, validators=None):
        with Sampler(validators or self.validators) as sampler:
            time.sleep(seconds)
        return sampler.result()

    def calm(self):
        """Good lines, everybody alive and near the highest head."""
        self.lan.shape_all()
        self.lan.heal()
        return self.together(self.validators, "on good lines")

    def together(self, validators, what):
        """Waits until all these are near the highest head and three blocks further; returns the seconds."""
        start = time.monotonic()
        while True:
            now = heads(validators).values()
            if None not in now and max(now) - min(now) <= NEAR_BLOCKS:
                break
            for v in validators:
                check(v.alive(), f"{what}: validator {v.number} ended by itself\n{v.log_end()}")
            if time.monotonic() - start > RECOVERY_SECONDS:
                low = min(validators, key=lambda v: heads([v])[v.number] or -1)
                raise Failed(f"{what}: heads are still apart after {RECOVERY_SECONDS} s: {heads(validators)}\n{low.log_end()}")
            time.sleep(0.1)
        took = time.monotonic() - start
        wait_heads(validators, max(now) + 3, RECOVERY_SECONDS, f"{what}, after catching up")
        return took

    def go_on(self, seconds, validators, rate_min, what):
        """Measures, and checks that blocks come."""
        measured = self.measure(seconds, validators)
        check(measured["rate"] >= rate_min, f"{what}: {measured['rate']:.2f} blocks/s, at least {rate_min} expected")
        return measured

    def close(self):
        with undisturbed():
            for v in self.validators:
                v.kill()
            self.lan.close()


def latency(h):
    """40 ms ± 10 ms one way and 0.5 % loss everywhere."""
    h.lan.shape_all(40, 10, 0.005)
    time.sleep(3)
    measured = h.go_on(30, h.validators, 0.5, "with 40 ms and 0.5 % loss")
    last = agree(h.validators)
    h.row("latency", measured, remark=f"40 ± 10 ms, 0.5 % loss; {last} blocks are the same everywhere")


def no_quorum(h):
    """Two parts, none with a quorum: nobody may go on. After healing all must."""
    # The larger part has one less than a quorum.
    split = h.size - h.faulty - 1
    before = heads(h.validators)
    h.lan.split(range(split), range(split, h.size))
    time.sleep(3)
    settled = heads(h.validators)
    for number, head in settled.items():
        check(
            head - max(before.values()) <= LATE_BLOCKS,
            f"validator {number} went from block {before[number]} to {head} after the cut, without a quorum",
        )
    time.sleep(CUT_SECONDS)
    after = heads(h.validators)
    for number, head in after.items():
        late = head - settled[number]
        check(late == 0, f"validator {number} made {late} blocks in a partition without quorum ({settled[number]} to {head})")
    h.lan.heal()
    recovery = wait_heads(h.validators, max(after.values()) + 3, RECOVERY_SECONDS, "after healing a partition without quorum")
    h.together(h.validators, "after healing a partition without quorum")
    agree(h.validators)
    late = max(after.values()) - max(before.values())
    remark = f"{split} against {h.size - split} for {CUT_SECONDS + 3} s; {late} blocks after the cut; recovery: from healing"
    h.row("no-quorum", recovery=recovery, remark=remark)


def minority(h):
    """Cuts off as many as may fail, beyond an epoch's end: the others go on; those cut off catch up."""
    rest, away = h.validators[: h.size - h.faulty], h.validators[h.size - h.faulty :]
    h.lan.split(range(h.size - h.faulty), range(h.size - h.faulty, h.size))
    start = time.monotonic()
    time.sleep(3)
    cut = max(heads(away).values())
    measured = h.go_on(15, rest, 0.2, f"without {h.faulty} of {h.size}")
    # So that the epoch of those cut off has ended, and the one after it too.
    boundary = (cut // EPOCH_BLOCKS + 2) * EPOCH_BLOCKS
    wait_heads(rest, boundary + 5, 300, f"the others without {h.faulty} of {h.size}, over an epoch's end")
    still = max(heads(away).values())
    check(still - cut == 0, f"a validator that was cut off went from block {cut} to {still}")
    missed = max(heads(rest).values()) - still
    cut_for = time.monotonic() - start
    h.lan.heal()
    recovery = h.together(h.validators, "after healing a partition of a minority")
    agree(h.validators)
    # Who misses most of its turns in an epoch is jailed, so the set is smaller now.
    members = [len(v.rpc().call("og_validators")["members"]) for v in h.validators]
    check(len(set(members)) == 1, f"the validators do not agree how many they are: {members}")
    remark = f"{h.faulty} cut off for {cut_for:.0f} s, {missed} blocks and two epochs' ends; the set has {members[0]} now"
    h.row("minority", measured, recovery, f"{remark}; recovery: from healing")


def slow_host(h):
    """One host whose packets take 300 ms."""
    h.lan.shape(h.size - 1, 300, 20)
    h.lan.links.apply()
    time.sleep(3)
    measured = h.go_on(30, h.validators, 0.5, "with one host at 300 ms")
    agree(h.validators)
    h.row("slow-host", measured, remark="300 ± 20 ms from one host")


def crash(h):
    """kill -9 of one; the others go on over an epoch's end; it catches up after a restart."""
    victim, rest = h.validators[1], [v for v in h.validators if v.number != 1]
    reported = victim.rpc().head()
    victim.kill()
    measured = h.go_on(10, rest, 0.2, "with one killed")
    boundary = (reported // EPOCH_BLOCKS + 1) * EPOCH_BLOCKS
    wait_heads(rest, boundary + 5, 300, "the others with one killed, over an epoch's end")
    missed = max(heads(rest).values()) - reported
    victim.start()
    ready, first = victim.wait_ready()
    check(first >= reported, f"a killed validator came back at block {first}; before, it had reported block {reported}")
    h.together(h.validators, "after a restart")
    recovery = time.monotonic() - victim.started_at
    agree(h.validators)
    remark = f"missed {missed} blocks; answered {ready:.1f} s after its start; recovery: from its start"
    h.row("crash", measured, recovery, remark)


def garbage(h):
    """A host that is no validator sends garbage to every port; then one is killed and comes back meanwhile."""
    before = [v.rss_mib() for v in h.validators]
    targets = [f"{ip}:{port}" for ip, port in (v.p2p for v in h.validators)]
    script = Path(__file__).with_name("garbage.py")
    seconds = GARBAGE_SECONDS + 40
    attacker = subprocess.Popen(
        [*h.lan.inside(h.size), sys.executable, script, str(seconds), str(GARBAGE_CONNECTIONS), *targets],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        time.sleep(2)
        measured = h.go_on(GARBAGE_SECONDS, h.validators, 0.5, "under garbage")
        after = [v.rss_mib() for v in h.validators]
        victim = h.validators[0]
        victim.kill()
        victim.start()
        victim.wait_ready()
        h.together(h.validators, "restart under garbage")
        recovery = time.monotonic() - victim.started_at
        check(attacker.poll() is None, "the attack ended before the restarted validator was back")
        out, _ = attacker.communicate(timeout=seconds + 60)
    finally:
        attacker.kill()
        attacker.wait()
    sent = json.loads(out)
    check(sent["connections"] >= GARBAGE_CONNECTIONS * h.size, f"the attacker got too few connections: {sent}")
    growth = max(a - b for a, b in zip(after, before, strict=True))
    check(growth <= GARBAGE_MIB_MAX, f"memory grew by {growth:.0f} MiB under garbage: {before} to {after}")
    h.calm()
    agree(h.validators)
    remark = (
        f"{sent['connections']} connections, {sent['bytes'] / 1e6:.1f} MB; memory {max(before):.0f} to {max(after):.0f} MiB; "
        f"recovery: of one restarted meanwhile"
    )
    h.row("garbage", measured, recovery, remark)


SCENARIOS = {
    "latency": latency, "no-quorum": no_quorum, "minority": minority, "slow-host": slow_host, "crash": crash, "garbage": garbage,
}  # fmt: skip


def run_one(size, name, folder, rows):
    """One scenario on a network of its own, so that none has to do with what another left, such as validators in jail."""
    hosts = None
    try:
        hosts = Hosts(size, folder)
        hosts.calm()
        SCENARIOS[name](hosts)
        panics = [line for v in hosts.validators for line in v.log_problems()]
        check(not panics, f"panics in the logs: {panics[:5]}")
        say(f"{size} validators: {name} holds")
        return True
    except (Failed, OSError) as e:
        say(f"{size} validators: {name} FAILED: {e}")
        rows.append((str(size), name, *[""] * (len(COLUMNS) - 3), f"FAILED: {str(e).splitlines()[0]}"))
        return False
    finally:
        if hosts is not None:
            rows.extend(hosts.rows)
            hosts.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4,7", help="numbers of validators")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, of " + ", ".join(SCENARIOS))
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when everything holds")
    args = parser.parse_args()
    names = args.only.split(",")
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}")
    # A request to end goes through the same clean-up as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows, failed = [COLUMNS], 0
    try:
        links.able()
        for size in map(int, args.sizes.split(",")):
            for name in names:
                folder = tempfile.mkdtemp(prefix=f"og-hosts-{size}-{name}-")
                say(f"{size} validators: {name} - {SCENARIOS[name].__doc__} Data in {folder}")
                holds = run_one(size, name, folder, rows)
                failed += not holds
                if holds and not args.keep:
                    shutil.rmtree(folder, ignore_errors=True)
    except links.Unable as e:
        print(f"network.py: cannot run here: {e}", file=sys.stderr)
        return 77
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        if len(rows) > 1:
            table(rows)
    print(f"network.py: {f'{failed} scenarios FAILED' if failed else 'everything holds'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
