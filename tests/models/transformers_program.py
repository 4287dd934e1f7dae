"""What Hugging Face's transformers makes of exported folders; run by tests/models/test_weights.py, whose folder of it is on the
path.

    python -m tests.models.transformers_program OUT FOLDER…

Writes OUT/<folder>.npz with tokens [2, T], logits [2, T, V] and the greedy continuation of each row by 6 tokens; and, at
OUT/random, a GPT2LMHeadModel of its own with OUT/random.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

NEW = 6


def judged(model: Any, out: Path, seed: int) -> None:
    """Logits and greedy tokens of a model for two rows of random tokens."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocab_size, (2, config.n_positions - NEW), generator=generator)
    with torch.no_grad():
        logits = model(tokens).logits
        row = tokens
        for _ in range(NEW):  # greedy by hand: generate() would stop at its end-of-text token
            row = torch.cat([row, model(row).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    np.savez(out, tokens=tokens.numpy(), logits=logits.numpy(), greedy=row[:, tokens.shape[1] :].numpy())


def main() -> int:
    from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found]

    out, folders = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    for folder in folders:
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr(), "the head is not tied"
        judged(model, out / f"{folder.name}.npz", 1)
    torch.manual_seed(3)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 48, "n_positions": 20, "vocab_size": 101}
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=0)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out / "random")
    judged(model, out / "random.npz", 2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
