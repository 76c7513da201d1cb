"""The verb ``xaiseg screen``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from xaiseg.cli_zoo import DeviceOption, SeedOption
from xaiseg.errors import UsageError
from xaiseg.progress import Bars

ModelArgument = Annotated[Path, typer.Argument(help="model.yaml of a detector.", show_default=False)]
TilesOption = Annotated[
    str, typer.Option("--data", help="tiles=DIR, images without labels.", metavar="tiles=DIR", show_default=False)
]
DrawsOption = Annotated[
    int, typer.Option("--draws", min=1, help="Draws; several may hit one tile.", show_default=False)
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="CSV file, the sidecar of the drawn tiles.")]
DesignOption = Annotated[
    str, typer.Option("--design", help="detector: by its counts, with replacement; random: all tiles alike.")
]
ShareOption = Annotated[
    float | None,
    typer.Option("--random-share", help="Share of the draws by detector that go to all tiles alike; default 0.25."),
]
DisjointOption = Annotated[
    bool, typer.Option("--disjoint", help="You declare: the ground of no tile lies on another one.")
]
CopyOption = Annotated[
    Path | None, typer.Option("--copy-to", help="New folder for the drawn images and their meta.csv.")
]


def screen(
    model: ModelArgument,
    data: TilesOption,
    draws: DrawsOption,
    out: OutOption = Path("screen.csv"),
    design: DesignOption = "detector",
    random_share: ShareOption = None,
    disjoint: DisjointOption = False,
    copy_to: CopyOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draws the tiles that a person counts, so that an audit of them gives a total in animals with an interval."""
    from xaiseg.plan import choose_device
    from xaiseg.screening import Screening
    from xaiseg.screening import screen as screen_tiles

    name, _, folder = data.partition("=")
    if name != "tiles" or not folder:
        raise UsageError("this is no folder of tiles", where="--data", got=data, allowed="tiles=DIR")
    plan = Screening(draws, _design(design), disjoint=disjoint, seed=seed)
    plan = plan if random_share is None else replace(plan, random_share=random_share)
    with Bars() as bars:
        lines = screen_tiles(
            model,
            folder,
            plan=plan,
            out=out,
            copy_to=copy_to,
            device=choose_device(device),
            progress=partial(bars.tell, "screening"),
        )
    for line in lines:
        typer.echo(line)


def _design(name: str) -> Literal["detector", "random"]:
    if name == "detector":
        return "detector"
    if name == "random":
        return "random"
    raise UsageError("there is no such design", where="--design", got=name, allowed="detector or random")
