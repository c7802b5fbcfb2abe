"""Known answers: proof files of real networks that both checkers accept, and changes of them that both refuse. Needs no network.

`make_vectors.py` makes the files in `vectors/`, `mutations.py` says what each change is.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import proof_check
from devnet import ROOT, og_verify
from mutations import mutated, walk
from proof_file import read_file

VECTORS = ROOT / "conformance" / "vectors"
INDEX = json.loads((VECTORS / "index.json").read_text())
MUTATIONS = json.loads((VECTORS / "negative.json").read_text())


@pytest.fixture(scope="module")
def proofs():
    return {name: read_file((VECTORS / name).read_bytes()) for name in INDEX}


@pytest.mark.parametrize("name", INDEX)
def test_good_files_hold(name, proofs):
    pinned = INDEX[name]["genesis"]
    done = og_verify(VECTORS / name, "--network", pinned, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["ok"], done.stdout
    assert report["summary"]["assurance"] == INDEX[name]["rung"] and report["summary"]["receipt_id"] == INDEX[name]["receipt_id"]
    # How old the keys are is said, not judged.
    assert all(check["outcome"] == ("note" if check["name"] == "keys" else "pass") for check in report["checks"])
    proof = proof_check.check((VECTORS / name).read_bytes(), pinned)
    assert proof_check.receipt_id(proof["receipt"]["claim"]) == INDEX[name]["receipt_id"]


def test_another_network_is_not_the_one_that_is_meant():
    for name in INDEX:
        assert og_verify(VECTORS / name, "--network", "0x" + "11" * 32).returncode == 1
        with pytest.raises(AssertionError):
            proof_check.check((VECTORS / name).read_bytes(), "0x" + "11" * 32)


def test_the_files_have_what_there_is():
    """Every rung, streams, several answers, a tool call, options, embeddings, a change of validators, an auditor's word."""
    proofs = {name: json.loads((VECTORS / name).read_text()) for name in INDEX}
    claims = {name: proof["receipt"]["claim"] for name, proof in proofs.items()}
    assert {INDEX[name]["rung"] for name in INDEX} == {"signed", "audited"}
    assert claims["several.json"]["choices"] == 2 and int(claims["several.json"]["options"], 16)
    assert "tool_calls" in proofs["several.json"]["disclosure"]["response"]
    assert claims["embeddings.json"]["choices"] == claims["embeddings.json"]["completion_tokens"] == 0
    assert proofs["streamed.json"]["disclosure"]["response"].startswith("data: ")
    assert proofs["response.json"]["disclosure"]["response"].startswith("event: ")
    assert proofs["handover.json"]["ledger"]["handovers"] and int(claims["signed.json"]["payer"], 16)
    audited = proofs["audited.json"]
    assert int(audited["ledger"]["audit"]["right"], 16) >> audited["log"]["index"] & 1
    assert len({entry["genesis"] for entry in INDEX.values()}) == 2
    assert sum(path.stat().st_size for path in VECTORS.rglob("*.json")) < 3 << 19


def test_every_field_has_its_mutations():
    audited = read_file((VECTORS / "audited.json").read_bytes())
    changed = {m["pointer"] for m in MUTATIONS if m["file"] == "audited.json"}
    for pointer, value in walk(audited):
        # A list of small lists is reached through what it holds.
        assert pointer in changed or isinstance(value, (dict, list)), pointer
    assert len(MUTATIONS) >= 100 and len({m["expect"] for m in MUTATIONS}) >= 10


def refused_by_python(data):
    """None, or what went wrong: that it holds, or an error that is no refusal."""
    try:
        proof_check.check(data)
    except Exception as e:  # noqa: BLE001
        return (
            None
            if isinstance(e, (AssertionError, ValueError, KeyError, IndexError, TypeError)) or LIBRARY.match(type(e).__module__)
            else repr(e)
        )
    return "proof_check.py accepts it"


LIBRARY = re.compile("rlp|trie|eth_|py_ecc|json")


def refused_by_og(data, mutation, path):
    """None, or what went wrong."""
    path.write_bytes(data)
    done = og_verify(path, "--json")
    path.unlink()
    if done.returncode == 0:
        return "og verify accepts it"
    if done.returncode not in (1, 2) or "panicked" in done.stderr:
        return f"og verify ends with {done.returncode}: {done.stderr[-300:]}"
    failed = [c["name"] for c in json.loads(done.stdout)["checks"] if c["outcome"] == "fail"] if done.stdout else []
    return None if mutation["expect"] in failed else f"og verify refuses {failed}, and not {mutation['expect']}"


@pytest.mark.timeout(1800)
def test_both_refuse_every_mutation(proofs, tmp_path):
    files = [mutated(m, proofs) for m in MUTATIONS]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(refused_by_og, data, m, tmp_path / f"{i}.json")
            for i, (data, m) in enumerate(zip(files, MUTATIONS, strict=True))
        ]
        wrong = [(m, refused_by_python(data)) for data, m in zip(files, MUTATIONS, strict=True)]
        wrong += [(m, job.result()) for m, job in zip(MUTATIONS, jobs, strict=True)]
    found = sorted((m["file"], m["name"], what) for m, what in wrong if what)
    assert not found, "\n".join(map(str, found))
