"""The actor tier: whole nodes, with every actor, the real codec, log and gateway, in one Trio run.

Clock, scheduler, network and disks are simulated, all from one seed, so the same seed gives the same run,
event by event, anywhere. `play` is a storm with clients and operators at work, then a calm in which the
cluster must serve everyone and become whole, then the account.
"""

from .run import play

__all__ = ["play"]
