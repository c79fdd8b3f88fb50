"""From the markdown of `report.md` to HTML: the same words and tables, so the two cannot differ."""

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

# "0.95", "-0.00", "0.85 to 1.00", "0.52 (0.35 to 0.70, biased)", "<0.001", "-", "10 %".
NUMERIC = re.compile(r"[<-]?[\d.]*( to -?[\d.]+)?( %)?( \(-?[\d.]+ to -?[\d.]+(, biased)?\))?")
# The row of the model among its nulls.
MODEL_ROW = re.compile(r"model\b.*")

# No HTML, links or pictures: a report from elsewhere puts text into a page and nothing else.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")
_PARSER.disable(["link", "image", "autolink", "html_inline", "html_block"])


def to_html(markdown: str, name: str) -> Markup:
    """Markdown as HTML; every table can be scrolled within its own box.

    Args:
        markdown: of `section_tables` or the protocol, without headings.
        name: what its tables are about, for people who hear the page.
    """
    tokens = _PARSER.parse(markdown)
    columns = 0
    for number, token in enumerate(tokens):
        if token.type == "tr_open":
            columns = 0
            if MODEL_ROW.fullmatch(_cell(tokens, number + 1)):
                token.attrJoin("class", "model")
        elif token.type in ("td_open", "th_open"):
            _mark_cell(tokens, number, columns)
            columns += 1
    body = str(_PARSER.renderer.render(tokens, _PARSER.options, {}))
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{Markup.escape(name)}">'
    body = body.replace("<table>", f"{box}<table>").replace("</table>", "</table></div>")
    return Markup(body)


def _cell(tokens: Sequence[Token], number: int) -> str:
    """The text of the cell that opens at a token."""
    return tokens[number + 1].content if number + 1 < len(tokens) else ""


def _mark_cell(tokens: Sequence[Token], number: int, column: int) -> None:
    token = tokens[number]
    if token.type == "th_open":
        token.attrSet("scope", "col")
    elif column == 0:
        # The first cell names its row.
        close = next(each for each in tokens[number:] if each.type == "td_close")
        token.tag = close.tag = "th"
        token.attrSet("scope", "row")
    elif NUMERIC.fullmatch(_cell(tokens, number)):
        token.attrJoin("class", "number")
