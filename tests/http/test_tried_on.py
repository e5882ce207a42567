"""The cases that are tried in WebUIs, on a real server."""

from __future__ import annotations

import re

import pytest
import tried_on


def test_webui_does_well_and_the_same_twice(webui, capsys: pytest.CaptureFixture) -> None:
    addresses = ["--webui-url", webui.url, "--webui-url", f"again={webui.url}"]
    status = tried_on.main([*addresses, "--size", "128x128", "--steps", "3"])
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    assert "| WebUI 1 | again |" in told.out
    beside = re.findall(r"; (\d+) / (\d+) \|", told.out)
    assert len(beside) == 6
    for plain, controlled in beside:
        is_random = not webui.is_ours and plain != "0"  # the host draws anew
        assert controlled == "0" or is_random, told.out
