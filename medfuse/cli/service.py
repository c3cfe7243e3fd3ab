"""The verb of the service, a few lines; heavy imports come late here as well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from medfuse.cli.words import Best, InferOverrides, Quiet, Trusted, whole_number


def _seconds(text: str) -> float:
    """`90s`, `30m`, `1h`, `2d`."""
    match = re.fullmatch(r"([0-9]{1,6})\s*([smhd])", str(text).strip().lower())
    if not match or not int(match[1]):
        raise typer.BadParameter(f"{str(text)[:40]!r}: write a time such as 90s, 30m, 1h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_WEIGHTS", help="run folders, weights or exported files, a model each"),
    ],
    port: Annotated[int, whole_number(0, 65535, "0 takes one that is free")] = 8000,
    host: Annotated[
        str, typer.Option(help="address to listen at; others than this machine reach 0.0.0.0")
    ] = "127.0.0.1",
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="images that clients may name; is only read")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keeps label maps that people correct and send")
    ] = None,
    token: Annotated[
        str,
        typer.Option(
            envvar="MEDFUSE_TOKEN",
            show_envvar=False,
            help="what clients send, or MEDFUSE_TOKEN; a new one is printed if not given, and none is "
            "needed on loopback",
        ),
    ] = "",
    hosts: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="a name to be asked by on loopback; repeatable"),
    ] = None,
    keep: Annotated[
        float, typer.Option(metavar="1h", parser=_seconds, help="how long what nobody asks for is kept")
    ] = "1h",  # type: ignore[assignment]  # read by the parser
    queue: Annotated[int, whole_number(1, 10_000, "jobs that may wait; more are answered with 429")] = 16,
    request: Annotated[
        str, typer.Option("--max-request", metavar="2GiB", help="most bytes of one request")
    ] = "2GiB",
    unpacked: Annotated[
        str,
        typer.Option(
            "--max-unpacked", metavar="8GiB", help="most that an image takes unpacked and resampled"
        ),
    ] = "8GiB",
    files: Annotated[int, whole_number(1, 1_000_000, "files of one request")] = 5000,
    idle: Annotated[
        float, typer.Option(metavar="20s", parser=_seconds, help="how long a client may send nothing")
    ] = "20s",  # type: ignore[assignment]  # read by the parser
    disk: Annotated[
        str, typer.Option("--max-disk", metavar="32GiB", help="most that is kept for all clients together")
    ] = "32GiB",
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", help="auto, cpu, cuda or cuda:1; of several each has its own queue"),
    ] = None,
    overrides: InferOverrides = None,
    best: Best = False,
    trust: Trusted = None,
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP, to 3D Slicer and other programs.

    3D Slicer's module MONAI Label speaks to it; others send jobs to /jobs.
    """
    from medfuse.core.reporter import Reporter
    from medfuse.verbs.serve import serve_models

    serve_models(
        runs,
        host=host,
        port=port,
        data=data,
        labels=labels,
        token=token,
        hosts=hosts or (),
        request=request,
        unpacked=unpacked,
        disk=disk,
        files=files,
        queue=queue,
        keep_s=keep,
        idle_s=idle,
        devices=devices or ("auto",),
        overrides=overrides or (),
        best=best,
        trust=trust or (),
        reporter=Reporter(quiet=quiet),
    )
