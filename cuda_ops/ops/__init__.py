"""The ops: typed, in place, each with its shapes and the order of its sums. Importing loads the compiled library."""

from cuda_ops.ops.adamw import adamw
from cuda_ops.ops.add import add
from cuda_ops.ops.attention import attention_cached, attention_forward
from cuda_ops.ops.attention_backward import attention_backward
from cuda_ops.ops.attention_digits import attention_digits_cached, attention_digits_forward
from cuda_ops.ops.attention_digits_backward import attention_digits_backward
from cuda_ops.ops.bias import bias_backward
from cuda_ops.ops.cross_entropy import cross_entropy_forward, cross_entropy_fused
from cuda_ops.ops.digits import digits, digits_bytes
from cuda_ops.ops.embedding import embedding_add, embedding_backward, embedding_forward
from cuda_ops.ops.fill import fill_normal, fill_uniform
from cuda_ops.ops.fingerprint import fingerprint, fingerprint_into
from cuda_ops.ops.gelu import gelu_backward, gelu_forward
from cuda_ops.ops.layernorm import layernorm_backward, layernorm_forward
from cuda_ops.ops.matmul import matmul
from cuda_ops.ops.matmul_digits import matmul_digits, matmul_kept_digits
from cuda_ops.ops.nonfinite import first_nonfinite, first_nonfinite_into
from cuda_ops.ops.norm import NORM_CHUNK, norm_partials
from cuda_ops.ops.sample import sample
from cuda_ops.ops.step_scalars import step_scalars
from cuda_ops.ops.sums import chain_sum, tree_sum
from cuda_ops.ops.unary import FUNCTIONS, unary

__all__ = [
    "FUNCTIONS",
    "NORM_CHUNK",
    "adamw",
    "add",
    "attention_backward",
    "attention_cached",
    "attention_digits_backward",
    "attention_digits_cached",
    "attention_digits_forward",
    "attention_forward",
    "bias_backward",
    "chain_sum",
    "cross_entropy_forward",
    "cross_entropy_fused",
    "digits",
    "digits_bytes",
    "embedding_add",
    "embedding_backward",
    "embedding_forward",
    "fill_normal",
    "fill_uniform",
    "fingerprint",
    "fingerprint_into",
    "first_nonfinite",
    "first_nonfinite_into",
    "gelu_backward",
    "gelu_forward",
    "layernorm_backward",
    "layernorm_forward",
    "matmul",
    "matmul_digits",
    "matmul_kept_digits",
    "norm_partials",
    "sample",
    "step_scalars",
    "tree_sum",
    "unary",
]
