"""Draws the pictures of the pages from the finished run of pipelines/liver.yaml.

Those of pages for a browser are taken by Chromium, and stay as they are where there is none.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from medfuse.model.graph import plan_graph
from medfuse.pipeline import load_pipeline
from medfuse.report.graph import draw_graph
from medfuse.report.overlays import OverlayCase, draw_overlay
from medfuse.runs.judging import graph_nodes

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs" / "liver"
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """The graph, and the held-out case with the median Dice of the liver."""
    from medfuse.data.plan import DataPlan

    if not (RUN / "summary.json").exists():
        raise SystemExit(f"{RUN}: no finished run; `make run` makes it")
    pipeline, _ = load_pipeline(ROOT / "pipelines" / "liver.yaml")
    plan = DataPlan.from_json(json.loads((RUN / "plan.json").read_text())["data"])
    IMAGES.mkdir(exist_ok=True)
    draw_graph(IMAGES / "graph.svg", graph_nodes(plan_graph(pipeline.model, plan.image, len(plan.classes))))
    summary = json.loads((RUN / "summary.json").read_text())
    cases = sorted(summary["metric_per_case"], key=lambda case: case["metrics"]["1"]["Dice"] or 0)
    chosen = cases[len(cases) // 2]
    images = {case.name: case.images[0] for case in pipeline.data.read().cases}
    shown = OverlayCase(
        chosen["name"],
        images[chosen["name"]],
        Path(chosen["reference_file"]),
        Path(chosen["prediction_file"]),
        ct=True,
    )
    draw_overlay(IMAGES / "overlay.png", shown, summary["labels"])
    if browser := shutil.which("chromium") or shutil.which("chromium-browser"):
        take(browser, RUN / "report.html", IMAGES / "report.png", 1100)
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "view.html")
            command = [sys.executable, "-m", "medfuse", "view", str(RUN), "-o", str(page), "--quiet"]
            subprocess.run(command, check=True)
            take(browser, page, IMAGES / "view.png", 760)


def take(browser: str, page: Path, picture: Path, height: int) -> None:
    """What a page looks like, in few colours."""
    options = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    options += ["--hide-scrollbars", f"--window-size=1200,{height}", "--virtual-time-budget=20000"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.resolve().as_uri()], check=True)
    Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
