"""`medfuse import-nnssl`: a pipeline that starts from a checkpoint of nnssl, by what that says of itself."""

from __future__ import annotations

import os
from pathlib import Path

from medfuse.core.errors import CheckpointError, MedfuseError, OutputError
from medfuse.core.files import write_text
from medfuse.core.reporter import Reporter
from medfuse.core.result import Result
from medfuse.core.text import typed
from medfuse.imports.nnssl import read_nnssl
from medfuse.imports.start import Start
from medfuse.planning.started import template
from medfuse.verbs.schema import LINE, write_schema_beside


def import_nnssl(file: Path, output: Path | None, *, reporter: Reporter) -> Result:
    """Write a pipeline whose `data` is left to name; returns what it holds and how to go on.

    Raises CheckpointError where the checkpoint says nothing of itself, or not enough, and OutputError.
    """
    output = output or Path("pipelines") / f"{file.stem}.yaml"
    if os.path.lexists(output):
        raise OutputError(f"{output}: is there already; choose another file by --output, or remove it")
    if not file.exists():
        raise CheckpointError(f"{file}: no such file; give a checkpoint that nnssl wrote")
    from medfuse.model.checkpoints import read_checkpoint

    start = read_nnssl(file, read_checkpoint(file))
    taken = try_out(start, file)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_schema_beside(output)
    write_text(output, template(start, output, LINE))
    reporter.say(f"  {start.what}: {taken}")
    written = typed(output)
    text = (
        f"wrote {written}: name your dataset in its `data`, then `medfuse check {written}`; or "
        f"`medfuse init DATA --from {typed(file)}` plans it for a dataset"
    )
    return Result(text, {"file": output, "starts_from": start.what, "taken": taken})


def try_out(start: Start, file: Path) -> str:
    """What the network takes of the file, which has to be all of it. Raises CheckpointError."""
    from torch import device

    from medfuse.api import ImageInfo
    from medfuse.model.graph import plan_graph
    from medfuse.model.segmenter import build_segmenter
    from medfuse.model.settings import ModelSettings
    from medfuse.model.transfer import plan_transfer

    settings = ModelSettings.model_validate(start.model())
    sides = start.multiple or (32, 32, 32)
    image = ImageInfo(start.channels or 1, tuple(4 * side for side in sides), (1.0,) * len(sides))
    try:
        graph = plan_graph(settings, image, 2)
        with device("meta"):
            network = build_segmenter(graph)
    except MedfuseError as error:
        raise CheckpointError(f"{file}: {'; '.join(error.lines)}") from error
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shapes = {k: t.shape for k, t in network.state_dict().items() if k.startswith("backbones.encoder.")}
    made = plan_transfer("encoder", shapes, settings.transfer["encoder"], parameters=[*names.values()])
    return f"{made.share:.0%} of the encoder's parameters; {made.summary()}"
