"""What is written about a run: its artefacts, their digests, receipts, provenance, the digest of the code.

May a bit change here? Never: a record is made of results that are there already.
"""
