"""What a short command imports, and what it makes of what an earlier one has found out."""

import os
import subprocess
import sys

import pytest

STARTED_BEFORE = """
import sys
from medfuse.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {"monai", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx", "SimpleITK"}
heavy |= {"matplotlib", "tensorboard", "lightning_fabric", "pydicom", "PIL", "requests", "openvino.tools.ovc"}
heavy |= {"openvino.frontend.pytorch.ts_decoder"}
print(sorted(heavy & {*sys.modules}))
"""


def test_inference_with_a_network_that_was_here_before_traces_nothing_and_imports_what_it_needs(
    finished_run, tmp_path
):
    pytest.importorskip("openvino", reason="what it is converted to is not installed")
    image = finished_run.data / "imagesTr" / "cube_00.nii.gz"
    words = ["infer", finished_run.folder, "-i", image, "-q", "--set", "runtime.use=openvino"]
    words += ["--set", "runtime.precision=fp32", "-o"]
    environment = {**os.environ, "MEDFUSE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    imported = []
    for name in ("first", "second"):
        command = [sys.executable, "-c", STARTED_BEFORE, *words, tmp_path / name]
        said = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
        assert said.returncode == 0, said.stderr
        imported.append(said.stdout.splitlines()[-1])
    assert imported == ["['openvino.frontend.pytorch.ts_decoder']", "[]"]
    made = [(tmp_path / name / "cube_00.nii.gz").read_bytes() for name in ("first", "second")]
    assert made[0] == made[1]
