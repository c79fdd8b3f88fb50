"""How a notebook of ours begins: small pictures, and errors for people as one sentence.

What cannot be shown (there is no model, a set lacks a split, a level has collapsed) is said in its
place, and the cells that do not need it are shown all the same.
"""

import ast
import html
import os
import symtable
from collections.abc import Iterator
from traceback import walk_tb
from types import TracebackType
from typing import Any

from worldmodel.errors import InputError
from worldmodel.viewing.canvas import show_small

STRICT = "WORLDMODEL_STRICT_NOTEBOOKS"
"""Where this variable is set, as in `make notebooks`, every error is an error."""


def begin_notebook() -> None:
    """Show figures as small PNGs, and errors that are meant for people as sentences.

    A cell that raises an `InputError` shows its text, and counts as run, so that "run all" goes on.
    A later cell that lacks what such a cell should have made says that. Any other exception is a
    defect and ends the run with its traceback, as it does everywhere.

    Outside of a notebook nothing happens.
    """
    from IPython.core.getipython import get_ipython  # comes with the notebooks alone

    shell = get_ipython()
    if shell is None:
        return
    show_small(shell)
    if not os.environ.get(STRICT):
        Sentences(shell).begin()


class Sentences:
    """Takes the place of tracebacks where a person, and no programmer, has to do something.

    Args:
        shell: of IPython.

    Attributes:
        lacking: names that cells should have given a value to, and the number of the cell that says
            why they have none.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.lacking: dict[str, int] = {}

    def begin(self) -> None:
        """From now on, for the rest of the cell that runs too; once for each shell."""
        others = self.shell.events.callbacks["post_run_cell"]
        if any(isinstance(getattr(each, "__self__", None), Sentences) for each in others):
            return
        self.shell.set_custom_exc((InputError, NameError), self._trace)
        self.shell.events.register("post_run_cell", self._after)

    def find(self, error: BaseException) -> str | None:
        """What is said of an error; None where it is a defect."""
        if isinstance(error, InputError):
            return str(error)
        cell = self._origin(error)
        if cell is None:
            return None
        assert isinstance(error, NameError)
        return f"it needs `{error.name}`, which is not there: see what cell [{cell}] says"

    def _origin(self, error: BaseException) -> int | None:
        """The number of the cell for which a name is lacking."""
        # A name that our own code lacks is a defect, whatever it is called.
        if isinstance(error, NameError) and self._lines(error)[-1] is not None:
            return self.lacking.get(error.name or "")
        return None

    def _lines(self, error: BaseException) -> list[int | None]:
        """Where an error went through, outermost first: the cell's lines, None in other code."""
        return [
            line if frame.f_globals is self.shell.user_ns else None
            for frame, line in walk_tb(error.__traceback__)
        ]

    def _trace(
        self,
        shell: Any,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType,
        tb_offset: int | None = None,
    ) -> None:
        """In place of IPython's traceback, which only defects get."""
        if self.find(error) is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    def _after(self, result: Any) -> None:
        """Say what went wrong, and keep in mind what the cell has not made."""
        error, source = result.error_in_exec, result.info.raw_cell
        if result.success:
            for name in names_given(source):
                self.lacking.pop(name, None)
            return
        sentence = None if error is None else self.find(error)
        if error is None or sentence is None:
            return
        origin = self._origin(error) or result.execution_count
        failed_line = next(line for line in self._lines(error) if line is not None)
        for name in names_given(source, failed_line):
            self.lacking[name] = origin
            # Left by an earlier run of the cell, it would pass for that of this one.
            self.shell.user_ns.pop(name, None)
        from IPython.display import display

        display(as_output(f"Not shown: {sentence}"), raw=True)
        result.error_in_exec = None  # "run all" goes on


def as_output(sentence: str) -> dict[str, str]:
    """A sentence as a notebook's output, in plain text and with a bar beside it."""
    style = "border-left: 4px solid #d55e00; padding: 0.4em 0.8em"
    return {
        "text/plain": sentence,
        "text/html": f'<div style="{style}">{html.escape(sentence)}</div>',
    }


def names_given(source: str, line: int = 1) -> Iterator[str]:
    """Names that a cell's statements give a value to, or of which they change the value.

    Args:
        source: of the cell.
        line: from 1 on; statements that end before it are left out.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # magic, or no Python at all: nothing is known
        return
    left = [each for each in statements if each.end_lineno is None or each.end_lineno >= line]
    for statement in left:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        for symbol in table.get_symbols():
            if symbol.is_assigned() or symbol.is_imported():
                yield symbol.get_name()
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                yield from _bare_name(node.value)  # clips[split] = ...
    match left:
        case [ast.Expr(ast.Call(ast.Attribute(owner))), _, *_]:
            yield from _bare_name(owner)  # stream.setup(), and then more


def _bare_name(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
