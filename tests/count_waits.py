"""Count where the host would wait for a GPU, in code that runs on a CPU.

On a CPU all tensors are alike, so this follows which ones the host holds: those that were made without a device, what
``cpu`` returns, and what follows from them alone. All others stand for a GPU's. The host waits where it reads such a
tensor, where a shape depends on its values, and where it copies from its ordinary memory.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {"cpu", "item", "tolist", "numpy", "nonzero", "masked_select", "unique", "argwhere", "equal", "allclose"}
_READS |= {"__bool__", "__int__", "__float__", "__index__", "is_nonzero"}
_MAKERS = {"tensor", "zeros", "ones", "empty", "full", "arange", "from_numpy", "scalar_tensor", "linspace"}
_NEW = {"new_tensor", "as_tensor"}
_OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"}
_ASYNCHRONOUS = "copy_to_device"


class CountWaits(TorchFunctionMode):
    """``waits`` counts by the name of the operation and the line that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.on_host = False
        """Whether the function that runs now has tensors of the host only."""
        self._host: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        given = [each for each in _flatten((args, kwargs)) if isinstance(each, Tensor)]
        devices = [each for each in given if id(each) not in self._host]
        if self._must_wait(name, args, kwargs, devices):
            self.waits[f"{name} at {_find_line()}"] += 1
        outer, self.on_host = self.on_host, bool(given) and not devices
        result = func(*args, **kwargs)
        self.on_host = outer
        if name == "cpu":
            result = result.clone()  # a tensor of its own, as a copy from a GPU is
        made_here = name in _MAKERS and kwargs.get("device") is None and not devices
        if name == "cpu" or made_here or (given and not devices and not self._goes_to_device(name, args, kwargs)):
            for each in _flatten(result):
                if isinstance(each, Tensor):
                    self._host[id(each)] = each
        elif name == "to" and self._goes_to_device(name, args, kwargs):
            result = result.clone()
        return result

    def _must_wait(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], devices: list[Tensor]) -> bool:
        if name in _READS:
            return bool(devices)
        if name == "__getitem__":
            return bool(devices) and _masks(args[1])
        if name == "__setitem__":
            value = args[2]
            onto_device = id(args[0]) not in self._host
            from_host = not isinstance(value, Tensor) or id(value) in self._host
            return onto_device and (from_host or _masks(args[1]))
        if name in _NEW:
            return bool(devices)
        if name == "tensor":
            return kwargs.get("device") is not None
        goes = self._goes_to_device(name, args, kwargs)
        return goes and not devices and _ASYNCHRONOUS not in _find_callers()

    def _goes_to_device(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return name == "to" and any(isinstance(each, torch.device) for each in (*args[1:], *kwargs.values()))


class CountReads(TorchDispatchMode):
    """``reads`` counts the operators that make a host wait wherever they come from: also within torch's own code.

    What ``waits`` knows to be of the host is left out.
    """

    def __init__(self, waits: CountWaits) -> None:
        super().__init__()
        self._waits = waits
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masked = name in ("index", "index_put", "index_put_") and _masks(args[1])
        if not self._waits.on_host and (masked or name in _OPERATORS):
            self.reads[f"{name} at {_find_line()}"] += 1
        return func(*args, **(kwargs or {}))


def _masks(index: Any) -> bool:
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in _flatten(index))


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [each for part in value for each in _flatten(part)]
    return [value]


def _find_callers() -> list[str]:
    return [frame.function for frame in inspect.stack(context=0)]


def _find_line() -> str:
    """The nearest line of ours."""
    for frame in inspect.stack(context=0):
        if "/src/ropewalk/" in frame.filename:
            return f"{frame.filename.rpartition('/src/ropewalk/')[2]}:{frame.lineno}"
    return "torch"
