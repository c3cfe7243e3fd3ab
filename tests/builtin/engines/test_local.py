"""Workers on this machine."""

import os
import subprocess

from medfuse import Command, registry
from medfuse.testing import check_engine


def local():
    return registry.get("medfuse.engines", "local")()


def test_it_keeps_the_contract():
    check_engine(local())


def test_each_has_its_part_of_the_cores(tmp_path, monkeypatch):
    threads = []

    class Seen(subprocess.Popen):
        def __init__(self, words, env, **others):
            threads.append(env["OMP_NUM_THREADS"])
            super().__init__(words, env=env, **others)

    monkeypatch.setattr("medfuse.builtin.engines.local.cores", lambda: 9)
    monkeypatch.setattr(subprocess, "Popen", Seen)
    before = os.environ.get("OMP_NUM_THREADS")
    local().start(Command(("--version",), tmp_path, "cpu"), 4).end()
    assert threads == ["2"] * 4
    assert os.environ.get("OMP_NUM_THREADS") == before
