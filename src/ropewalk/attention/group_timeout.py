"""The timeout of a group's messages, for groups of some of its ranks.

torch gives a new group 30 minutes, whatever the timeout of the ranks' common group is. A recipe may allow longer steps,
and no message of such a step may end it, whichever group carries it.
"""

from datetime import timedelta

import torch.distributed as dist


def read_timeout(group: dist.ProcessGroup) -> timedelta | None:
    """The longest timeout of the group's backends; None where they have none, as torch's fake backend."""
    options = [getattr(group._get_backend(device), "options", None) for device in group._device_types]
    return max((each._timeout for each in options if each is not None), default=None)
