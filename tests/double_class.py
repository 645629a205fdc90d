"""A class of transformers whose recurrences and norms compute in float64, for bars that its float32 would hide.

The torch functions of its recurrent layers cast to float32 in any dtype. So the class's own source is run once more,
with float64 in place of float32; nothing of transformers changes.
"""

import inspect
import sys
from functools import cache
from types import ModuleType

from transformers import PreTrainedModel


@cache
def double_class(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """``kind`` from the same source, with ``torch.float32`` and ``.float()`` replaced by their double ones."""
    own = sys.modules[kind.__module__]
    source = inspect.getsource(own).replace("torch.float32", "torch.float64").replace(".float()", ".double()")
    made = ModuleType(own.__name__)
    made.__package__, made.__file__ = own.__package__, own.__file__
    exec(compile(source, own.__file__ or own.__name__, "exec"), made.__dict__)
    found: type[PreTrainedModel] = getattr(made, kind.__name__)
    return found
