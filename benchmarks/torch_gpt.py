"""GPT-2 as a plain PyTorch module: what the benchmarks run against and what tests compare losses with."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from pipeline.recipe import Gpt as Config


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config.channels
        self.heads = config.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(c, 3 * c), "proj": nn.Linear(c, c)})
        self.mlp = nn.ModuleDict({"fc": nn.Linear(c, 4 * c), "proj": nn.Linear(4 * c, c)})

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.attn["qkv"](self.ln_1(x)).split(c, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["proj"](y.transpose(1, 2).reshape(b, t, c))
        wide = functional.gelu(self.mlp["fc"](self.ln_2(x)), approximate="tanh")
        out: Tensor = x + self.mlp["proj"](wide)
        return out


class TorchGpt(nn.Module):
    """The recipe's model without padded vocabulary rows; parameter names are ours."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.channels)
        self.wpe = nn.Embedding(config.context, config.channels)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.channels)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over our weights by name; padded rows are left out."""
        weights = weights | {"wte.weight": weights["wte.weight"][: self.config.vocab_size]}
        self.load_state_dict(weights)

    def named_gradients(self) -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in self.named_parameters() if parameter.grad is not None}

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return functional.linear(self.ln_f(x), self.wte.weight)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        logits = self.forward(tokens)
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
