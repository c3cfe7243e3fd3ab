"""Where a module's tensors lie and in what kind of number: devices, layouts in memory, precisions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medfuse.testing.calls import CLOSE
from medfuse.testing.tensors import distance
from medfuse.testing.tested import Tested


def keeps_float32(tested: Tested) -> None:
    for passed in (tested.tried, tested.trained):
        other = {name: x.dtype for name, x in passed.outputs.items() if x.dtype != torch.float32}
        assert not other, f"of float32 inputs it makes {_listed(other)}; convert back, or compute in float32"


def bears_autocast(tested: Tested) -> None:
    """In training under bf16 autocast, where some maps come in bf16 and others in float32."""
    module = copy.deepcopy(tested.tried.module).train()
    given = [
        x.bfloat16() if x.is_floating_point() and number % 2 == 0 else x
        for number, x in enumerate(tested.given(2))
    ]
    with torch.autocast("cpu", torch.bfloat16):
        made = tested.run(module, given)
    for name, x in made.items():
        kind = x.dtype in (torch.bfloat16, torch.float32)
        assert kind, f"output {name} is {x.dtype} under bf16 autocast, wanted is bfloat16 or float32"
        assert bool(torch.isfinite(x).all()), f"output {name} is not finite under bf16 autocast"
    alive = [x.float().square().mean() for x in made.values() if x.requires_grad]
    if alive:
        torch.stack(alive).sum().backward()


def bears_any_layout(tested: Tested) -> None:
    """With channels innermost in memory, as medfuse lays tensors out where that is faster."""
    given = [_channels_last(x) for x in tested.given(2)]
    made = tested.run(tested.tried.module, given)
    for name, x in tested.tried.outputs.items():
        error = distance(x, made[name])
        assert error < CLOSE, (
            f"output {name} differs by {error:.1%} where inputs are channels_last in memory; use reshape() "
            "and permute(), which go by axes"
        )


def _channels_last(x: Tensor) -> Tensor:
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=kinds[x.ndim]) if x.ndim in kinds else x


def follows_its_device(tested: Tested) -> None:
    """Tensors that no state dict has are looked for first; only where there are some, torch is asked."""
    module = copy.deepcopy(tested.tried.module)
    with torch.no_grad():
        own = [*module.parameters(), *module.buffers()]
        watch = _Strays(own, given := tested.given(2))
        with watch:
            tested.run(module, given)
        if not watch.found:
            return
        devices = _Devices()
        try:
            moved = module.to("meta")
            with devices:
                tested.run(moved, [x.to("meta") for x in tested.given(2)])
        except RuntimeError as error:  # which NotImplementedError, for what that device lacks, is one of
            if "on the expected device" not in str(error) and "on the same device" not in str(error):
                return  # it asks for values, which that device has not: nothing can be told
            devices.mixed = devices.mixed or str(error)
        assert not devices.mixed, (
            f"on another device {devices.mixed}; hold constants in register_buffer, and make tensors with "
            "`device=x.device`"
        )


class _Strays(TorchDispatchMode):
    """Whether a pass uses tensors that are neither the module's own, nor given, nor computed from those."""

    def __init__(self, own: list[Tensor], given: list[Tensor]) -> None:
        super().__init__()
        self.known = {id(x): x for x in (*own, *given)}
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used = list(_tensors([args, kwargs]))
        made = func(*args, **kwargs)
        if not used and list(_tensors(made)):
            self.found = True  # torch.arange and the like
        self.found = self.found or any(id(x) not in self.known and x.ndim > 0 for x in used)
        self.known.update((id(x), x) for x in _tensors(made))
        return made


class _Devices(TorchDispatchMode):
    """What was computed from tensors on two devices. Numbers (no axes) and indices may lie on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        kinds = {x.device.type for x in _tensors([args, kwargs]) if x.ndim > 0}
        if len(kinds) > 1 and not name.startswith(("_to_copy", "copy", "index", "_index")):
            self.mixed = self.mixed or f"{name} is given tensors on {' and '.join(sorted(kinds))}"
        return func(*args, **kwargs)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (x for x in tree_leaves(tree) if isinstance(x, Tensor))


def _listed(kinds: dict[str, torch.dtype]) -> str:
    return ", ".join(f"output {name} in {str(kind).removeprefix('torch.')}" for name, kind in kinds.items())
