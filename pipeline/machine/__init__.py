"""How a machine runs a recipe: ranks, devices, graphs, memory.

May a bit change here? Never: execution decides who computes what, and when, and no order of any sum.
"""
