import cuda_ops  # noqa: F401  before torch, see there
