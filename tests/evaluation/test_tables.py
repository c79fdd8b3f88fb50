"""Text of the report: every number beside its null."""

from worldmodel.evaluation.section_tables import interval, number, table


def test_table_is_markdown_with_aligned_columns() -> None:
    text = table(["what", "model"], [["rank", "0.30"], ["a longer name", "1"]])
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace(" ", "") == "|-------------|-----|"


def test_numbers_and_intervals_for_people() -> None:
    assert number(0.123456) == "0.12"
    assert number(7) == "7"
    assert number(None) == "-"
    assert interval([0.1, 0.25]) == "0.10 to 0.25"
    assert interval(None) == "-"
