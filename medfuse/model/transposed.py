"""Transposed convolutions whose kernels do not overlap, as 1×1 convolutions, which have kernels in int8.

OpenVINO computes a transposed convolution of such maps in bf16, in blocks of channels, and what follows has
to be put in another order twice: an eighth of the time of a U-Net in int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino


def without_transposed(network: openvino.Model) -> openvino.Model:
    """A copy of `network` that gives the same, and has fewer transposed convolutions.

    Those are kept whose kernel is not as large as its stride, whose strides differ, that pad, or have groups.
    """
    made = network.clone()
    for operation in made.get_ordered_ops():
        if operation.get_type_name() == "ConvolutionBackpropData" and _is_plain(operation):
            _replace(operation)
    made.validate_nodes_and_infer_types()
    return made


def _is_plain(operation: Any) -> bool:
    """Whether each voxel makes a cube of voxels of its own."""
    kernel, how = operation.input_value(1), operation.get_attributes()
    if operation.get_input_size() != 2 or kernel.get_node().get_type_name() != "Constant":
        return False
    (edge, *others), sizes = how["strides"], [*kernel.get_shape()][2:]
    return (
        sizes == [edge, *others] == [edge] * len(sizes)
        and {*how["dilations"]} == {1}
        and how["auto_pad"] in ("explicit", "valid")
        and not any([*how["pads_begin"], *how["pads_end"], *how["output_padding"]])
    )


def _replace(operation: Any) -> None:
    from openvino import opset14 as ops

    how, weights = operation.get_attributes(), operation.input_value(1).get_node().data
    axes, voxels = len(how["strides"]), int(np.prod(weights.shape[2:]))
    # (from, to, *kernel) → a map for each voxel of a cube and channel, in the order of DepthToSpace
    kernel = np.moveaxis(weights.reshape(*weights.shape[:2], voxels), (2, 1, 0), (0, 1, 2))
    kernel = np.ascontiguousarray(kernel.reshape(-1, len(weights), *[1] * axes))
    none, one = [0] * axes, [1] * axes
    convolution = ops.convolution(operation.input_value(0), ops.constant(kernel), one, none, none, one)
    convolution.set_friendly_name(operation.get_friendly_name())
    made, last = convolution, operation
    (user, *others) = operation.output(0).get_target_inputs()
    bias = _bias(user, weights.shape[1]) if not others else None
    if bias is not None:  # added before voxels are put in order, as then it is part of the convolution
        made = ops.add(convolution, ops.constant(np.tile(bias, voxels).reshape(1, -1, *[1] * axes)))
        last = user.get_node()
    spread = ops.depth_to_space(made, "blocks_first", how["strides"][0])
    for target in [*last.output(0).get_target_inputs()]:
        target.replace_source_output(spread.output(0))


def _bias(user: Any, channels: int) -> Any:
    """What `user`, an input of an operation, adds to each channel; None where it adds nothing of the kind."""
    operation = user.get_node()
    if operation.get_type_name() != "Add":
        return None
    other = operation.input_value(1 - user.get_index()).get_node()
    if other.get_type_name() != "Constant":
        return None
    shape = [*other.output(0).get_shape()]
    along = [size for size in shape if size != 1]
    if along != [channels] * (channels != 1) or (along and shape[1] != channels):
        return None
    return np.array(other.data, np.float32).reshape(-1)
