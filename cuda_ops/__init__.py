"""The arithmetic and its kernels, for CPUs and (under kernels/) for GPUs.

numerics/ is the definition, cpu/ how a CPU walks it, ops/ the Python face. Nothing here knows of models or files.

May a bit change here? Yes: every bit is made here.
"""

import os

# How often OpenMP's threads look before they sleep. By default they spin for a tenth of a second, in each other's way where
# another program runs on the same cores (benchmarks/busy.py). libgomp reads it once, when it is loaded: so before torch.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"
