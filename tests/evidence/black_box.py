"""The black box: the tree of every sum of ours, revealed from outside, beside the tree that docs/numerics.md specifies.

    python -m tests.evidence.black_box         writes docs/evidence/black_box.json
    matmul nt              67 terms  chain            equal
    ...

Each case presents an op as a sum of n terms (trees.py) and nothing of its code. Then the same of PyTorch and NumPy,
as contrast: these trees depend on the library, and some results fit no binary tree of fp32 additions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cuda_ops import ops
from pipeline.training.lanes import LaneCounter, tree_over_rows
from tests.evidence import trees
from tests.evidence.common import save
from tests.evidence.trees import Tree

Array = np.ndarray
Case = tuple[
    int, Callable[[Array], Any], Tree, str, bool
]  # terms, the sum, the specified tree, its name, positive terms


def tensor(x: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def matmul(layout: str, accumulate: bool = False) -> Callable[[Array], Array]:
    """Terms are products with 1; with accumulate, what the output holds is the first term."""

    def add(terms: Array) -> Array:
        rows = len(terms)
        out = torch.zeros(rows, 3)
        if accumulate:
            out[:] = tensor(terms[:, :1])
            terms = terms[:, 1:]
        a = tensor(terms.T if layout == "tn" else terms)
        b = torch.ones((3, terms.shape[1]) if layout == "nt" else (terms.shape[1], 3))
        ops.matmul(out, a, b, layout=layout, accumulate=accumulate)
        return out[:, 2].numpy()

    return add


def blocks_of_digits(tier: str, layout: str, block: int) -> Callable[[Array], Array]:
    """Each term is alone in a block of its own; tn: in a sequence of its own."""

    def add(terms: Array) -> Array:
        rows, n = terms.shape
        a = torch.zeros(rows, n, block)
        a[:, :, -1] = tensor(terms)
        a, out = a.view(rows, -1), torch.zeros(rows, 3)
        b = torch.ones((3, n * block) if layout == "nt" else (n * block, 3))
        if layout == "tn":
            a = a.t().contiguous()
        ops.matmul_digits(out, a, b, None, layout, layout == "tn", tier, block if layout == "tn" else 0)
        return out[:, 2].numpy()

    return add


def within_a_block(tier: str) -> Callable[[Array], Array]:
    """Terms of one block, products with 1."""

    def add(terms: Array) -> Array:
        out = torch.zeros(len(terms), 3)
        ops.matmul_digits(out, tensor(terms), torch.ones(3, terms.shape[1]), None, "nt", False, tier, 0)
        return out[:, 2].numpy()

    return add


def layernorm_mean(terms: Array) -> Array:
    rows, c = terms.shape
    out, mean, rstd = torch.zeros(1, rows, c), torch.zeros(1, rows), torch.zeros(1, rows)
    ops.layernorm_forward(out, mean, rstd, tensor(terms)[None], torch.ones(c), torch.zeros(c))
    return mean[0].numpy() * c


def layernorm_backward_mean(terms: Array) -> Array:
    """The mean of dout * weight, seen in dinp = (g - mean) rstd where x = mean: one more term, the last, is watched."""
    rows, c = terms.shape
    dinp = torch.zeros(1, rows, c)
    zeros, ones = torch.zeros(1, rows), torch.ones(1, rows)
    ops.layernorm_backward(dinp, torch.zeros(c), torch.zeros(c), tensor(terms)[None], None, torch.zeros(1, rows, c),
                           torch.ones(c), zeros, ones)  # fmt: skip
    watched = np.argmax(terms == 1, axis=1)
    return (1 - dinp[0].numpy()[np.arange(rows), watched]) * c


def columns(kind: str, sequences: int) -> Callable[[Array], Array]:
    """One column per row of terms; the tokens are the terms."""

    def add(terms: Array) -> Array:
        c, t = len(terms), terms.shape[1] // sequences
        dout = tensor(terms.T).view(sequences, t, c)
        total, other = torch.zeros(c), torch.zeros(c)
        if kind == "bias":
            ops.bias_backward(total, dout)
        else:
            scratch, ones = torch.zeros(sequences, t, c), torch.ones(sequences, t)
            pair = (total, other) if kind == "dweight" else (other, total)
            ops.layernorm_backward(scratch, *pair, dout, None, torch.ones(sequences, t, c), torch.ones(c),
                                   torch.zeros(sequences, t), ones)  # fmt: skip
        return total.numpy()

    return add


def embedding(table: str) -> Callable[[Array], Array]:
    """Every term is a token 0 of its own sequence of one token, so that both tables add them all."""

    def add(terms: Array) -> Array:
        c, n = len(terms), terms.shape[1]
        dwte, dwpe = torch.zeros(2, c), torch.zeros(1, c)
        ops.embedding_backward(dwte, dwpe, tensor(terms.T).view(n, 1, c), torch.zeros(n, 1, dtype=torch.int32))
        return (dwte if table == "wte" else dwpe)[0].numpy()

    return add


def cross_entropy(terms: Array) -> Array:
    """Terms are exponentials of logits, the target is the largest: the loss is log(sum)."""
    losses, targets = torch.zeros(len(terms)), torch.from_numpy(np.argmax(terms, axis=1).astype(np.int32))
    ops.cross_entropy_forward(losses, tensor(logarithms(terms)), targets, terms.shape[1])
    return losses.numpy() != 0


def logarithms(terms: Array) -> Array:
    return np.where(terms > 0, np.log(np.maximum(terms, 1e-30)), -104).astype(np.float32)


def attend(q: Array, k: Array, v: Array) -> Array:
    """Output of the last query: [rows, head size] for q, k, v [rows, T, head size]."""
    rows, t, size = q.shape
    out, row_max, row_sum = torch.zeros(rows, t, size), torch.zeros(rows, 1, t), torch.zeros(rows, 1, t)
    ops.attention_forward(out, row_max, row_sum, tensor(np.concatenate([q, k, v], axis=2)), 1)
    return out[:, -1].numpy()


def attention_scores(terms: Array) -> Array:
    """q . k over the head's channels, read from the share of two keys; the second key's score is 0."""
    rows, size = terms.shape
    q, k, v = (np.zeros((rows, 2, size), np.float32) for _ in range(3))
    q[:, 1], k[:, 0], v[:, 0] = terms, 1, 1
    share = attend(q, k, v)[:, 0].astype(np.float64)
    return np.log(share / (1 - share)) * np.sqrt(size)


def attention_sum(terms: Array) -> Array:
    """The sum of exponentials: the value of the largest key is 1, of the others 0, so the output is 1 / sum."""
    rows, t = terms.shape
    q, k, v = (np.zeros((rows, t, 16), np.float32) for _ in range(3))
    q[:, :, 0] = 4.0  # scale is 1/4
    k[:, :, 0] = logarithms(terms)
    v[np.arange(rows), np.argmax(terms, axis=1), 0] = 1
    return attend(q, k, v)[:, 0] != 1


def attention_values(terms: Array) -> Array:
    rows, t = terms.shape
    zero, v = np.zeros((rows, t, 4), np.float32), np.zeros((rows, t, 4), np.float32)
    v[:, :, 1] = terms
    return attend(zero, zero, v)[:, 1] * t


def attention_dv(terms: Array) -> Array:
    """The gradient of the first value: every query attends to the first key alone."""
    rows, t = terms.shape
    q, k, v = (np.zeros((rows, t, 4), np.float32) for _ in range(3))
    q[:, :, 0], k[:, 0, 0] = 2, 200
    qkv = tensor(np.concatenate([q, k, v], axis=2))
    out, row_max, row_sum = torch.zeros(rows, t, 4), torch.zeros(rows, 1, t), torch.zeros(rows, 1, t)
    ops.attention_forward(out, row_max, row_sum, qkv, 1)
    dout, dqkv = torch.zeros(rows, t, 4), torch.zeros(rows, t, 12)
    dout[:, :, 2] = tensor(terms)
    ops.attention_backward(dqkv, dout, out, qkv, row_max, row_sum, 1)
    return dqkv[:, 0, 8 + 2].numpy()


def norm(terms: Array) -> Array:
    """Terms are squares."""
    rows, n = terms.shape
    partials = torch.zeros(rows)
    ops.norm_partials(partials, tensor(np.sqrt(terms)).view(-1), n)
    return partials.numpy() > 1


def scalar_sum(op: Callable[[Tensor, Tensor], None]) -> Callable[[Array], Array]:
    def add(terms: Array) -> Array:
        sums = torch.zeros(len(terms), 1)
        for total, row in zip(sums, tensor(terms), strict=True):
            op(total, row)
        return sums[:, 0].numpy()

    return add


def lanes(ranks: int) -> Callable[[Array], Array]:
    """Each rank pushes the gradients of its lanes; the ranks' sums are added as after the exchange."""

    def add(terms: Array) -> Array:
        each = terms.shape[1] // ranks
        sums = []
        for rank in range(ranks):
            counter = LaneCounter(each, lambda: torch.zeros(len(terms)))
            for lane in range(rank * each, (rank + 1) * each):
                gradient = counter.fresh()
                gradient.copy_(tensor(terms[:, lane]))
                total = counter.push(gradient, 0, len(terms))
            sums.append(total.clone())
        return tree_over_rows(torch.stack(sums)).numpy()

    return add


