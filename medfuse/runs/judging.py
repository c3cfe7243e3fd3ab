"""The last stages of `medfuse run`: held-out cases are predicted and judged, and the report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medfuse.core.errors import CheckpointError, DataError
from medfuse.core.json_text import read_text
from medfuse.core.text import yaml_text
from medfuse.model.plan import GraphPlan
from medfuse.pipeline import resolved
from medfuse.runs.changes import pipeline_changes
from medfuse.runs.postprocess import THRESHOLDS, choose, component_scores, dice, said, write_choice
from medfuse.runs.records import LOCK, RESOLVED, TRANSFER, Lock, read_record
from medfuse.runs.teacher import taught_note
from medfuse.runs.weights import recorded_weights
from medfuse.trained.loading import load_trained

if TYPE_CHECKING:
    from medfuse.data.plan import DataPlan
    from medfuse.data.store import Store
    from medfuse.report.evaluate import Evaluation
    from medfuse.report.feature_maps import Picture
    from medfuse.report.pairs import Pair
    from medfuse.runs.run import Run


def predict_held_out(run: Run) -> None:
    """Label maps of the held-out cases, from their own files, by the way that new scans go."""
    cases = [run.cases[name] for name in run.split.validation]
    model = load_trained(
        [run.folder / "weights_last.safetensors"],
        device=run.pipeline.train.device,
        settings=run.pipeline.infer,
        own=run.pipeline.model,
    )
    model = replace(model, calibration=None)  # which these very cases may have made
    outcome = model.infer(
        cases,
        run.folder / "predictions",
        run.reporter,
        probabilities="nifti" if run.pipeline.report.calibration else None,
    )
    left = {name: f"{reason}; move it away" for name, reason in outcome.left.items()}
    if faults := {**outcome.failed, **left}:
        raise DataError(*(f"{name}: {reason}" for name, reason in faults.items()))


def evaluate(run: Run) -> Evaluation:
    """Metrics of the held-out cases on the grids of their own files."""
    from medfuse.report.evaluate import evaluate_pairs
    from medfuse.runs.probabilities import probabilities_beside

    return evaluate_pairs(
        _pairs(run),
        run.info.labels,
        ignore=run.info.ignore,
        tolerance_mm=run.pipeline.preprocess.tolerance_mm,
        lesions=run.pipeline.report.lesions,
        probabilities=probabilities_beside if run.pipeline.report.calibration else None,
        reporter=run.reporter,
    )


def _pairs(run: Run) -> list[Pair]:
    """The held-out cases' predicted and true label maps."""
    from medfuse.data.split import patients
    from medfuse.infer.cases import output_name
    from medfuse.report.pairs import Pair

    patient_of = patients(run.info.cases, run.pipeline.split)
    found = []
    for name in run.split.validation:
        case = run.cases[name]
        assert case.label is not None, "a split has labelled cases only"
        predicted = run.folder / "predictions" / output_name(case)
        patient = patient_of[name]
        found.append(Pair(name, predicted, case.label, patient if patient != name else None))
    return found


def judged_otherwise(run: Run) -> tuple[str, ...]:
    """A note where `infer` says something else than it did when the weights were made."""
    from medfuse.model.weights import load_weights

    _, facts = load_weights(run.folder / "weights_last.safetensors")
    changes = [*pipeline_changes(facts.get("infer"), resolved(run.pipeline)["infer"], "infer")]
    return (f"judged otherwise than the run began: {'; '.join(changes)}",) if changes else ()


def choose_postprocess(run: Run, plan: DataPlan, store: Store) -> tuple[str, ...]:
    """Where it is left to the held-out cases: what they chose, which is written down too."""
    if run.pipeline.infer.postprocess != "auto":
        return ()
    components = component_scores(_pairs(run), plan.labels, plan.region_order, plan.ignore, run.reporter)
    chosen = choose(components, _threshold_scores(run, plan, store) if plan.regions else {})
    write_choice(run.folder, chosen)
    return tuple(said(chosen))


