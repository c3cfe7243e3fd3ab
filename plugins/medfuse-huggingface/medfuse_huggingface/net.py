"""A network of transformers that takes medfuse's images and hands out its maps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medfuse import ImageInfo, ShapeError
from medfuse.core.errors import reason
from medfuse.core.json_text import shortened
from medfuse.core.offline import import_offline
from medfuse.model.pictured import Pictured
from medfuse.model.pictures import Normalization
from medfuse.model.tokens import has_class_token
from medfuse_huggingface.configs import made, quiet, transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_COLLECTING, _IS_COLLECTING = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"
_INDEX = "generate_relative_position_index"
_INTERPOLATE = "interpolate_pos_encoding"
_STEM = "stem"


class Network(Pictured):
    """x (batch, 1 or channels, *spatial) in [0, 1] → what the network makes, by name.

    Its stages, where it has any, are also the outputs of the layers stage1, stage2, … What it says of the
    whole image is that of the layer `pooled`: its pooled output, or the class token as it is in the end.
    """

    def __init__(
        self, network: nn.Module, channels: int, normalization: Normalization | None, stages: Sequence[str]
    ) -> None:
        super().__init__(network, channels, normalization)
        self._stages = tuple(stages)
        self._has_class = not stages and has_class_token(network)
        for stage in stages:
            self.add_module(stage, nn.Identity())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.network(pixel_values=self.seen(x))
        if self._stages:
            maps = zip(self._stages, made.feature_maps, strict=True)
            return {stage: self.get_submodule(stage)(map_) for stage, map_ in maps}
        whole = made.get("pooler_output")
        if whole is None and self._has_class:
            whole = made.last_hidden_state[:, 0]
        more = {"pooled": self.pooled(whole)} if whole is not None and whole.ndim == 2 else {}
        return {name: tensor for name, tensor in made.items() if isinstance(tensor, Tensor)} | more

    def __getstate__(self) -> dict[str, Any]:
        """Without the hooks by which transformers collects maps, which do not pickle: it hooks in anew."""
        for module in self.network.modules():
            for key, hook in [*module._forward_hooks.items()]:
                if getattr(hook, "__module__", "") == _COLLECTING:
                    del module._forward_hooks[key]
            if _IS_COLLECTING in vars(module):
                setattr(module, _IS_COLLECTING, False)
        return self.__dict__.copy()


def build(said: dict[str, Any], normalization: Normalization | None, image: ImageInfo) -> nn.Module:
    """The network of a configuration, with fresh weights. Raises ShapeError."""
    config = for_image(made(said), image)
    channels = getattr(config, "num_channels", 3)
    network = create(config)
    if getattr(network, "main_input_name", "pixel_values") != "pixel_values":
        raise ShapeError(f"{type(network).__name__} is no network for images; name another one")
    unused = [*(getattr(network, "_keys_to_ignore_on_load_missing", None) or ()), r"(^|\.)mask_token$"]
    for name, parameter in network.named_parameters():
        if any(re.search(pattern, name) for pattern in unused):  # by the maps of a backbone
            parameter.requires_grad_(False)
    if not _is_made_for_one_size(config):
        interpolate_positions(network)
    for module in network.modules():
        if hasattr(type(module), "loss_function"):
            module.loss_function = None  # which warns whoever looks at it, and is no loss for maps
        if hasattr(module, _INDEX):
            module.register_forward_pre_hook(_forget)
            module.register_forward_hook(_forget)
    return Network(network, channels, normalization, stages_of(config))


def for_image(config: PreTrainedConfig, image: ImageInfo) -> PreTrainedConfig:
    """Made for the image's size, where a network takes images of one size alone."""
    if _is_made_for_one_size(config):
        config.image_size = list(image.patch_size)
    return config


def _is_made_for_one_size(config: PreTrainedConfig) -> bool:
    return config.model_type == "hiera"


def create(config: PreTrainedConfig) -> PreTrainedModel:
    """The network of a configuration, with fresh weights. Raises ShapeError where it cannot be made."""
    cls = network_class(config)
    config = deepcopy(config)
    if stages := stages_of(config):
        config.out_features = stages
    try:
        with quiet():
            network: PreTrainedModel = cls._from_config(config, dtype=torch.float32, **further(cls))
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ShapeError(f"{cls.__name__} cannot be made: {shortened(reason(error), 200)}") from error
    return network


def network_class(config: PreTrainedConfig) -> Any:
    """AutoBackbone's of a network in stages, AutoModel's of one whose blocks are alike; else the other.

    Raises ShapeError where transformers has neither.
    """
    mappings = [_backbones(), _mappings().MODEL_MAPPING]
    for mapping in reversed(mappings) if is_even(config) else mappings:
        if type(config) in mapping:
            return mapping[type(config)]
    raise ShapeError(f"transformers has neither AutoBackbone nor AutoModel of a {config.model_type}")


def further(cls: Any) -> dict[str, Any]:
    """Arguments without which it would have parts that make no map."""
    has_pooler = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return {"add_pooling_layer": False} if has_pooler else {}


def is_even(config: PreTrainedConfig) -> bool:
    """Whether all of its blocks work on one grid, as those of a vision transformer."""
    return isinstance(getattr(config, "hidden_size", None), int) and not hasattr(config, "depths")


def stages_of(config: PreTrainedConfig) -> list[str]:
    """The maps that AutoBackbone makes of a network in stages; none of others."""
    if is_even(config) or type(config) not in _backbones():
        return []
    return [stage for stage in config.stage_names if stage != _STEM]


def _mappings() -> Any:
    transformers()
    return import_offline("transformers.models.auto.modeling_auto")


def _backbones() -> Any:
    return _mappings().MODEL_FOR_BACKBONE_MAPPING


def interpolate_positions(network: nn.Module) -> None:
    """Positions that are learnt are interpolated to the image's grid, wherever a layer has to be told to."""
    for module in network.modules():
        parameters = [*inspect.signature(module.forward).parameters]
        if _INTERPOLATE in parameters and hasattr(module, _INTERPOLATE):
            place = parameters.index(_INTERPOLATE)
            module.register_forward_pre_hook(partial(_told, place), with_kwargs=True)


def _told(place: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if len(args) > place:
        return (*args[:place], True, *args[place + 1 :]), kwargs
    return args, {**kwargs, _INTERPOLATE: True}


def _forget(module: nn.Module, *_: Any) -> None:
    """What BEiT keeps for all of its kind: made in a trial, on the meta device, it would be nonsense."""
    for cell in getattr(getattr(module, _INDEX), "__closure__", None) or ():
        if forget := getattr(cell.cell_contents, "cache_clear", None):
            forget()
