"""Decides what is trained when: levels unlock in turn, rates rise and fall, scans get worse later.

Plain Python over counts and shares of the run; no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

UNLOCK_AT = (0.90, 0.90, 0.91, 0.91)  # next-token accuracy on the newest level
FINAL_MIX = (0.09, 0.17, 0.18, 0.26, 0.30)
NEWEST_SHARE = 0.55  # of the batches, until the next level unlocks
WARM_UP_STEPS = 150
FALL_FROM = 0.2  # share of the run after which rates fall, linearly to 0
ROUGH_FROM, ROUGH_FULL, ROUGH_SHARE = 0.35, 0.50, 0.25
AVERAGE_KEEP = 0.999
REMEMBER = 0.6  # of the accuracy, per reading of the log


@dataclass
class Curriculum:
    """Which levels are unlocked, from the accuracy seen on the newest one."""

    levels: int
    unlocked: int = 1
    accuracy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accuracy = self.accuracy or [0.0] * self.levels

    def mix(self) -> tuple[float, ...]:
        """Return the share of the batches of each level."""
        if self.unlocked == self.levels:
            return FINAL_MIX[: self.levels]
        older = self.unlocked - 1
        shares = [(1 - NEWEST_SHARE) * (n + 1) / sum(range(1, older + 1)) for n in range(older)]
        newest = [NEWEST_SHARE if older else 1.0]
        return tuple(shares + newest + [0.0] * (self.levels - self.unlocked))

    def observe(self, level: int, accuracy: float) -> bool:
        """Take in a mean accuracy on a level; return whether that unlocked the next one."""
        self.accuracy[level] = REMEMBER * self.accuracy[level] + (1 - REMEMBER) * accuracy
        newest = self.unlocked - 1
        if level != newest or self.unlocked == self.levels or self.accuracy[newest] < UNLOCK_AT[newest]:
            return False
        self.unlocked += 1
        return True


def rate(step: int, progress: float) -> float:
    """Return 0 to 1, times each optimiser's own rate; progress is the share of the run's time passed."""
    falling = (1 - progress) / (1 - FALL_FROM)
    return max(0.0, min(1.0, (step + 1) / WARM_UP_STEPS, falling))


def rough_share(progress: float) -> float:
    """Return the share of the pages that look badly scanned."""
    risen = (progress - ROUGH_FROM) / (ROUGH_FULL - ROUGH_FROM)
    return ROUGH_SHARE * min(1.0, max(0.0, risen))


def average_keep(step: int) -> float:
    """Return the EMA decay, short while the weights still move a lot."""
    return min(AVERAGE_KEEP, (step + 1) / (step + 10))
