"""Every case of the matrix: run it in a WebUI, and compare what the probe noted with the statement.

Against a real WebUI: `python tests/matrix/prepare.py FOLDER`, start it with `--api`, then
`python dev.py test tests/matrix --webui-url URL`.
"""

from __future__ import annotations

from typing import Any

import pytest
from matrix import cases, orders, pictures, table, verdict
from PIL import Image
from servers import Server

CASES, PAIRS = cases.matrix()


def host_arithmetic(server: Server, image: Image.Image, steps: list[list[Any]]) -> Image.Image:
    """A picture after the host's own resizing and cropping."""
    request = {"picture": pictures.encoded(image), "steps": steps}
    answer = server.post("/matrix-probe/host-picture", request)
    return pictures.decoded(answer["picture"])


@pytest.mark.parametrize("case", CASES, ids=cases.label)
def test_case_of_the_matrix(server: Server, case: dict[str, str]) -> None:
    server.get("/matrix-probe/take")
    route, request = orders.order(case)
    server.post(route, request)
    found = verdict.complaints(
        case,
        server.get("/matrix-probe/take"),
        lambda image, steps: host_arithmetic(server, image, steps),
    )
    assert not found, f"{case}:\n" + "\n".join(found)


def test_cases_cover_every_possible_pair() -> None:
    assert cases.covered(CASES) >= PAIRS


def test_every_value_of_every_factor_is_possible() -> None:
    seen = {item for pair in PAIRS for item in pair}
    missing = [
        (factor, value)
        for factor, values in cases.FACTORS.items()
        for value in values
        if (factor, value) not in seen
    ]
    assert not missing


def test_page_has_the_table_of_the_matrix() -> None:
    assert table.written() == table.table(), "run python tests/matrix/table.py"