def cases() -> dict[str, Case]:
    n67, n64, n40, n8 = ([*range(n)] for n in (67, 64, 40, 8))
    made: dict[str, Case] = {}

    def case(
        name: str, leaves: list[int], add: Callable[[Array], Any], tree: Tree, order: str, positive: bool = False
    ) -> None:
        made[name] = (len(leaves), add, tree, order, positive)

    for layout in ("nt", "nn", "tn"):
        case(f"matmul {layout}", n67, matmul(layout), trees.chain([*n67]), "chain")
        case(f"matmul {layout}, continued", n67, matmul(layout, True), trees.chain([*n67]), "chain")
    case("matmul nt, long", [*range(515)], matmul("nt"), trees.chain([*range(515)]), "chain")
    for tier in ("int8x3", "int8x1"):
        case(f"matmul {tier} nt, blocks", n40, blocks_of_digits(tier, "nt", 128), trees.chain([*n40]), "chain")
        case(f"matmul {tier} tn, sequences", n40, blocks_of_digits(tier, "tn", 5), trees.chain([*n40]), "chain")
    case("LayerNorm mean", n40, layernorm_mean, trees.reduction([*n40]), "row reduction")
    case("LayerNorm mean, wide", [*range(100)], layernorm_mean, trees.reduction([*range(100)]), "row reduction")
    case("LayerNorm backward, mean of g", n64, layernorm_backward_mean, trees.reduction([*n64]), "row reduction")
    case("cross-entropy sum", n40, cross_entropy, trees.reduction([*n40]), "row reduction", True)
    case("gradient norm, one chunk", n40, norm, trees.reduction([*n40]), "row reduction", True)
    two = trees.chain([trees.reduction([*range(40)]), trees.reduction([*range(40, 80)])])
    for kind in ("bias", "dweight", "dbias"):
        name = "bias gradient" if kind == "bias" else f"LayerNorm {kind}"
        case(f"{name}, one sequence", n67, columns(kind, 1), trees.reduction([*n67]), "column reduction")
        case(f"{name}, two sequences", [*range(80)], columns(kind, 2), two, "column reductions in a chain")
    for table in ("wte", "wpe"):
        case(f"embedding gradient {table}", n40, embedding(table), trees.chain([*n40]), "chain")
    case("attention q.k", [*range(32)], attention_scores, trees.chain([*range(32)]), "chain")
    case("attention sum of exponentials", n40, attention_sum, trees.chain([*n40]), "chain", True)
    case("attention p.v", n64, attention_values, trees.chain([*n64]), "chain")
    case("attention dv", n64, attention_dv, trees.chain([*n64]), "chain")
    case("loss of a lane", n40, scalar_sum(ops.chain_sum), trees.chain([*n40]), "chain")
    case("tree over chunks", [*range(11)], scalar_sum(ops.tree_sum), trees.pairwise([*range(11)]), "pairwise tree")
    for ranks in (1, 2, 4, 8):
        case(f"lanes, {ranks} ranks", n8, lanes(ranks), trees.pairwise([*n8]), "pairwise tree")
    return made


