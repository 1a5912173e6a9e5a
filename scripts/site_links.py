"""A hook of mkdocs: links to files outside of docs lead to the repository; on the forge they work as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()\.\./[^)\s]+")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Return ``markdown`` with the links that leave docs changed into addresses of the repository."""
    docs = Path(config.docs_dir)

    def lead(link: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(link[0]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        return f"{config.repo_url}/{target.relative_to(docs.parent)}"

    return LINK.sub(lead, markdown)
