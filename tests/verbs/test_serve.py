"""`medfuse serve`, before the first request: each mistake is one line, and exit code 2."""

import socket

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")


def line_of(spoken) -> str:
    assert spoken.code == 2, spoken.err
    assert "Traceback" not in spoken.err
    return spoken.err.strip().splitlines()[-1]


def test_a_model_that_is_not_there_is_a_line(medfuse, tmp_path):
    assert "no such file; give a run folder" in line_of(medfuse("serve", tmp_path / "nix", "--port", 0))


def test_a_model_that_is_damaged_is_a_line(medfuse, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 100)
    assert "weights.safetensors" in line_of(medfuse("serve", tmp_path / "weights.safetensors", "--port", 0))


def test_a_port_that_is_in_use_is_a_line_before_any_model_is_loaded(medfuse, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} is in use" in line_of(medfuse("serve", tmp_path, "--port", port))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "no.such.host.example"), "no address of this machine"),
        (("--host", "203.0.113.1"), "--host 203.0.113.1"),
        (("--port", "70000"), "--port"),
        (("--keep", "soon"), "90s, 30m, 1h or 2d"),
        (("--queue", "0"), "from 1"),
        (("--max-request", "2"), "write a number and a unit"),
        (("--data", "/nix"), "no such folder"),
        (("--token", "short"), "at least 16 plain signs"),
        (("--device", "tpu"), "device"),
    ],
)
def test_each_wrong_word_is_a_line(medfuse, finished_run, words, said):
    given = ("--port", "0", *words)
    assert said in line_of(medfuse("serve", finished_run.folder, *given))


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_a_missing_package_is_named_with_the_extra(medfuse, finished_run, monkeypatch, package):
    def absent(name):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("medfuse.verbs.serve.import_module", absent)
    said = line_of(medfuse("serve", finished_run.folder, "--port", 0))
    assert f"needs the package {package}" in said
    assert 'pip install "medfuse[serve]"' in said
