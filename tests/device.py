"""A device that is computed on the CPU, and notes when the host would wait for it, as it would for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"  # that of torch's devices which every build knows and which holds no numbers of its own

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default,
    _aten._unique2.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
}  # whose results, or their sizes, the host has to know
_TAKE = {_aten.index.Tensor, _aten.index_put_.default, _aten.copy_.default}  # tensors of the CPU as well
_MADE = (torch.tensor, torch.as_tensor, Tensor.new_tensor)  # which torch does not dispatch where they are made on NAME


class Device(TorchDispatchMode):
    """While it is entered, tensors on the device NAME have numbers.

    An operation on its tensors and others is a RuntimeError, as on a GPU.

    waits: what made the host wait, by torch's names.
    """

    def __init__(self) -> None:
        """Begin without a wait."""
        super().__init__()
        self.waits: list[str] = []
        self._calls = _Calls(self.waits)

    def __enter__(self) -> Device:
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._calls.__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute on the CPU."""
        options = dict(kwargs or {})
        given = [value for value in tree_leaves((args, options)) if isinstance(value, Tensor)]
        known = {id(value.held): value for value in given if isinstance(value, _Far)}
        far = is_far = bool(known)
        if options.get("device") is not None:
            far = torch.device(options["device"]).type == NAME
            options["device"] = "cpu"
        if _waits(func, given, copied=is_far != far and not options.get("non_blocking")):
            self.waits.append(str(func))
        found = func(*tree_map(_held, args), **tree_map(_held, options))
        return (
            tree_map(lambda one: known.get(id(one), _Far(one)) if isinstance(one, Tensor) else one, found)
            if far
            else found
        )


def put(model: nn.Module) -> None:
    """Move a module to the device."""
    for part in model.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: _Far(value.data) for name, value in tensors.items() if value is not None})


def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is copied in the background arrive at every second time that it is asked for."""
    arrived = cycle([False, True])
    stream = SimpleNamespace(record_event=lambda: SimpleNamespace(query=lambda: next(arrived)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)


class _Far(Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor
    is_cuda = True

    @staticmethod
    def __new__(cls, held: Tensor) -> _Far:
        made: _Far = Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), dtype=held.dtype, device=NAME)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only within `Device`."""
        raise AssertionError(f"{func} where the device is not entered")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Far) else value


def _waits(func: Any, given: Sequence[Tensor], copied: bool) -> bool:
    """Whether the host waits for an operation on these tensors; copied: whether its result is elsewhere than they."""
    far = [isinstance(value, _Far) for value in given if value.ndim]
    mixed = any(far) and not all(far)
    if mixed and func not in _TAKE:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    masks = func is _aten.index.Tensor and any(value.dtype == torch.bool for value in given[1:])
    reads = any(isinstance(value, _Far) for value in given) and (masks or func in _READS)
    return mixed or reads or (copied and bool(given))


class _Calls(TorchFunctionMode):
    """Notes the calls that torch does not dispatch."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], _Far):
            self._waits.append("tolist")
            return args[0].held.tolist()
        like = args[0] if func is Tensor.new_tensor else None
        device = options.get("device") or ("cpu" if like is None else like.device)
        if func not in _MADE or torch.device(device).type != NAME:
            return func(*args, **options)
        self._waits.append(func.__name__)
        dtype = options.get("dtype") or (None if like is None else like.dtype)
        return torch.tensor(args[-1], dtype=dtype).to(NAME, non_blocking=True)
