"""What stands still while the rest of a network trains: frozen modules, running statistics included."""

from __future__ import annotations

from torch import nn

_MARK = "_stands_still"


def freeze(network: nn.Module) -> None:
    """For good: its weights, and the statistics of its norms, also where these have no weights."""
    network.requires_grad_(False)
    for module in bare(network).values():
        hold(module, True)


def bare(network: nn.Module) -> dict[str, nn.Module]:
    """Path → module, of those with state and nothing to learn, such as a batch norm that is not affine."""
    return {
        path: module
        for path, module in network.named_modules()
        if any(True for _ in module.buffers(recurse=False)) and not any(True for _ in module.parameters())
    }


def hold(module: nn.Module, still: bool) -> None:
    """Say of a module without parameters, which cannot say so itself, whether it is frozen."""
    setattr(module, _MARK, still)


def is_held(module: nn.Module) -> bool:
    return bool(getattr(module, _MARK, False))


def keep_still(network: nn.Module) -> None:
    """Put what is frozen into evaluation mode: modules all of whose parameters are, and what is held."""
    for module in network.modules():
        learning = [parameter.requires_grad for parameter in module.parameters()]
        if is_held(module) or (learning and not any(learning)):
            module.eval()
