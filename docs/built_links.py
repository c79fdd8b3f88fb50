"""Check what was built: every local link, anchor, picture and script exists, and none is far away.

Sphinx checks links that it resolves itself; this reads the pages as a browser does, with what the
theme and raw HTML add. As an extension it runs after the build and warns, and `make docs` makes
warnings errors. Links to other sites are listed in `external-links.txt`, and asked only when
`make docs LINKS=1` wants it.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

LIST = "external-links.txt"
# What a browser loads by itself; an `a` is only followed.
LOADED = {"img": "src", "script": "src", "source": "src", "link": "href", "iframe": "src"}
# `link`s that say something and load nothing.
SAID = {"canonical", "next", "prev", "index", "search", "author", "license"}
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """One page's anchors, and what it links to and loads.

    Attributes:
        anchors: names that can stand behind `#`.
        links: targets of `a`.
        loaded: addresses that a browser fetches to show the page.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """What `HTMLParser` calls."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if values.get(LOADED.get(tag, "")) and values.get("rel") not in SAID:
            self.loaded.append(values[LOADED[tag]])


def is_external(address: str) -> bool:
    """Whether an address names another site."""
    return bool(urlsplit(address).netloc)


def check_site(root: Path) -> tuple[list[str], list[str]]:
    """Read a built site.

    Args:
        root: its folder.

    Returns:
        What is wrong, one sentence each, and the addresses of other sites that are linked to.
    """
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    wrong, external = [], set()
    for path, page in pages.items():
        name = path.relative_to(root)
        wrong += [f"{name} loads {each} from afar" for each in page.loaded if is_external(each)]
        for address in page.links + page.loaded:
            if is_external(address):
                external.add(address)
            elif problem := _problem(path, address, pages):
                wrong.append(f"{name} links to {address}: {problem}")
    for path in sorted(root.rglob("*.css")):
        wrong += [
            f"{path.relative_to(root)} loads {each} from afar"
            for each in IN_STYLE.findall(path.read_text(encoding="utf-8"))
        ]
    return wrong, sorted(external)


def _problem(page: Path, address: str, pages: dict[Path, Page]) -> str | None:
    """Why a local address leads nowhere."""
    parts = urlsplit(address)
    if parts.scheme:  # mailto:, data:, javascript:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"nothing is named {anchor} there"
    return None


def check_built(app: Sphinx, error: Exception | None) -> None:
    """Warn of everything that is wrong in the site that was just built."""
    if error is not None or app.builder.format != "html":
        return
    root = Path(app.outdir).resolve()
    wrong, external = check_site(root)
    for each in wrong:
        logging.getLogger(__name__).warning(each, type="built_links")
    (root / LIST).write_text("".join(f"{each}\n" for each in external), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("build-finished", check_built)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
