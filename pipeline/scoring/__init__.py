"""What a checkpoint is worth: losses, scores, draws, by a model without its trainer.

May a bit change here? Yes: those of evaluations and samples. None of training.
"""
