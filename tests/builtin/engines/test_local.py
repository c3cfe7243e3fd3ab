"""Workers on this machine."""

import os

from medfuse import Command, registry
from medfuse.testing import check_engine


def local():
    return registry.get("medfuse.engines", "local")()


def test_it_keeps_the_contract():
    check_engine(local())


def test_each_has_its_part_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("medfuse.builtin.engines.local.cores", lambda: 9)
    crew = local().start(Command(("--version",), tmp_path, "cpu"), 4)
    try:
        for pid in (member.process.pid for member in crew._members):
            with open(f"/proc/{pid}/environ", "rb") as file:
                assert b"OMP_NUM_THREADS=2" in file.read().split(b"\0")
    finally:
        crew.end()
    assert os.environ["OMP_NUM_THREADS"] == "1"