def revealed(case: Case) -> Tree:
    n, add, _, _, positive = case
    return trees.ordered((trees.positive if positive else trees.signed)(add, n))


def foreign() -> dict[str, tuple[int, Callable[[Array], Any]]]:
    """Sums of PyTorch and NumPy."""
    return {
        "torch.sum, 64 terms": (64, lambda t: tensor(t).sum(1).numpy()),
        "torch.sum of each row alone, 64 terms": (64, lambda t: np.array([tensor(row).sum().item() for row in t])),
        "torch.mm, 64 terms": (64, lambda t: (tensor(t) @ torch.ones(64, 3))[:, 1].numpy()),
        "torch.mm of one row, 64 terms": (
            64,
            lambda t: np.array([(tensor(r)[None] @ torch.ones(64, 64))[0, 1] for r in t]),
        ),
        "torch.mm, 515 terms": (515, lambda t: (tensor(t) @ torch.ones(515, 3))[:, 1].numpy()),
        "torch.mv, 64 terms": (64, lambda t: np.array([(tensor(r)[None] @ torch.ones(64)).item() for r in t])),
        "numpy.sum, 64 terms": (64, lambda t: t.sum(axis=1)),
        "numpy.dot, 64 terms": (64, lambda t: np.array([row @ np.ones(64, np.float32) for row in t])),
        "layer_norm's mean, 64 terms": (64, layer_norm_mean),
    }


