import pytest

from benchmarks.hardware_cost import unet_operations
from xaiseg.hardware.costs import ratio
from xaiseg.hardware.grouped import grouped_unit
from xaiseg.hardware.published import (
    MERGED_BOARD,
    MERGED_EFFICIENCY,
    MERGED_WATTS,
    grouped_image,
    grouped_layers,
    reproductions,
)

ROWS = {row.name: row for row in reproductions()}


def near(name: str, digits: int) -> float:
    return round(ROWS[name].ours, digits)


def test_the_residual_unet_as_published():
    image = grouped_image()
    assert sum(shape.macs for shape, _ in grouped_layers()) == 2_162_294_784
    assert image.cycles == 74_188_800
    assert round(image.seconds * 1e3, 1) == 148.4
    assert (image.boundary, image.technology, image.clock_mhz) == ("PE", "45 nm library", 500)
    # Published 1.179 mJ: its energies of a cycle are rounded to 0.01 pJ, which is 0.03 %.
    assert image.joules * 1e3 == pytest.approx(1.179, rel=6e-4)
    assert round(image.joules * 1e3, 3) == 1.180


def test_the_rule_finds_the_published_groups_and_lengths():
    lengths = set()
    for shape, unit in grouped_layers():
        assert grouped_unit(shape.terms, lanes=unit.lanes) == unit
        lengths.add(unit.cycles)
    assert lengths == {24, 26, 27, 28, 29, 30}


def test_the_system_model_as_published():
    assert (near("system of 1: time", 1), near("system of 1: area", 1), near("system of 1: energy", 2)) == (
        99.8,
        13.0,
        3.3,
    )
    # Published 16.6 ms, from effective units that the paper finds in cycles which it does not publish.
    assert near("system of 8: time", 1) == 16.8
    assert (near("system of 8: area", 1), near("system of 8: energy", 2)) == (20.9, 1.67)


def test_gains_of_mixed_precision_and_what_they_imply():
    assert near("VGG-16: gain over 8 bits, delay 1.5", 3) == 1.331
    assert near("VGG-16: gain over 8 bits, delay 2", 3) == 1.309
    assert near("ResNet-18: gain over 8 bits, delay 1.5", 3) == 1.260
    assert near("ResNet-18: gain over 8 bits, delay 2", 3) == 1.244
    # Two networks on one accelerator imply one speed and one power at 8 bits.
    assert (near("VGG-16: implied speed at 8 bits", 2), near("ResNet-18: implied speed at 8 bits", 2)) == (14.98, 14.97)
    assert (near("VGG-16: implied power at 8 bits", 4), near("ResNet-18: implied power at 8 bits", 4)) == (
        0.9242,
        0.9236,
    )
    assert (near("VGG-16: implied power", 3), near("ResNet-18: implied power", 3)) == (0.673, 0.714)


def test_the_merged_unit_as_published():
    assert near("cascade over merged, 8 digits, 8 channels", 2) == 2.40
    assert near("cascade over merged, 8 digits, 16 channels", 2) == 2.60
    assert near("96.19 GOP at the board's efficiency", 2) == 6.35
    assert near("96.19 GOP at the processor's efficiency", 1) == 49.8
    assert near("board over processor", 2) == 7.84
    # 3.50 W times 53.25 ms against 186.2 mJ, 0.1 % apart: the published figures are rounded.
    assert MERGED_BOARD.joules == pytest.approx(MERGED_WATTS.value * MERGED_BOARD.seconds, rel=1e-3)
    assert MERGED_BOARD.gops_per_watt == pytest.approx(MERGED_EFFICIENCY.value)
    assert near("board: implied speed", 1) == 52.9


def test_published_figures_are_near_wherever_there_are_any():
    compared = [row for row in ROWS.values() if row.published is not None]
    assert len(compared) > 15
    for row in compared:
        assert row.ours == pytest.approx(row.published, rel=0.05), row.name


def test_a_unit_in_a_library_and_a_board_are_never_divided():
    found = ratio(MERGED_BOARD, grouped_image(), "gops_per_watt")
    assert found.value is None
    assert "differ in technology" in found.reason


def test_operations_of_unets_from_the_shapes_of_their_layers():
    found = {name: round(ops / 1e9, 2) for name, ops in unet_operations().items()}
    assert list(found.values()) == [96.19, 384.77, 24.07, 24.05, 300.86]
