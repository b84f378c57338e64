"""What mkdocs does not do by itself: links of pages to files of the repository, and pipes in the code of tables.

A page links a file of the repository as it lies beside the page in the checkout, so that the link leads there in an
editor and on a forge as well. The site has each such file below ``repository/``, as a page if it is Markdown. A link
to what is not there is left as it is, which ``mkdocs build --strict`` refuses.

On forges a ``|`` within code ends a table's cell unless it is escaped; here it does not, and an escape would be shown.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
SITE = "repository/"
"""Where the site has what is not below ``docs/pages``."""

GUIDES = ("README.md", "CHANGELOG.md", "SECURITY.md", "envoy/README.md", "policies/README.md")
"""Pages that stand beside what they tell of. The first is the site's first page."""

_CODE = re.compile(r"`[^`]*`")
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[#)])")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the guides, and what they and the pages link."""
    for guide in GUIDES:
        files.append(_file(ROOT / guide, config))
    for page in list(files.documentation_pages()):
        for target in _LINK.findall(page.content_string):
            linked = _linked(page, target)
            if linked is not None and files.get_file_from_path(_uri(linked)) is None:
                files.append(_file(linked, config))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links as the site has what they lead to."""

    def in_site(match: re.Match[str]) -> str:
        linked = _linked(page.file, match[0])
        return match[0] if linked is None else posixpath.relpath(_uri(linked), posixpath.dirname(page.file.src_uri))

    lines = _LINK.sub(in_site, markdown).splitlines()
    return "\n".join(_CODE.sub(_without_escape, line) if line.startswith("|") else line for line in lines)


def _without_escape(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")


def _linked(page: File, target: str) -> Path | None:
    """The file of the checkout that a page links by ``target``; None if there is none."""
    assert page.abs_src_path is not None
    path = Path(os.path.normpath(Path(page.abs_src_path).parent / target))
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
    """How the site calls a file of the checkout."""
    if path == ROOT / GUIDES[0]:
        return "index.md"
    return str(path.relative_to(PAGES) if path.is_relative_to(PAGES) else SITE / path.relative_to(ROOT))


def _file(path: Path, config: MkDocsConfig) -> File:
    return File.generated(config, _uri(path), abs_src_path=str(path))
