"""Every case of the matrix: run it in a WebUI, and compare what the probe noted with the statement.

Against a real WebUI: `python tests/matrix/prepare.py FOLDER`, start it with `--api`, then
`python dev.py test tests/matrix --webui-url URL -k "not sdxl"`. Those on SDXL run on any checkpoint
of that kind that a WebUI has, and skip what it has no checkpoint for: `prepare.py FOLDER --probe`,
then `python dev.py test --webui-url URL --sdxl-checkpoint NAME --sdxl-control NAME`. Members of the
Forge family are asked the same, but what `members.LIMITS` says; `--like forge` asks the embedded
host shaped as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sdxl_models
from matrix import cases, members, orders, pictures, table, verdict
from matrix.pairwise import Pair
from PIL import Image
from servers import Server

CASES, PAIRS = cases.matrix()
SDXL_CASES, SDXL_PAIRS = cases.sdxl_matrix()


def host_arithmetic(server: Server, image: Image.Image, steps: list[list[Any]]) -> Image.Image:
    """A picture after the host's own resizing and cropping."""
    request = {"picture": pictures.encoded(image), "steps": steps}
    answer = server.post("/matrix-probe/host-picture", request)
    return pictures.decoded(answer["picture"])


@pytest.mark.parametrize("case", [*CASES, *SDXL_CASES], ids=cases.label)
def test_case_of_the_matrix(
    server: Server, member: str, names: dict[str, str], case: dict[str, str]
) -> None:
    reason = members.find_limit(member, case)
    if reason:
        pytest.skip(f"{member}: {reason}")
    server.get("/matrix-probe/take")
    route, request = orders.order(case)
    missing = orders.models_of(request).intersection(sdxl_models.NAMES) - names.keys()
    if missing:
        pytest.skip(f"the WebUI has no checkpoint {', '.join(missing)}")
    request = members.fitted(orders.renamed(request, names), member, case)
    is_real = member == members.A1111 and not server.log_file
    own_failure = cases.fails_by_itself(case) if is_real else ""
    if own_failure:
        answer = server.client.post(route, json=request)
        assert (answer.status_code, own_failure in answer.text) == (500, True)
        return
    server.post(route, request)
    found = verdict.complaints(
        case,
        server.get("/matrix-probe/take"),
        lambda image, steps: host_arithmetic(server, image, steps),
    )
    assert not found, f"{case}:\n" + "\n".join(found)


@pytest.mark.parametrize("name", cases.BEYOND_THE_HOST)
def test_host_fails_by_itself_at_what_the_matrix_leaves_out(
    server: Server, member: str, name: str
) -> None:
    if member != members.A1111:
        pytest.skip(f"{member} may do what A1111 cannot")
    case = {**cases.NOTHING_SPECIAL, **cases.BEYOND_THE_HOST[name]}
    assert not cases.is_possible(case)
    route, request = orders.order(case)
    answer = server.client.post(route, json={**request, "alwayson_scripts": {}})
    assert answer.status_code == 500
    assert server.get("/matrix-probe/take")["hooks"] == []


def test_cases_cover_every_possible_pair() -> None:
    assert cases.covered(CASES) >= PAIRS
    assert cases.covered(SDXL_CASES) >= SDXL_PAIRS


@pytest.mark.parametrize(
    ("factors", "pairs"), [(cases.FACTORS, PAIRS), (cases.SDXL_FACTORS, SDXL_PAIRS)]
)
def test_every_value_of_every_factor_is_possible(
    factors: dict[str, Sequence[str]], pairs: set[Pair]
) -> None:
    seen = {item for pair in pairs for item in pair}
    missing = [
        (factor, value)
        for factor, values in factors.items()
        for value in values
        if (factor, value) not in seen
    ]
    assert not missing


def test_page_has_the_table_of_the_matrix() -> None:
    assert table.written() == table.table(), "run python tests/matrix/table.py"
