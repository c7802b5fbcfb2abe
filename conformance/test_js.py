"""Runs the JavaScript clients against the same network."""

import os
import subprocess
from pathlib import Path

import pytest

from conftest import fund

HERE = Path(__file__).resolve().parent
# Where `run` installed the packages and copied the scripts.
SCRIPTS = Path(os.environ.get("OG_NODE_SCRIPTS", HERE))


@pytest.mark.parametrize("script", ["ethers", "ethers_ws", "openai", "viem", "viem_ws"])
def test_client(devnet, w3, script):
    account = fund(w3, devnet)
    env = {
        **os.environ, "OG_READY": str(devnet.ready_file), "OG_KEY": "0x" + account.key.hex().removeprefix("0x"),
        "OG_ARTIFACTS": str(HERE.parent / "contracts" / "artifacts"),
    }  # fmt: skip
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(SCRIPTS / f"{script}.test.mjs")],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
