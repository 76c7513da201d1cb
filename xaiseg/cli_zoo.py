"""The verbs of ``xaiseg zoo``: list, show, train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from xaiseg.progress import Bars

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
SizeOption = Annotated[int | None, typer.Option("--size", min=32, help="Internal side, px; default: the recipe's.")]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Names by commas, a segmenter's background first; default: the data's.")
]
ChannelsOption = Annotated[
    int | None, typer.Option("--channels", min=1, help="1 reads images as grey, 3 as RGB; default 1, for a detector 3.")
]
StrataOption = Annotated[list[str] | None, typer.Option("--strata", help="A column that model.yaml declares.")]
SplitOption = Annotated[Path | None, typer.Option("--split", help="CSV file: id, part; default: a seeded hash.")]

zoo = typer.Typer(name="zoo", help="Lists, shows and trains the models of the zoo.", no_args_is_help=True)


@zoo.command("list")
def zoo_list() -> None:
    """Lists the models of the zoo."""
    from xaiseg.zoo import card, list_models

    for name in list_models():
        typer.echo(f"{name}: {card(name).summary}")


@zoo.command("show")
def zoo_show(name: Annotated[str, typer.Argument(help="A name of the zoo.")]) -> None:
    """Prints the card of a model."""
    from xaiseg.zoo import card, card_text

    typer.echo(card_text(card(name)))


@zoo.command("train")
def zoo_train(
    name: Annotated[str, typer.Argument(help="A name of the zoo.")],
    data: Annotated[str, typer.Option("--data", help="phantoms, scenes, scenes:KEY=VALUE,... or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, model.yaml, split and log.")],
    recipe: Annotated[str | None, typer.Option("--recipe", help="Default: the model's first one.")] = None,
    size: SizeOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Default: the recipe's.")] = None,
    channels: ChannelsOption = None,
    classes: ClassesOption = None,
    start: Annotated[Path | None, typer.Option("--start", help="Weights to start from; default: random ones.")] = None,
    strata: StrataOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the processor.")] = 2,
    device: DeviceOption = "auto",
) -> None:
    """Trains a model by one of its recipes; a stopped training goes on."""
    from xaiseg.plan import choose_device
    from xaiseg.training import train_zoo

    with Bars() as bars:
        lines = train_zoo(
            name,
            data,
            out=out,
            recipe=recipe,
            size=size,
            epochs=epochs,
            channels=channels,
            classes=tuple(part.strip() for part in classes.split(",")) if classes else None,
            start=start,
            strata=strata or (),
            split=split,
            seed=seed,
            threads=threads,
            device=choose_device(device),
            progress=partial(bars.tell, "training"),
        )
    for line in lines:
        typer.echo(line)
