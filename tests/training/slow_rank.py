"""pipeline.train, whose rank 0 is slow where it knows why the run ends.

python -m tests.training.slow_rank --ranks 2 and the flags of pipeline.train

After it has saved because the chain's disk is full, which takes only what a chain begins with; and before it has looked
for what is not finite.
"""

from __future__ import annotations

import errno
import os
import time

from cuda_ops.errors import exit_on_user_error
from pipeline import train
from pipeline.base.checkpoint import Rolling
from pipeline.base.files import Growing, refused
from pipeline.machine import launch as launcher
from pipeline.training.trainer import Trainer

write, prune, diagnose, launch = Growing.write, Rolling.prune, Trainer._diagnose, launcher.launch
begun: set[Growing] = set()


def full(self: Growing, content: bytes) -> None:
    if self not in begun:
        begun.add(self)
        write(self, content)
        return
    with refused(self.path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def slow_end(self: Rolling) -> None:
    time.sleep(2)
    prune(self)


def slow_look(self: Trainer, step: int, loss: float, norm: float) -> str:
    time.sleep(2 if self.ranks.first else 0)
    return diagnose(self, step, loss, norm)


if __name__ == "__main__":
    Growing.write, Rolling.prune, Trainer._diagnose = full, slow_end, slow_look  # type: ignore[method-assign]
    launcher.GRACE = 0.2
    train.launch = lambda execution, module: launch(execution, "tests.training.slow_rank")
    exit_on_user_error(train.main)