def layer_norm_mean(terms: Array) -> Array:
    _, mean, _ = torch.native_layer_norm(tensor(terms), [terms.shape[1]], None, None, 1e-5)
    return mean.view(-1).numpy() * terms.shape[1]


def name_of(tree: Tree, n: int) -> str:
    """Which order of docs/numerics.md this is, if any."""
    orders = {"chain": trees.chain, "row reduction": trees.reduction, "pairwise tree": trees.pairwise}
    return next((name for name, order in orders.items() if trees.ordered(order([*range(n)])) == tree), "another tree")


def main() -> None:
    ours, theirs = [], []
    for name, case in cases().items():
        tree = revealed(case)
        equal = tree == trees.ordered(case[2])
        ours.append({"sum": name, "terms": case[0], "order": case[3], "equal": equal, "tree": trees.text(tree)})
        print(
            f"{name:34} {case[0]:5} terms  {case[3]:30} {'equal' if equal else 'DIFFERS: ' + trees.text(tree)}",
            flush=True,
        )
    for name, (n, add) in foreign().items():
        try:
            tree = trees.ordered(trees.signed(add, n))
            found, shown = name_of(tree, n), trees.text(tree)
        except trees.NotATree as error:
            found, shown = "no binary tree of fp32 additions", str(error)
        theirs.append({"sum": name, "order": found, "tree": shown})
        print(f"{name:40} {found}: {shown}")
    save("black_box", {"ours": ours, "all_equal": all(x["equal"] for x in ours), "contrast": theirs})


if __name__ == "__main__":
    main()
