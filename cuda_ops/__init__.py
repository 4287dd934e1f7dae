"""The arithmetic and its kernels, for CPUs and (under kernels/) for GPUs.

numerics/ is the definition, cpu/ how a CPU walks it, ops/ the Python face. Nothing here knows of models or files.

May a bit change here? Yes: every bit is made here.
"""
