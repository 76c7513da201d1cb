"""The verb ``xaiseg tiles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tiles(
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder of pictures, or with images/; with boxes in COCO's format or none.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.", show_default=False)],
    size: Annotated[int, typer.Option("--size", min=32, help="Side of a tile, px.")] = 640,
    overlap: Annotated[int, typer.Option("--overlap", min=0, help="Pixels that neighbours share.")] = 0,
) -> None:
    """Cuts large pictures and their boxes into tiles; the tiles of a picture stay together as one cluster."""
    from xaiseg.data.mosaics import Cut, cut_folder

    written = cut_folder(data, out, Cut(size, overlap))
    typer.echo(f"wrote {written.tiles} tiles to {out}")
    if lost := written.unlisted:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        typer.echo(f"not cut, since the COCO file does not list them: {len(lost)} ({shown})")
