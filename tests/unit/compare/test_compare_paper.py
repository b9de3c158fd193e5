"""The published results, each with its source, and the distance to them only where it means something."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from compared_runs import a_run

import cait_dist.compare
from cait_dist.compare.comparison import PaperDistance
from cait_dist.compare.judging.paper import paper_distance, paper_rows
from cait_dist.compare.judging.paper_table1 import table1
from cait_dist.compare.run_data import RunData, SetFacts
from cait_dist.config import flatten, load_config
from cait_dist.models.architecture import Architecture
from cait_dist.models.zoo import architecture, list_models
from cait_dist.planning.counting.flops import count_macs, count_params

IMAGENET = {
    "train_images": 1_281_167,
    "image_size": 224,
    "parameters": 46_916_200,
    "sets": {"val": SetFacts("7", 50_000)},
}

PLAIN = {
    ("CaiT-XXS24", 224): 77.6,
    ("CaiT-XS24", 224): 81.8,
    ("CaiT-XS36", 224): 82.6,
    ("CaiT-S24", 224): 82.7,
    ("CaiT-S36", 224): 83.3,
    ("CaiT-M24", 224): 83.4,
    ("CaiT-S36", 384): 85.0,
    ("CaiT-S48", 384): 85.1,
    ("CaiT-M24", 384): 84.5,
}
DISTILLED = {
    ("CaiT-XXS24", 224): 78.4,
    ("CaiT-XXS36", 224): 79.75,
    ("CaiT-XS24", 224): 82.0,
    ("CaiT-XS36", 224): 82.9,
    ("CaiT-S24", 224): 83.5,
    ("CaiT-XXS24", 384): 80.95,
    ("CaiT-XXS36", 384): 82.2,
    ("CaiT-XS24", 384): 84.1,
    ("CaiT-XS36", 384): 84.8,
    ("CaiT-S24", 384): 85.1,
    ("CaiT-S36", 384): 85.4,
    ("CaiT-M36", 384): 86.1,
    ("CaiT-M36", 448): 86.3,
    ("CaiT-M48", 448): 86.5,
}


ABLATIONS = Path(__file__).resolve().parents[3] / "configs" / "ablations"
TABLE_1 = {
    "pre_norm": (79.9, 80.7, 81.0, 81.9),
    "rezero_adapted": (78.3, 80.1, 80.8, 81.6),
    "t_fixup_adapted": (79.4, 81.7, 81.5, 82.1),
    "fixup_adapted": (80.7, 82.0, 82.3, 82.4),
    "scalar": (80.4, 81.6, 81.1, 81.6),
    "layer_scale": (80.5, 81.7, 82.4, 82.9),
}
UNIFORM = (79.9, 80.1, 78.9, 78.9)
DEPTHS = (12, 18, 24, 36)


def paper_run(settings: dict[str, Any] | None = None, top1: float = 82.5, **facts: Any) -> RunData:
    return a_run("s24", top1, config="cait_s24_224.yaml", settings=settings, **{**IMAGENET, **facts})


def test_accuracies_are_those_typed_by_hand() -> None:
    assert {(row.model, row.image_size): row.top1 for row in paper_rows() if not row.distilled} == PLAIN
    assert {(row.model, row.image_size): row.top1 for row in paper_rows() if row.distilled} == DISTILLED
    assert len(paper_rows()) == len(PLAIN) + len(DISTILLED)


def test_every_number_has_a_source() -> None:
    assert all(row.source for row in paper_rows())
    with (Path(cait_dist.compare.__file__).parent / "judging" / "paper_rows.csv").open() as file:
        assert all(row["source"].strip() and row["macs_source"].strip() for row in csv.DictReader(file))


@pytest.mark.parametrize("row", paper_rows(), ids=lambda row: f"{row.model}-{row.image_size}-{row.distilled}")
def test_parameters_and_macs_are_those_of_the_model_of_that_name(row: Any) -> None:
    name = f"cait_{row.model.removeprefix('CaiT-').lower()}_{row.image_size}"
    assert name in list_models()
    model = architecture(name)
    assert row.parameters == count_params(model).total
    assert row.macs == pytest.approx(count_macs(model).total, rel=0.012)  # the published ones are rounded


def test_a_run_of_the_papers_recipe_has_a_distance() -> None:
    found = paper_distance(paper_run())
    assert found.reasons == ()
    assert found.row is not None
    assert (found.row.model, found.row.distilled, found.row.top1) == ("CaiT-S24", False, 82.7)
    assert found.difference == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("settings", "facts", "reason"),
    [
        ({"training.epochs": 100}, {}, "trained for 100 epochs instead of 400"),
        ({"data.repeats": 1}, {}, "repeats 1 instead of 3"),
        ({"evaluation.crop_ratio": 0.875}, {}, "crop_ratio 0.875 instead of 1"),
        ({"augment.mixup": 0}, {}, "mixup 0 instead of 0.8"),
        ({"model.drop_path_rate": 0.3}, {}, "drop_path_rate 0.3 instead of 0.1"),
        ({"optimizer.lr": 1e-3}, {}, "peak learning rate 0.002 instead of 0.001"),
        ({"optimizer.lr_reference_batch": None}, {}, "peak learning rate 0.0005 instead of 0.001"),
        ({"model.num_classes": 10}, {}, "10 classes instead of 1,000"),
        ({"model.init_from": "w.pth"}, {}, "it did not start from fresh weights"),
        ({}, {"train_images": 1797}, "1,797 training images instead of 1,281,167"),
        ({}, {"train_images": None}, "its number of training images is not known"),
        ({}, {"sets": {"val": SetFacts("7", 360)}}, "360 validation images instead of 50,000"),
        ({}, {"sets": {"v2": SetFacts("7", 50_000)}}, "its number of validation images is not known"),
        ({}, {"parameters": 46_534_810}, "46,534,810 parameters instead of 46,916,200"),
        ({}, {"outcome": "stopped"}, "it was not trained to its end"),
        ({}, {"top1": float("nan")}, "it diverged"),
    ],
)
def test_another_recipe_is_no_distance_and_the_reason_is_said(settings: Any, facts: Any, reason: str) -> None:
    found = paper_distance(paper_run(settings, **facts))
    assert found.row is not None
    assert found.difference is None
    assert found.reasons == (reason,)


def test_all_reasons_are_said() -> None:
    found = paper_distance(paper_run({"training.epochs": 100, "augment.cutmix": 0}, train_images=1797))
    assert len(found.reasons) == 3


def test_the_average_of_weights_is_not_what_the_paper_measured() -> None:
    run = paper_run()
    curves = {"val_ema/top1": run.curves["val/top1"]}
    found = paper_distance(RunData(run.name, run.source, run.config, run.facts, run.attempts, curves, run.totals))
    assert found.reasons == ("it has no val/top1 of its raw weights",)


def test_a_model_published_only_with_a_teacher_is_shown_and_not_compared() -> None:
    found = paper_distance(paper_run({"model.name": "cait_xxs36_224"}, parameters=17_299_720))
    assert found.row is not None
    assert found.row.distilled
    assert found.reasons == ("the published model was distilled from a teacher",)


def test_a_fine_tuned_result_is_no_match_for_training_at_that_size() -> None:
    facts = {"image_size": 384, "parameters": 68_366_632}
    found = paper_distance(paper_run({"model.name": "cait_s36_384"}, **facts))
    assert found.row is not None
    assert found.row.top1 == 85.0
    assert found.reasons == ("the published model was trained at 224 pixels and fine-tuned at 384",)


def shipped_run(file: str, top1: float, **facts: Any) -> RunData:
    return a_run("shipped", top1, config=file, settings={}, **{**IMAGENET, **facts})


def test_a_fine_tuned_run_stands_beside_the_fine_tuned_result() -> None:
    run = shipped_run("finetune/cait_s36_384.yaml", 84.5, image_size=384, parameters=68_366_632)
    assert paper_distance(run).reasons == ()
    assert paper_distance(run).difference == pytest.approx(-0.5)


def test_a_distilled_run_stands_beside_the_distilled_result() -> None:
    found = paper_distance(shipped_run("distilled/cait_s24_224.yaml", 83.0))
    assert found.reasons == ()
    assert found.row is not None
    assert (found.row.distilled, found.row.top1) == (True, 83.5)
    facts = {"image_size": 448, "parameters": 356_460_520}
    best = paper_distance(shipped_run("distilled/cait_m48_448.yaml", 86.0, **facts))
    assert (best.reasons, best.difference) == ((), pytest.approx(-0.5))


@pytest.mark.parametrize(
    ("settings", "facts", "reason"),
    [
        ({"distillation.kind": "soft"}, {}, "kind soft instead of hard"),
        ({"distillation.alpha": 0.9}, {}, "alpha 0.9 instead of 0.5"),
        ({"distillation.teacher_model": None}, {}, "teacher_model null instead of timm/regnety_160"),
        ({"model.name": "cait_m24_224", "model.drop_path_rate": 0.2}, {"parameters": 185_850_088},
         "it was distilled from a teacher"),
    ],
)  # fmt: skip
def test_another_teacher_is_no_distance(settings: Any, facts: Any, reason: str) -> None:
    run = a_run("d", 83.0, config="distilled/cait_s24_224.yaml", settings=settings, **{**IMAGENET, **facts})
    assert paper_distance(run).reasons == (reason,)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer.kind": "sgd"}, "kind sgd instead of adamw"),
        ({"optimizer.layer_decay": 0.75}, "layer_decay 0.75 instead of null"),
    ],
)
def test_another_optimizer_is_another_recipe(settings: Any, reason: str) -> None:
    assert paper_distance(paper_run(settings)).reasons == (reason,)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (paper_run({"model.embed_dim": 96}, parameters=1), "embed_dim=96 makes another model than CaiT-S24"),
        (paper_run({"model.residual": "rezero"}), "residual=rezero makes another model than CaiT-S24"),
        (paper_run({"model.talking_heads": False}), "talking_heads=false makes another model than CaiT-S24"),
        (
            paper_run({"model.image_size": 64}, image_size=64),
            "no published result of CaiT-S24 at 64 pixels has a source",
        ),
        (paper_run({"model.name": "cait_s48_224"}), "no published result of CaiT-S48 at 224 pixels has a source"),
        (paper_run({"model.name": "resnet50"}), "resnet50 is no CaiT of the paper"),
        (paper_run({"model.name": ""}), "a model without a name is no CaiT of the paper"),
    ],
)
def test_a_model_that_is_not_in_the_paper_has_no_row(run: RunData, reason: str) -> None:
    assert paper_distance(run) == PaperDistance(None, None, (reason,))


def test_a_variant_spelled_out_by_its_own_numbers_is_still_that_variant() -> None:
    assert paper_distance(paper_run({"model.embed_dim": 384, "model.depth": 24})).difference is not None


def test_settings_that_an_old_run_does_not_tell_are_reasons() -> None:
    run = paper_run()
    config = {key: value for key, value in run.config.items() if key != "data.repeats"}
    found = paper_distance(RunData(run.name, run.source, config, run.facts, run.attempts, run.curves, run.totals))
    assert found.reasons == ("its repeats is not known",)


def ablation_run(file: str = "table1_stabilisation/depth_24.yaml", top1: float = 82.0, **more: Any) -> RunData:
    """A run of an ablation, with as many parameters as its network has."""
    settings = {"model.residual": "layer_scale"} | dict(more.pop("settings", {}))
    flat = flatten(load_config(ABLATIONS / file).config) | settings
    model = {key.removeprefix("model."): value for key, value in flat.items() if key.startswith("model.")}
    known = {field.name for field in fields(Architecture)} - {"num_classes"}
    network = architecture(model["name"], **{key: value for key, value in model.items() if key in known})
    parameters = count_params(network).total
    facts = {**IMAGENET, "parameters": parameters, **more}
    return a_run("ablation", top1, config=f"ablations/{file}", settings=settings, **facts)


def test_the_cells_of_table_1_are_those_typed_by_hand() -> None:
    adjusted = dict(zip(DEPTHS, (0.05, 0.1, 0.2, 0.25), strict=True))
    cells = {(residual, depth, adjusted[depth]): top1 for residual, row in TABLE_1.items()
             for depth, top1 in zip(DEPTHS, row, strict=True)}  # fmt: skip
    cells |= {("pre_norm", depth, 0.05): top1 for depth, top1 in zip(DEPTHS, UNIFORM, strict=True)}
    assert {(c.residual, c.depth, c.drop_path_rate): c.row.top1 for c in table1()} == cells
    assert [(c.depth, c.drop_path_rate) for c in table1() if not c.finished] == [(24, 0.05), (36, 0.05)]
    assert len(table1()) == len(cells)
    assert all("public transcription" in cell.row.source for cell in table1())
    for cell in table1():
        model = architecture("cait_s24_224", num_heads=6, depth=cell.depth, residual=cell.residual,
                             class_token="from_start", talking_heads=False)  # fmt: skip
        assert (cell.row.parameters, cell.row.macs) == (count_params(model).total, count_macs(model).total)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("residual", TABLE_1)
def test_a_run_of_a_column_of_table_1_stands_beside_its_cell(residual: str, depth: int) -> None:
    run = ablation_run(f"table1_stabilisation/depth_{depth}.yaml", settings={"model.residual": residual})
    found = paper_distance(run)
    assert found.reasons == ()
    assert found.difference == pytest.approx(82.0 - TABLE_1[residual][DEPTHS.index(depth)])


@pytest.mark.parametrize(("depth", "reasons"), [(18, ()), (36, ("the published run did not train to its end",))])
def test_the_first_row_is_told_from_the_second_by_stochastic_depth(depth: int, reasons: tuple[str, ...]) -> None:
    settings = {"model.residual": "pre_norm", "model.depth": depth}
    found = paper_distance(ablation_run("table1_stabilisation/uniform.yaml", settings=settings))
    assert found.row is not None
    assert (found.row.top1, found.reasons) == (UNIFORM[DEPTHS.index(depth)], reasons)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.residual": "rezero"},
        {"model.depth": 25},
        {"model.embed_dim": 192},
        {"model.num_heads": 8},
        {"model.drop_path_rate": 0.25},
        {"model.class_token": "average_pooling"},
        {"model.class_token": "class_attention"},
        {"model.talking_heads": True},
        {"model.layer_scale_init": 0.1},
        {"training.epochs": 400},
        {"model.image_size": 384, "image_size": 384},
        {"train_images": 1437},
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_in_anything_that_names_a_cell_has_none(settings: dict[str, Any]) -> None:
    facts = {key: settings.pop(key) for key in ("image_size", "train_images") if key in settings}
    assert paper_distance(ablation_run(settings=settings, **facts)).row is None


@pytest.mark.parametrize("file", sorted(ABLATIONS.rglob("digits*.yaml")), ids=lambda file: f"{file.parent.name}")
def test_digits_are_never_set_beside_the_paper(file: Path) -> None:
    for depth in DEPTHS:
        run = a_run("small", config=str(file.relative_to(ABLATIONS.parent)), settings={"model.depth": depth})
        assert paper_distance(run).row is None


def test_a_cell_of_another_recipe_is_no_distance_and_the_reason_is_said() -> None:
    found = paper_distance(ablation_run(settings={"augment.mixup": 0, "evaluation.crop_ratio": 1.0}))
    assert found.row is not None
    assert found.row.model == "DeiT-S with 24 blocks, layer_scale, drop path 0.2"
    assert found.reasons == ("mixup 0 instead of 0.8", "crop_ratio 1 instead of 0.875")


def test_a_run_read_from_mlflow_where_all_settings_are_text_has_the_same_cell() -> None:
    run = ablation_run()
    config = {key: str(value) for key, value in run.config.items()}
    found = paper_distance(RunData(run.name, run.source, config, run.facts, run.attempts, run.curves, run.totals))
    assert found == paper_distance(run)
    assert found.difference == pytest.approx(-0.4)