def _threshold_scores(run: Run, plan: DataPlan, store: Store) -> dict[str, dict[str, dict[str, float]]]:
    """Case → region → threshold → Dice, on the network's grid."""
    import numpy as np

    from medfuse.infer.sliding import predict_logits

    trained = load_trained(
        [run.folder / "weights_last.safetensors"],
        device=run.pipeline.train.device,
        settings=run.pipeline.infer,
        own=run.pipeline.model,
    )
    scores = {}
    with run.reporter.track("trying thresholds", len(run.split.validation)) as advance:
        for done, name in enumerate(run.split.validation, 1):
            image, label = store.read_case(name)
            probability = predict_logits(
                image,
                trained.networks[0],
                patch_size=plan.patch_size,
                classes=len(plan.classes),
                overlap=run.pipeline.infer.windows_overlap,
                batch_size=run.pipeline.infer.batch_size,
                device=trained.device,
            ).sigmoid()
            known = label != plan.ignored
            scores[name] = {
                region: {
                    f"threshold {t}": dice((found > t).cpu().numpy() & known, np.isin(label, numbers))
                    for t in THRESHOLDS
                }
                for region, found, numbers in zip(plan.classes, probability, plan.regions)
            }
            advance(done, name)
    return scores


def draw_pictures(
    run: Run, plan: DataPlan, graph: GraphPlan, evaluation: Evaluation
) -> dict[str, list[Picture]]:
    """What the pipeline's `report` asks to see of the network, for the cases that the report shows."""
    from medfuse.data.prepare import Preprocessor
    from medfuse.model.selection import matching, select
    from medfuse.report.html import chosen_cases
    from medfuse.trained.inside import CaseInside, Output, draw_inside

    settings = run.pipeline.report
    if not (settings.maps or settings.gradcam) or not evaluation.cases:
        return {}
    path = run.folder / "weights_last.safetensors"
    further = [name for name in (*settings.maps, *settings.gradcam) if not matching(graph, name)]
    trained = load_trained([path], device=run.pipeline.train.device, own=run.pipeline.model, maps=further)
    network = trained.segmenter()
    graph = trained.graph or graph
    maps, gradcam = select(graph, settings.maps), select(graph, settings.gradcam)
    preprocessor = Preprocessor(plan, run.pipeline.preprocess.tolerance_mm)
    chosen = [judged for _, judged in chosen_cases(evaluation.cases)]
    numbers = plan.regions or tuple((number,) for number in range(len(plan.classes)))
    outputs = [Output(n, i, numbers[i]) for i, n in enumerate(plan.classes) if numbers[i] != (0,)]
    made = {}
    with run.reporter.track("drawing what is inside the network", len(chosen)) as advance:
        for done, judged in enumerate(chosen, 1):
            case = replace(run.cases[judged.name], label=judged.pair.prediction)
            prepared = trained.prepare(case) if plan.before else preprocessor.prepare(case)
            inside = CaseInside(prepared.image, preprocessor.prepare_label(case, prepared))
            made[case.name] = draw_inside(
                network, inside, plan.image, maps=maps, gradcam=gradcam, labels=outputs
            )
            advance(done, case.name)
    return made


def write_run_report(
    run: Run, graph: GraphPlan, evaluation: Evaluation, pictures: Mapping[str, Sequence[Picture]]
) -> None:
    from medfuse.report.html import ReportContent, write_report
    from medfuse.runs.viewing import write_viewer
    from medfuse.train.log import read_rows

    locked = read_record(Lock, run.folder / LOCK).model_dump(mode="json")
    repeat = {
        key: yaml_text(value).strip() if isinstance(value, dict | list) else str(value)
        for key, value in locked.items()
        if key != "data"
    }
    if pretrained := recorded_weights(run.folder / TRANSFER):
        repeat["weights that it started from"] = "\n".join(pretrained)
    if taught := taught_note(run.folder):
        repeat["teacher"] = "\n".join(taught)
    repeat["data (SHA-256)"] = "\n".join(f"{digest}  {file}" for file, digest in locked["data"].items())
    views, view_note = write_viewer(run, evaluation)
    content = ReportContent(
        name=run.pipeline.name,
        date=locked["started"],
        evaluation=evaluation,
        graph=graph_nodes(graph),
        rows=read_rows(run.folder / "metrics.jsonl"),
        images={name: run.cases[name].images[0] for name in run.split.validation},
        pictures=pictures,
        ct=run.info.channels[0].strip().lower() == "ct",
        tolerance_mm=run.pipeline.preprocess.tolerance_mm,
        pipeline=read_text(run.folder / RESOLVED, raises=CheckpointError),
        repeat=repeat,
        colors={name: says.color for name, says in run.info.label_table.items() if says.color},
        views=views,
        view_note=view_note,
    )
    with run.reporter.track("writing the report", 1) as advance:
        write_report(run.folder / "report.html", content)
        advance(1, "")


def graph_nodes(graph: GraphPlan) -> list[Any]:
    """The graph in the report's own terms."""
    from medfuse.report.graph import GraphNode

    return [GraphNode(v.name, v.kind, v.text, v.inputs) for v in graph.views()]
