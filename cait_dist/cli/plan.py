"""`cait plan`: what a run will need, before it is submitted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import ConfigFile, Overrides

if TYPE_CHECKING:
    from cait_dist.planning.run_plan import RunPlan


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(help="GPUs to train on")] = 8,
    gpu: Annotated[str, typer.Option(help="which: a100-40, a100-80, h100, h200")] = "h200",
    gpus_per_node: Annotated[int, typer.Option(help="GPUs in a node")] = 8,
    images: Annotated[int | None, typer.Option(help="training images, if the data are not here")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="of a GPU for an hour: tells the cost")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="file that `cait bench step` wrote on such a GPU", show_default="user's cache")
    ] = None,
    loader_images_per_second: Annotated[
        float | None, typer.Option(min=0, help="what the input of one node makes, see `cait bench data`")
    ] = None,
    intra_node_gb: Annotated[
        float | None, typer.Option(min=0.1, help="GB/s from a GPU to others of its node", show_default="NVLink's")
    ] = None,
    inter_node_gb: Annotated[
        float | None, typer.Option(min=0.1, help="GB/s of one GPU's adapter", show_default="200 or 400 Gbit/s")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="backend: eager, chunked, native, fused", show_default="the run's own choice")
    ] = None,
    reserve: Annotated[float, typer.Option(help="share of the GPU's memory not to plan with")] = 0.08,
    as_json: Annotated[bool, typer.Option("--json", help="print everything that was counted")] = False,
    picture: Annotated[Path | None, typer.Option(help="draw memory and time into this file (.svg, .png)")] = None,
) -> None:
    """Tell what a run needs: memory, time, network, and how best to run it.

    Memory, arithmetic and traffic are counted from the configuration; nothing is built and no GPU is needed. Times
    are predicted from rates that `cait bench step` measured on such a GPU; without them only bounds are printed.

      cait plan configs/cait_m48_224.yaml model.image_size=448 --gpus 64 --gpu h200

      cait plan my.yaml --gpus 8 --images 1281167 --price 2.5 --json > plan.json
    """
    from cait_dist.config import load_config  # noqa: PLC0415
    from cait_dist.planning.gpus import find_gpu  # noqa: PLC0415
    from cait_dist.planning.run_plan import Request, find_calibration, plan_run  # noqa: PLC0415

    kind = find_gpu(gpu)
    request = Request(
        gpus=gpus,
        gpu=kind,
        gpus_per_node=gpus_per_node,
        reserve=reserve,
        images=images,
        price=price,
        loader_rate=loader_images_per_second,
        within=None if intra_node_gb is None else 1e9 * intra_node_gb,
        between=None if inter_node_gb is None else 1e9 * inter_node_gb,
        attention=attention,
        calibration=find_calibration(calibration, kind),
    )
    made = plan_run(load_config(config, overrides or []).config, request)
    _show(made, as_json=as_json, picture=picture)


def _show(made: "RunPlan", *, as_json: bool, picture: Path | None) -> None:
    if as_json:
        import json  # noqa: PLC0415

        from cait_dist.planning.showing.plan_json import plan_as_dict  # noqa: PLC0415

        typer.echo(json.dumps(plan_as_dict(made), indent=1))
    else:
        from cait_dist.planning.showing.plan_table import print_plan  # noqa: PLC0415

        print_plan(made)
    if picture is not None:
        from cait_dist.planning.showing.plan_picture import draw_plan  # noqa: PLC0415

        draw_plan(made, picture)
        typer.echo(f"drawn: {picture}", err=True)
