import csv
import io

import torch
from rich.console import Console

from nvsm_lightning.report.results import measure
from nvsm_lightning.report.tables import HEADERS, Row, csv_table, markdown_table, rich_table

ROWS = [
    Row("nvsm", 7, 0, measure(torch.tensor([0.1, 0.2, 0.6, 3.0]))),
    Row("random", 7, None, {**measure(torch.tensor([0.1, 2.0])), "interval": {}}),
]


def test_the_terminal_table_shows_every_cell_in_a_hundred_and_twenty_columns():
    console = Console(width=120, file=io.StringIO())
    console.print(rich_table(ROWS, "cars: 4 test pictures", "[a] caption"))  # names of groups may look like markup
    text = console.file.getvalue()
    for cell in (*HEADERS, *ROWS[0].cells(), *ROWS[1].cells(), "cars: 4 test pictures", "[a] caption"):
        assert cell in text


def test_csv_holds_the_numbers_and_empty_cells_without_interval():
    first, second = csv.DictReader(io.StringIO(csv_table(ROWS)))
    assert float(first["acc_pi_6"]) == 50.0
    assert float(first["acc_pi_6_low"]) <= 50.0 <= float(first["acc_pi_6_high"])
    assert float(first["flip_180_rate"]) == 0.25
    assert (second["seed"], second["acc_pi_6_low"]) == ("", "")


def test_markdown_has_one_cell_a_column():
    lines = markdown_table(ROWS).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(HEADERS) + 1}
