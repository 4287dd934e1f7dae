"""One training step and what it is made of: lanes, feed, exchange, schedule, outliers.

May a bit change here? Yes: what is added to what, and how weights are updated.
"""
