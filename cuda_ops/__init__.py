"""The arithmetic and its kernels, for CPUs and (under kernels/) for GPUs.

numerics/ is the definition, cpu/ how a CPU walks it, ops/ the Python face. Nothing here knows of models or files.
"""
