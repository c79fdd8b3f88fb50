"""What a notebook shows in the place of what it cannot show."""

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output

from worldmodel.viewing import notebook

BEGIN = "from worldmodel.viewing.notebook import begin_notebook\nbegin_notebook()"
FAIL = "from worldmodel.errors import InputError\nraise InputError('no clips; make some')"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.delenv(notebook.STRICT, raising=False)
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, cell: str) -> tuple[bool, str, list[RichOutput]]:
    """Whether a cell counts as run, what it printed (tracebacks too), and what it displayed."""
    with capture_output() as seen:
        result = shell.run_cell(cell, store_history=True)
    return result.success, seen.stdout + seen.stderr, seen.outputs


def said(shell: InteractiveShell, cell: str) -> str:
    """The one sentence that a cell shows, and nothing beside it."""
    is_run, printed, outputs = run(shell, cell)
    assert is_run and not printed
    (output,) = outputs
    assert output.data["text/html"].startswith("<div")
    return output.data["text/plain"]


def test_outside_of_a_notebook_nothing_happens() -> None:
    notebook.begin_notebook()


def test_an_error_for_people_is_a_sentence_from_the_first_cell_on(shell: InteractiveShell) -> None:
    assert said(shell, f"{BEGIN}\n{FAIL}") == "Not shown: no clips; make some"
    assert run(shell, "print(1)") == (True, "1\n", [])


def test_cells_that_lack_what_was_not_made_say_why(shell: InteractiveShell) -> None:
    for _ in range(2):  # whoever changes MODEL runs the first cell again
        run(shell, BEGIN)
    said(shell, f"before = 1\n{FAIL}\nmodel, (levels, _) = 1, (2, 3)\nimport json as reader")
    assert shell.user_ns["before"] == 1
    words = "Not shown: it needs `model`, which is not there: see what cell [3] says"
    assert said(shell, "scores = [model for _ in range(3)]") == words
    # However long the way, it leads to the cell that says why.
    assert said(shell, "print(scores)") == words.replace("model", "scores")
    assert said(shell, "reader.loads('1')") == words.replace("model", "reader")
    # Made after all, it is there.
    run(shell, "model = 5")
    assert run(shell, "print(model)") == (True, "5\n", [])


def test_what_an_earlier_run_left_is_not_shown_as_that_of_this_one(
    shell: InteractiveShell,
) -> None:
    run(shell, BEGIN)
    run(shell, "model = 'of the first run'")
    said(shell, f"{FAIL}\nmodel = 'of the second'")
    assert said(shell, "print(model)").startswith("Not shown: it needs `model`")


def test_what_was_left_half_made_is_lacking_too(shell: InteractiveShell) -> None:
    run(shell, BEGIN)
    fail = "raise InputError('no split val')"
    said(shell, f"from worldmodel.errors import InputError\nclips = {{}}\nfor split in 'ab':\n    "
         f"clips[split] = 1\n    {fail}")  # fmt: skip
    assert said(shell, "clips['b']").startswith("Not shown: it needs `clips`")
    run(shell, f"class Stream:\n    def setup(self):\n        {fail}\nkept = 1")
    said(shell, "stream = Stream()\nstream.setup()\nstream.kept")
    assert said(shell, "stream.order").startswith("Not shown: it needs `stream`")
    assert run(shell, "print(kept)") == (True, "1\n", [])
    # What a cell shows in the end changes nothing: it may be asked for something else.
    run(shell, "stream = Stream()")
    said(shell, "kept = 2\nstream.setup()")
    assert run(shell, "print(kept, len([stream]))") == (True, "2 1\n", [])


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("nobody_made_this", "NameError"),
        ("raise ValueError('ours')", "ValueError"),
        ("def work():", "SyntaxError"),
    ],
)
def test_a_defect_is_an_error_with_its_traceback(
    shell: InteractiveShell, cell: str, kind: str
) -> None:
    run(shell, BEGIN)
    is_run, printed, _ = run(shell, cell)
    assert not is_run and kind in printed


def test_a_name_that_our_own_code_lacks_is_a_defect(shell: InteractiveShell) -> None:
    run(shell, BEGIN)
    said(shell, f"{FAIL}\nlost = 1")
    inside = "names = {}\nexec('def work():\\n    return lost', names)\nnames['work']()"
    is_run, printed, _ = run(shell, inside)
    assert not is_run and "NameError" in printed


def test_make_notebooks_takes_every_error_for_one(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notebook.STRICT, "1")
    is_run, printed, _ = run(shell, f"{BEGIN}\n{FAIL}")
    assert not is_run and "InputError" in printed
