"""Steps computed again, traces, comparisons of two runs, and what they accuse.

May a bit change here? Never: it reads results, and computes them again by the rooms below.
"""
