"""docs/annotations.md names every annotation that there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.service_annotations import NAMES

PAGE = (Path(__file__).parent.parent / "docs" / "annotations.md").read_text()


def test_every_annotation_is_on_the_page_and_no_other() -> None:
    first_column = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    annotations, balancing = first_column[1:7], first_column[7:]
    assert {name for cell in annotations for name in re.findall("`([^`]+)`", cell)} == set(NAMES)
    assert [cell.strip(" `") for cell in balancing] == [each.value for each in Balancing]
