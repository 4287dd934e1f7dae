"""The pages that a reader opens: charts and templates.

May a bit change here? Never: a page shows what others wrote, and is in no list of digests.
"""
