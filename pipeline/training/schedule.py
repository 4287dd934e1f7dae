"""Learning rate and bias corrections as pure functions of the step, without libm.

Only IEEE double + - * / and sqrt are used, which are the same everywhere; the result is rounded to fp32 once. The shapes
are those of llm.c's schedulers (llmc/schedulers.h); steps count from 1.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.recipe.training import Decay, Phases, Schedule

PI = 3.141592653589793


def cos_pi(x: float) -> float:
    """cos(pi x) for x in [0, 1], by the Taylor series to x^22 after folding at 1/2; error below 1e-15."""
    if x > 0.5:
        return -cos_pi(1.0 - x)
    z = (PI * x) * (PI * x)
    total = 1.0
    for k in range(22, 0, -2):  # Horner from the smallest term: 1 - z/2 (1 - z/12 (1 - ...))
        total = 1.0 - z / float(k * (k - 1)) * total
    return total


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The fp32 learning rate of a step in 1 .. steps."""
    if isinstance(schedule, Phases):
        return float(np.float32([phase.rate for phase in schedule.phases if phase.first <= step][-1]))
    return decayed(schedule, step, steps)


def decayed(schedule: Decay, step: int, steps: int) -> float:
    """Warm-up, then a decay from the peak to a fraction of it."""
    done, warmup = step - 1, schedule.warmup_steps
    if done < warmup:
        return float(np.float32(schedule.peak * float(step) / float(warmup)))
    ratio = float(done - warmup) / float(max(1, steps - warmup))
    if schedule.kind == "cosine":
        factor = 0.5 * (1.0 + cos_pi(ratio))
    elif schedule.kind == "linear":
        factor = 1.0 - ratio
    elif schedule.kind == "wsd":  # constant, then 1 - sqrt over the last fifth
        start = float(steps) * 0.8
        late = (float(done) - start) / (float(steps) - start)
        factor = 1.0 - math.sqrt(late) if late > 0.0 else 1.0
    else:
        factor = 1.0
    if schedule.kind == "constant":
        return float(np.float32(schedule.peak))
    final = schedule.final_fraction
    return float(np.float32(schedule.peak * (final + (1.0 - final) * factor)))


def bias_correction(beta: float, step: int) -> float:
    """fp32 of 1 - beta^step, the power by squaring from the highest bit down, in double."""
    power = 1.0
    for bit in bin(step)[2:]:
        power = power * power
        if bit == "1":
            power = power * beta
    return float(np.float32(1.0 - power))
