"""What lm-evaluation-harness' own model of Hugging Face makes of an exported folder; run by tests/scoring/test_lm_eval.py, which puts
both programs on the path.

    python -m tests.scoring.hflm_program FOLDER REQUESTS.json OUT.json

REQUESTS: {"pairs": [[context, continuation], …], "texts": [text, …]}; OUT: {"pairs": [[nats, greedy], …], "texts": [nats, …]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import torch


def main() -> int:
    from transformers import GPT2LMHeadModel, GPT2TokenizerFast  # type: ignore[import-not-found,unused-ignore]

    folder, requests, out = map(Path, sys.argv[1:])
    given = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    # It imports accelerate to place models on several GPUs, which is in no lock of ours and is not used here.
    unused = mock.MagicMock()
    with mock.patch.dict(sys.modules, {"accelerate": unused, "accelerate.utils": unused.utils}):
        from lm_eval.api.instance import Instance  # type: ignore[import-not-found,unused-ignore]
        from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found,unused-ignore]

        model = HFLM(pretrained=given, tokenizer=tokenizer, batch_size=2)
    asked = json.loads(requests.read_text())
    pairs = [Instance("loglikelihood", {}, tuple(pair), 0) for pair in asked["pairs"]]
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in asked["texts"]]
    found = {"pairs": model.loglikelihood(pairs), "texts": model.loglikelihood_rolling(texts)}
    out.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
