"""The site that `make docs` builds from this folder: its pages in order, and how they look.

Sphinx reads the Markdown as it stands here (MyST), so that a page reads the same on a code host.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

sys.path.insert(0, str(Path(__file__).parent))

import worldmodel

# Every page, under the heading of the side bar that it stands under.
NAVIGATION = {
    "Start here": ["tutorial"],
    "How to": [
        "how-to-train",
        "how-to-evaluate",
        "how-to-look-closer",
        "how-to-change-the-code",
    ],
    "How it works": ["physics-world", "stream", "objectives", "recipe", "training"],
    "What it knows": ["evaluation", "report-card", "compare", "surprise", "encode"],
    "Beside others": ["benchmarks", "benchmarks-depth-and-labels", "other-encoders"],
    "To look up": ["formats", "weights"],
    "From Python": [
        "Overview <api>",
        "api-models",
        "api-losses",
        "api-data",
        "api-world",
        "api-training",
        "api-evaluation",
    ],
}

project = "worldmodel"
release = version = worldmodel.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "built_links",
]
# Every page is in the side bar; the sources are beside the code.
html_use_index = False
html_domain_indices = False
html_copy_source = False
html_show_copyright = False

# Headings down to the fourth can be linked to, by the names that code hosts give them.
myst_heading_anchors = 4
# Blocks without a language are commands and trees of files.
highlight_language = "text"

# Docstrings are Google style, and single backticks in them mean code.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
# What Lightning and torch say of their methods is theirs.
autodoc_inherit_docstrings = False
add_module_names = False
toc_object_entries_show_parents = "hide"
# Types of our own must be on one of the pages; those of other libraries are at their sites.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!worldmodel\.).*")]
# Ends behind `load_encoder`: transformers' network and what builds it anew.
nitpick_ignore = [("py:class", "worldmodel.models.huggingface.LoadedEncoder")]
# Longer ones have a line for each parameter: shapes make them long.
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"

html_theme = "furo"
html_title = "worldmodel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "default"
pygments_dark_style = "github-dark"


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the pages' order below the home page's text, where a code host would show it raw."""
    if page == app.config.root_doc:
        for caption, pages in NAVIGATION.items():
            listed = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def give_no_type(
    app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    """Give texts an empty type, or what stands before their first colon is taken for one."""
    if what in ("attribute", "property") and lines and not lines[0].startswith(":"):
        lines[0] = f": {lines[0]}"
    for number, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            text = lines[number + 1]
            indent = len(text) - len(text.lstrip())
            lines[number + 1] = f"{text[:indent]}: {text[indent:]}"


def write_factories(
    app: Sphinx,
    what: str,
    name: str,
    item: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write `...` for defaults that are made anew: as they come, no signature can be parsed."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-signature", write_factories)
    # Before napoleon, which has 500.
    app.connect("autodoc-process-docstring", give_no_type, priority=400)
