"""Does the Verilog do what the simulator does? A sentence and a small table a build."""

from __future__ import annotations

from xaiseg.reports.figures import Story, Table, View, absence, figure

_COUNTS = (
    ("windows", "windows"),
    ("digits", "digits compared"),
    ("digits_differ", "digits that differ"),
    ("values_differ", "values that differ"),
    ("clocks", "clocks"),
    ("clocks_differ", "windows with other clocks"),
    ("ended", "windows that end early"),
    ("ended_differ", "that end in another clock"),
)


@figure("equivalence.rtl")
def rtl(view: View) -> Story:
    """How much was simulated, and what differed."""
    table = view.run.table(view.check) if view.run.has_table(view.check) else None
    held = None if table is None else table[table["status"] == "ok"]
    if held is None or held.empty:
        return Story(view.lead(absence(view)))
    said, rows = [], []
    for name, part in held.groupby("subject", sort=False):
        sums = {column: int(part[column].sum()) for column, _ in _COUNTS}
        differ = sum(value for column, value in sums.items() if column.endswith("_differ"))
        result = "nothing differs" if not differ else f"{differ} digits, values, clocks or ends differ"
        said.append(f"build {name}: {result} in {sums['windows']} windows of {len(part)} convolutions")
        rows.append((str(name), *(f"{sums[column]:,}" for column, _ in _COUNTS)))
    head = ("build", *(words for _, words in _COUNTS))
    caption = "Windows of the first audited image, simulated clock by clock in Icarus Verilog, against the simulator"
    return Story(view.lead(f"{'; '.join(said)}."), (), (Table(caption, head, tuple(rows)),))
