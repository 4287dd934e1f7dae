"""pipeline.train, where the chain's disk takes only what it begins with, and rank 0 is slow after it has saved:

python -m tests.training.slow_disk --ranks 2 and the flags of pipeline.train
"""

from __future__ import annotations

import errno
import os
import time

from cuda_ops.errors import exit_on_user_error
from pipeline import train
from pipeline.base.checkpoint import Rolling
from pipeline.base.files import Growing, refused
from pipeline.machine.launch import launch

write, prune = Growing.write, Rolling.prune
begun: set[Growing] = set()


def full(self: Growing, content: bytes) -> None:
    if self not in begun:
        begun.add(self)
        write(self, content)
        return
    with refused(self.path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def slow(self: Rolling) -> None:
    time.sleep(2)
    prune(self)


if __name__ == "__main__":
    Growing.write, Rolling.prune = full, slow  # type: ignore[method-assign]
    train.launch = lambda execution, module: launch(execution, "tests.training.slow_disk")
    exit_on_user_error(train.main)
