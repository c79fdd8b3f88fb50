"""What the pages say can be followed: links, commands, targets, code; and the site is whole."""

import ast
import importlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from worldmodel.cli import COMMANDS, main
from worldmodel.data.shards import read_members, resolve_shards, scan_shard
from worldmodel.world.generate import generate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.S | re.M)
# Images too; neither holds a bracket within its brackets.
LINK = re.compile(r"\]\(([^()\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


def page_name(page: Path) -> str:
    return page.name


each_page = pytest.mark.parametrize("page", READ, ids=page_name)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def typed(page: Path) -> Iterator[str]:
    """Every line that a page shows as something to type."""
    for text in blocks(page, "", "text", "bash", "sh"):
        yield from text.replace("\\\n", " ").splitlines()
    yield from SPAN.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What code hosts call a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    kept = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in kept}


def navigation() -> list[str]:
    """Pages in the side bar, as `conf.py` has them; read without Sphinx."""
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAVIGATION":
            entries = [entry for part in ast.literal_eval(node.value).values() for entry in part]
            return [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries]
    raise AssertionError("conf.py has no NAVIGATION")


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Options of each command, from its own help."""
    found = {}
    for command in [*COMMANDS, "fit"]:
        text = io.StringIO()
        with redirect_stdout(text), pytest.raises(SystemExit):
            main([command, "--help"])
        found[command] = set(re.findall(r"--[\w.]+", text.getvalue()))
    return found | {"validate": found["fit"]}


def test_navigation__every_page_once():
    pages = {page.stem for page in PAGES}
    assert sorted(navigation()) == sorted(pages - {"index"})


@each_page
def test_links__lead_somewhere(page):
    targets = LINK.findall(prose(page))
    wrong = []
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme:
            continue
        file = page.parent / unquote(parts.path) if parts.path else page
        named = not parts.fragment or parts.fragment in anchors(file)
        if parts.path.startswith("/") or not file.is_file() or not named:
            wrong.append(target)
    assert not wrong


@each_page
def test_files__named_are_there(page):
    named = re.findall(r"`((?:configs|docs|tests|worldmodel)/[\w./-]+)`", prose(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_page
def test_commands__exist_with_their_options(page, options):
    wrong = []
    for line in typed(page):
        code = re.sub(r'"[^"]*"', "", line.split("  #")[0])
        for command, rest in re.findall(r"(?:^|[\s(])worldmodel ([a-z]\w*)(.*)", code):
            known = options.get(command)
            given = re.findall(r"(?<=\s)--[\w.]+", rest)
            if known is None or any(option not in known for option in given):
                wrong.append(line)
    assert not wrong


@each_page
def test_make__targets_and_variables_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    wrong = []
    for line in typed(page):
        for rest in re.findall(r"(?:^|\s)make( .*)", line.split("  #")[0]):
            for word in rest.split():
                if variable := re.match(r"([A-Z_]+)=", word):
                    if not re.search(
                        rf"\$\((if )?{variable[1]}\b|^{variable[1]} \?=", makefile, re.M
                    ):
                        wrong.append(line)
                elif re.fullmatch(r"[a-z-]+", word) and word not in targets:
                    wrong.append(line)
    assert not wrong


@each_page
def test_python__compiles_and_its_names_exist(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("worldmodel"):
                module = importlib.import_module(str(node.module))
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                for name in missing:  # a module of a package
                    importlib.import_module(f"{node.module}.{name}")


@pytest.mark.parametrize("name", ["tutorial", "how-to-look-closer"])
@pytest.mark.slow
def test_python__of_a_walk_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    data = tmp_path / "data" / "physics"
    generate(data, num_clips=10, num_blocks=1, size=64, processes=1)
    first = scan_shard(resolve_shards([str(data / "train" / "*.tar")])[0])[0]
    (tmp_path / "holiday.mp4").write_bytes(read_members(first, ["mp4"])["mp4"])
    monkeypatch.chdir(tmp_path)
    said, names = io.StringIO(), {}
    with redirect_stdout(said):
        for text in blocks(DOCS / f"{name}.md", "python"):
            exec(compile(text, f"{name}.md", "exec"), names)
    wanted = {"tutorial": r"[01] of 1 blocks", "how-to-look-closer": r"probe \d\.\d+ m, mean \d"}
    assert re.search(wanted[name], said.getvalue())


def test_makefile__shows_the_site():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^docs: .*## .*build/docs", makefile, re.M)
    assert "--fail-on-warning" in makefile


@pytest.fixture
def built_links(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sphinx", reason="the site needs the extra `docs`")
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("built_links")


def test_site__what_is_wrong_in_it_is_named(built_links, tmp_path):
    (tmp_path / "a.html").write_text(
        '<link rel="canonical" href="https://a.example/"><h1 id="top">A</h1>'
        '<a href="b.html#there">1</a><a href="b.html#not">2</a><a href="c.html">3</a>'
        '<img src="none.png"><script src="https://cdn.example/x.js"></script><a href="#top">4</a>'
        '<a href="https://else.example/page">5</a><a href="mailto:x@y.example">6</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there">B</p>')
    (tmp_path / "s.css").write_text("@import url(https://fonts.example/f.css); p {color: red}")
    wrong, external = built_links.check_site(tmp_path)
    assert sorted(wrong) == [
        "a.html links to b.html#not: nothing is named not there",
        "a.html links to c.html: no such file",
        "a.html links to none.png: no such file",
        "a.html loads https://cdn.example/x.js from afar",
        "s.css loads https://fonts.example/f.css from afar",
    ]
    assert external == ["https://cdn.example/x.js", "https://else.example/page"]


def build(source: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html"]
    return subprocess.run(
        [*command, str(source), str(out)], cwd=ROOT, capture_output=True, text=True, timeout=900
    )


def test_site__builds_without_a_warning(built_links, tmp_path):
    for library in ("furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(library, reason="the site needs the extra `docs`")
    done = build(DOCS, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    wrong, external = built_links.check_site((tmp_path / "site").resolve())
    assert not wrong
    assert (tmp_path / "site" / built_links.LIST).read_text().split() == external
    assert {page.stem for page in PAGES} <= {page.stem for page in (tmp_path / "site").iterdir()}
    models = (tmp_path / "site" / "api-models.html").read_text(encoding="utf-8")
    assert "worldmodel.models.pretrained.WorldModel.encode" in models
    # Shapes of signatures, which Sphinx cuts into words.
    assert "Float[Tensor, 'batch time tokens dim']" in re.sub(r"<[^>]*>", "", models)


def test_site__a_bad_link_fails_it(built_links, tmp_path):
    for library in ("furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(library, reason="the site needs the extra `docs`")
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "built_links.py", "index.md", "formats.md"):
        shutil.copy(DOCS / name, source)
    shutil.copytree(DOCS / "_static", source / "_static")
    (source / "index.md").write_text("# Home\n\n[shards](formats.md#no-such) ![p](none.png)\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert "no-such" in done.stderr and "none.png" in done.stderr
