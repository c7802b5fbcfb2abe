"""Makes blocks.json: random blocks of GGUF's formats and what the PyPI package `gguf` (0.18 or newer) makes of them.

    pip install gguf numpy && python blocks.py
"""

import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Q, quants

SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}
SIZES = {"Q8_0": 34, "Q4_0": 18, "Q4_K": 144, "Q6_K": 210}
rng = np.random.default_rng(7)
out = {}
for name, size in SIZES.items():
    blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
    for at in SCALES[name]:
        blocks[:, at:at + 2] = rng.normal(0, 0.05, 2).astype("<f2").view(np.uint8).reshape(2, 2)
    values = quants.dequantize(blocks, Q[name]).reshape(-1)
    out[name] = dict(bytes=blocks.tobytes().hex(), values=[float(v) for v in values])
pathlib.Path(__file__).with_name("blocks.json").write_text(json.dumps(out))
