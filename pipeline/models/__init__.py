"""The models, each with explicit forward and backward passes over the ops.

May a bit change here? Yes: which ops run, in which order, on what.
"""
