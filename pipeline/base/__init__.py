"""Files written whole, chains, checkpoints, random numbers: what every other room stands on.

May a bit change here? Yes: the bytes of a chain and of a checkpoint, and every Philox word.
"""
