"""Several processes that train one network: each has a share of every batch, all take the same step.

Logits and labels of all shares are put together before the loss, so that any loss, Dice over the batch
included, is that of the whole batch; each process follows the gradient through its own share only, and the
gradients add up to those of one process with the whole batch. This is done by hand and not by torch's wrapper
for distributed networks: a step may have two backward passes, heads that are not used, parts that are frozen,
and parameters of the objective, none of which the wrapper knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from medfuse.core.errors import MedfuseError
from medfuse.core.processes import processes, processes_here

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # which takes seconds, and a finished run needs none

Value = TypeVar("Value")

_PATIENCE = timedelta(days=7)  # others wait while the first prepares a dataset
_GRACE = 20.0  # seconds in which whoever started the processes ends those that are left


class Together:
    """The processes of this training; one that is alone does nothing of all this."""

    @property
    def size(self) -> int:
        return distributed.get_world_size() if distributed.is_initialized() else 1

    @property
    def rank(self) -> int:
        return distributed.get_rank() if distributed.is_initialized() else 0

    @property
    def is_first(self) -> bool:
        """The first process is the one that writes and speaks."""
        return self.rank == 0

    def first(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in the first process, in all of them. The others wait, and do not work."""
        if self.size == 1:
            return work()
        box: list[Any] = [work() if self.is_first else None]
        with _in_common():
            distributed.broadcast_object_list(box, 0)
        value: Value = box[0]
        return value

    def collect(self, value: Value) -> list[Value]:
        """The value of every process, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _in_common():
            distributed.all_gather_object(values, value)
        return values

    def gather(self, share: Tensor) -> Tensor:
        """(share of the batch, …) of every process → (batch, …). The gradient is that of the own share."""
        if self.size == 1:
            return share
        own = share.contiguous()
        shares = [torch.empty_like(own) for _ in range(self.size)]
        with _in_common():
            distributed.all_gather(shares, own.detach())
        shares[self.rank] = own
        return torch.cat(shares)

    def whole(self, network: Callable[..., object]) -> Callable[..., object]:
        """`network`, whose outputs are those of all shares together."""
        if self.size == 1:
            return network
        return lambda *args, **asked: self._gathered(network(*args, **asked))

    def _gathered(self, output: object) -> object:
        if isinstance(output, Tensor):
            return self.gather(output)
        if isinstance(output, dict):
            return {name: self._gathered(value) for name, value in output.items()}
        assert isinstance(output, tuple)
        return tuple(self._gathered(value) for value in output)

    @torch.no_grad()
    def add_up(self, model: nn.Module, learned: nn.Module) -> None:
        """Gradients of `model` become the sum over processes; running statistics that move become the mean.

        `learned` is trained on the whole batch in every process already, so that its gradients are the mean.
        A parameter without a gradient in any process stays without one.
        """
        if self.size == 1:
            return
        parameters = [p for p in (*model.parameters(), *learned.parameters()) if p.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=_device(parameters))
        with _in_common():
            distributed.all_reduce(used)
        gradients = []
        for parameter, users in zip(parameters, used.tolist()):
            if users:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for parameter in learned.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.size
        _add(gradients)
        self._even_out(_statistics(model))

    def _even_out(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes the mean over processes, and to the last bit what it is where it is alike in all."""
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
        shares = [torch.empty_like(flat) for _ in range(self.size)]
        with _in_common():
            distributed.all_gather(shares, flat)
        together = torch.stack(shares)
        alike = (together == together[0]).all(0)
        for tensor, mean in zip(tensors, together[0].where(alike, together.mean(0)).split(_lengths(tensors))):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def start_alike(self, *modules: nn.Module) -> None:
        """Every process takes over the tensors of the first."""
        if self.size == 1:
            return
        for module in modules:
            for tensor in module.state_dict().values():
                same = tensor.contiguous()
                with _in_common():
                    distributed.broadcast(same, 0)
                tensor.copy_(same)


@contextmanager
def joined(device: torch.device) -> Iterator[Together]:
    """Meet the other processes, where there are any: over gloo on a CPU, over nccl on CUDA."""
    if processes() == 1:
        yield Together()
        return
    make_fabric(device, "32-true")
    try:
        yield Together()
    finally:
        distributed.destroy_process_group()


def make_fabric(device: torch.device, precision: Any) -> Fabric:
    """Lightning's engine for this process: its device, its precision, the group of processes it is in."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    class Unwrapped(DDPStrategy):
        """Lightning's processes and devices, and a network that stays as it is."""

        def setup_module(self, module: nn.Module) -> nn.Module:
            return module

    if processes() == 1:
        alone = LightningEnvironment()  # also inside a job of a cluster, whose processes it would look for
        return Fabric(accelerator=device.type, devices=1, precision=precision, plugins=alone)
    fabric = Fabric(
        accelerator=device.type,
        devices=processes_here(),
        num_nodes=processes() // processes_here(),
        precision=precision,
        strategy=Unwrapped(timeout=_PATIENCE),
    )
    fabric.launch()
    return fabric


@contextmanager
def _in_common() -> Iterator[None]:
    """Where another process has ended, wait to be ended as well: its reason is the one to be seen."""
    try:
        yield
    except RuntimeError as error:
        time.sleep(_GRACE)
        raise MedfuseError(
            "another process of this training has ended; what it said is the reason"
        ) from error


def _statistics(model: nn.Module) -> list[Tensor]:
    """What forward passes change, each once: of modules in evaluation mode, as frozen ones are, nothing."""
    moving = (b for m in model.modules() if m.training for b in m.buffers(recurse=False))
    return [*{id(b): b for b in moving if b.is_floating_point()}.values()]


def _lengths(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.numel() for tensor in tensors]


def _add(tensors: Sequence[Tensor]) -> None:
    """Sums over processes, in one message."""
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    with _in_common():
        distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split(_lengths(tensors))):
        tensor.copy_(summed.view(tensor.shape))


def _device(parameters: Iterable[Tensor]) -> torch.device:
    return next(iter(parameters)).device
