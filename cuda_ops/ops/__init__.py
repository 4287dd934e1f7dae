"""The ops: typed, in place, each with its shapes and the order of its sums. Importing loads the compiled library."""

from cuda_ops.ops._registry import SOURCE_DIGEST
from cuda_ops.ops.adamw import adamw
from cuda_ops.ops.attention import attention_backward, attention_cached, attention_forward
from cuda_ops.ops.cross_entropy import chain_sum, cross_entropy_forward, cross_entropy_fused
from cuda_ops.ops.device import device_archs, require_cuda
from cuda_ops.ops.embedding import embedding_add, embedding_backward, embedding_forward
from cuda_ops.ops.fill import fill_normal, fill_uniform
from cuda_ops.ops.fingerprint import fingerprint, fingerprint_into, first_nonfinite, first_nonfinite_into
from cuda_ops.ops.gelu import gelu_backward, gelu_forward
from cuda_ops.ops.layernorm import layernorm_backward, layernorm_forward
from cuda_ops.ops.matmul import bias_backward, matmul
from cuda_ops.ops.norm import NORM_CHUNK, norm_partials, tree_sum
from cuda_ops.ops.residual import residual_forward
from cuda_ops.ops.sample import sample
from cuda_ops.ops.threads import isa, set_threads
from cuda_ops.ops.unary import FUNCTIONS, unary

__all__ = [
    "FUNCTIONS", "NORM_CHUNK", "SOURCE_DIGEST", "adamw", "attention_backward", "attention_cached", "attention_forward",
    "bias_backward", "chain_sum", "cross_entropy_forward", "cross_entropy_fused", "device_archs", "embedding_add", "embedding_backward",
    "embedding_forward", "fill_normal", "fill_uniform", "fingerprint", "fingerprint_into", "first_nonfinite",
    "first_nonfinite_into", "gelu_backward", "gelu_forward", "isa", "layernorm_backward", "layernorm_forward", "matmul", "norm_partials", "require_cuda",
    "residual_forward", "sample", "set_threads", "tree_sum", "unary",
]  # fmt: skip
