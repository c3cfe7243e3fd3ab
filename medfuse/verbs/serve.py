"""`medfuse serve`: trained models as a service on a port."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from medfuse.core.errors import MedfuseError, lacks
from medfuse.core.files import make_folder
from medfuse.core.reporter import Reporter

_LEAST_TOKEN = 16


def serve_models(
    runs: Sequence[Path],
    *,
    host: str,
    port: int,
    data: Path | None = None,
    labels: Path | None = None,
    token: str = "",
    hosts: Sequence[str] = (),
    request: str = "2GiB",
    unpacked: str = "8GiB",
    disk: str = "32GiB",
    files: int = 5000,
    queue: int = 16,
    keep_s: float = 3600,
    idle_s: float = 20,
    devices: Sequence[str] = ("auto",),
    overrides: Iterable[str] = (),
    best: bool = False,
    trust: str | Iterable[str] = (),
    reporter: Reporter,
) -> None:
    """Serve until the process is told to end. Raises MedfuseError before the first request or never."""
    from medfuse.core.memory import parse_bytes
    from medfuse.service.limits import Limits

    _check_installed()
    limits = Limits(
        request=parse_bytes(request),
        unpacked=parse_bytes(unpacked),
        disk=parse_bytes(disk),
        files=files,
        queue=queue,
        keep_s=keep_s,
        idle_s=idle_s,
    )
    if data is not None and not data.is_dir():
        raise MedfuseError(f"--data {data}: no such folder; name the folder of the images")
    if labels is not None:
        make_folder(labels)
    from medfuse.service.app import make_app
    from medfuse.service.desk import Desk
    from medfuse.service.door import Rules, hosts_of
    from medfuse.service.kept import Store, scratch
    from medfuse.service.models import load_models
    from medfuse.service.server import address_of, bound, serve

    secret = _token(token, host)
    with bound(host, port) as at:
        how = {"overrides": overrides, "best": best, "trust": trust, "devices": devices}
        models = load_models(runs, **how, reporter=reporter)  # type: ignore[arg-type]  # as they are named
        with scratch() as folder:
            desk = Desk(models, Store(folder, limits), limits, data=data, labels=labels, token=secret)
            app = make_app(desk, Rules(secret, hosts_of(host, hosts)))
            if secret and not token:
                reporter.say(f"the token that clients send: {secret}")
            reporter.say(f"serving {', '.join(models)} at {address_of(at)}; Ctrl-C ends it")
            serve(app, desk, at)
            reporter.say("ended")


_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def _check_installed() -> None:
    try:
        for package in _NEEDED:
            import_module(package)
    except ImportError as error:
        raise MedfuseError(f"medfuse serve {lacks(error)}") from error


def _token(given: str, host: str) -> str | None:
    """The token that was given, or a new one where others than this machine can reach the service."""
    from medfuse.service.door import is_loopback

    given = given.strip()
    if given and (
        len(given) < _LEAST_TOKEN or not given.isascii() or not given.isprintable() or " " in given
    ):
        raise MedfuseError(
            f"--token: is to have at least {_LEAST_TOKEN} plain signs, without spaces; or leave it out"
        )
    if given:
        return given
    return None if is_loopback(host) else secrets.token_urlsafe(32)
