"""Markdown of tables as HTML: nothing but text gets through."""

from worldmodel.evaluation.page.text import to_html
from worldmodel.evaluation.section_tables import table


def test_a_table_scrolls_within_its_box_and_names_rows_and_columns() -> None:
    html = to_html(table(["from", "r2"], [["model", "0.10"], ["clock", "-"]]), "Position & more")
    assert html.startswith(
        '<div class="scroll" tabindex="0" role="region" aria-label="Position &amp; more"><table>'
    )
    assert '<th scope="col">from</th>' in html
    assert '<tr class="model">' in html and html.count('class="model"') == 1
    assert '<th scope="row">clock</th>' in html
    assert html.rstrip().endswith("</table></div>")


def test_numbers_are_marked_in_every_form_they_have() -> None:
    numbers = [
        "0.95",
        "-0.00",
        "0.85 to 1.00",
        "0.52 (0.35 to 0.70, biased)",
        "<0.001",
        "-",
        "10 %",
    ]
    words = ["level 2, 1 x 1 steps", "some", "0.65 pixels_short"]
    html = to_html(table(["", *"abcdefghij"], [["row", *numbers, *words]]), "t")
    assert html.count('<td class="number">') == len(numbers)
    assert html.count("<td>") == len(words)


def test_markup_of_a_report_stays_text() -> None:
    html = to_html(
        "<script>x</script> [a](javascript:b) ![c](https://example.org/d.png) <http://e.org>\n\n"
        + table(["<b>", "h"], [["<img src=x>", "[l](https://example.org)"]]),
        '"><script>',
    )
    for tag in ("<script", "<a", "<img", "<b>", 'aria-label="">'):
        assert tag not in html
