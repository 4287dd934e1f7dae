"""From a source to the samples of a step: documents, tokenizers, shards, windows.

May a bit change here? Yes: which tokens there are, and which sample of the run reads which.
"""
