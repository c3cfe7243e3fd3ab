"""Draws the README's pictures from the finished run of pipelines/liver.yaml."""

import json
from pathlib import Path

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


if __name__ == "__main__":
    main()
