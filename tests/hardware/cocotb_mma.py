"""Runs inside the simulator under cocotb: drives the ports of msdf_mma, signal by signal.

Each prefix is held against the closed form, floor(2^m S + 1/2) with the input digits that m digits can know, written
out here in integers. Unlike the vectors of the testbench, sums come with pauses, without them, and after a reset in
their midst.
"""

from __future__ import annotations

import os
import random

import cocotb
from cocotb.triggers import Timer

DELAY = 2


async def clock(unit) -> None:
    for level in (0, 1):  # what was written before settles while the clock is low
        unit.clk.value = level
        await Timer(1, unit="step")


def lay(unit, inputs, weights, count) -> None:
    """Parallel operands and the first digits."""
    width = len(unit.weights) // len(inputs)
    unit.weights.value = sum((w & 2**width - 1) << width * term for term, w in enumerate(weights))
    unit.count.value = count
    unit.start.value = 1
    feed(unit, inputs, 0)


def feed(unit, inputs, step) -> None:
    unit.digits.value = sum((x >> 7 - step & 1) << term for term, x in enumerate(inputs)) if step < 8 else 0


async def add_up(unit, inputs, weights, count) -> tuple[list[int], int, int]:
    """Digits, clocks, and the clock in which END rose."""
    lay(unit, inputs, weights, count)
    digits, clocks, ended = [], 0, 0
    while True:
        await clock(unit)
        unit.start.value = 0
        clocks += 1
        if int(unit.valid.value):
            digits.append(int(unit.plus.value) - int(unit.minus.value))
        if int(unit.negative.value) and not ended:
            ended = clocks
        if int(unit.done.value) or clocks > 100:
            return digits, clocks, ended
        feed(unit, inputs, clocks)


def prefixes(inputs, weights, total) -> list[int]:
    """The values of all prefixes by the closed form; inputs are in two's complement."""
    found = []
    for m in range(1, total + 1):
        unseen = max(0, 8 - m - DELAY)
        known = sum((x >> unseen << unseen) * w for x, w in zip(inputs, weights, strict=True))
        shift = total - m
        found.append(min(max((known + (1 << shift >> 1)) >> shift, 1 - 2**m), 2**m - 1))
    return found


@cocotb.test(timeout_time=10**6, timeout_unit="step")
async def prefixes_are_the_closed_form(unit) -> None:
    rng = random.Random(0)
    terms = len(unit.digits)
    total = 8 + 7 + (terms - 1).bit_length()
    for signal in (unit.reset, unit.start, unit.bias_digit, unit.preload, unit.digits, unit.weights, unit.count):
        signal.value = 0
    unit.reset.value = 1
    await clock(unit)
    unit.reset.value = 0
    compared = 0
    for number in range(int(os.environ["SUMS"])):
        inputs = [rng.randint(-128, 127) for _ in range(terms)]
        weights = [rng.randint(-128, 127) for _ in range(terms)]
        if number % 5 == 0:  # a sum that is broken off leaves nothing behind
            lay(unit, weights, inputs, total)
            await clock(unit)
            unit.start.value = 0
            for _ in range(rng.randint(0, 4)):
                await clock(unit)
            unit.reset.value = 1
            await clock(unit)
            unit.reset.value = 0
        for _ in range(rng.choice((0, 0, 3))):
            await clock(unit)
            assert not int(unit.valid.value)
        digits, clocks, ended = await add_up(unit, inputs, weights, total)
        expected, value = prefixes(inputs, weights, total), 0
        assert len(digits) == total
        assert clocks == DELAY + total
        for digit, prefix in zip(digits, expected, strict=True):
            value = 2 * value + digit
            assert value == prefix, (inputs, weights, digits)
            compared += 1
        assert ended == next((m + DELAY for m, prefix in enumerate(expected, start=1) if prefix < 0), 0)
    unit._log.info("prefixes compared: %d", compared)
