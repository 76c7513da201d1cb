"""The verb ``xaiseg explain``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from xaiseg.cli_zoo import DeviceOption, SeedOption


def _list_methods(wanted: bool) -> None:
    if wanted:
        from xaiseg.explaining_params import method_lines

        for line in method_lines():
            typer.echo(line)
        raise typer.Exit


ModelArgument = Annotated[Path, typer.Argument(help="model.yaml", show_default=False)]
ImageArgument = Annotated[Path, typer.Argument(help="An image file.", show_default=False)]
MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="A name that --methods lists, such as occlusion; repeat for several."),
]
MethodsOption = Annotated[
    bool,
    typer.Option(
        "--methods", callback=_list_methods, is_eager=True, help="List the methods and their parameters, and end."
    ),
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="pred (the default), a class, all, objects, x,y, region.png, '{margin: lesion}', ...; of a detector: "
        "all, a class, box 0, x,y, x0,y0,x1,y1,class, tp, fp, fn, '{where: box 0}', ...; repeat for several.",
    ),
]
ReferenceOption = Annotated[
    Path | None, typer.Option("--reference", help="A mask, or a file of boxes, for targets that need one.")
]
MeanOption = Annotated[
    Path | None,
    typer.Option("--dataset-mean", help="An image of the same size, what --param baseline=dataset-mean shows."),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        help="NAME=VALUE for all methods that have it, or METHOD.NAME=VALUE: grid=16, layer=best; repeat for several.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for picture, maps and manifest.")]


def explain(
    model: ModelArgument,
    image: ImageArgument,
    method: MethodOption = None,
    methods: MethodsOption = False,
    target: TargetOption = None,
    reference: ReferenceOption = None,
    dataset_mean: MeanOption = None,
    param: ParamOption = None,
    out: OutOption = Path("explanation"),
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Explains one prediction: a picture, the raw maps as .npy and a manifest."""
    from xaiseg.explaining import explain_image
    from xaiseg.plan import choose_device

    paths = explain_image(
        model,
        image,
        methods=method or (),
        target=target or "pred",
        reference=reference,
        dataset_mean=dataset_mean,
        out=out,
        seed=seed,
        device=choose_device(device),
        settings=param or (),
        tell=partial(typer.echo, err=True),
    )
    for path in paths:
        typer.echo(str(path))
