"""How many bytes of tensors are alive at once, whatever the allocator does with them."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Peak(TorchDispatchMode):
    """Bytes of all tensors that are alive at once, at most, of those made inside."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                memory = tensor.untyped_storage()
                self.alive[memory] = memory.nbytes()
        self.most = max(self.most, sum(self.alive.values()))
        return made
