"""Every file here is a command, `python -m pipeline.<name>`; what commands share stands in a room, a folder whose first
lines say whether a bit may change there. Imports go down only: docs/rooms.svg.
"""

import cuda_ops  # noqa: F401  before torch, see there
