"""A hook of mkdocs: links from docs/ to other files of the repository become their names.

The site has no page for those. One that does not exist is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]*)(#[^)]*)?\)")

logger = logging.getLogger("mkdocs.hooks.docs_links")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    folder = (ROOT / "docs" / page.file.src_path).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            logger.warning("%s links to %s, which does not exist", page.file.src_path, link[2])
        name = str(target.relative_to(ROOT))
        return link[1] if link[1] == name else f"{link[1]} (`{name}`)"

    return LINK.sub(named, markdown)
