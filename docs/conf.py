"""The documentation site: `make docs` writes out/docs/."""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import normkit

project = "normkit"
author = "the normkit developers"
copyright = author
release = version = normkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_templates"]
default_role = "code"  # `x` in a docstring

html_theme = "furo"
html_math_renderer = "mathml"  # browsers have it; a script would have to come from somewhere
toc_object_entries_show_parents = "hide"
html_title = f"normkit {release}"
html_static_path = ["_static"]
html_css_files = ["normkit.css"]
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings say it in words; the stubs say it to type checkers
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

nitpick_ignore_regex = [("py:.*", ".*")]  # words of a docstring that stand where Sphinx looks for types

LONE_ASTERISK = re.compile(r"(?<![\w*`])\*(?=[a-z=])(?![^*\n]*[\w.]\*(?!\w))")
FORMULA = re.compile(r"^[a-z]\w* = [^.]*$")


def tidy(app, what, name, obj, options, lines):
    """`(N, C, *spatial)` is no emphasis; a formula that stands alone is set as one."""
    alone = [
        not before.strip() and not after.strip()
        for before, after in zip(["", *lines[:-1]], [*lines[1:], ""], strict=True)
    ]
    done = []
    for line, is_alone in zip(lines, alone, strict=True):
        if is_alone and FORMULA.match(line):
            done += [".. code-block:: text", "", f"   {line}"]
        else:
            done.append(line if ">>>" in line else LONE_ASTERISK.sub(r"\\*", line))
    lines[:] = done


def fields(app, what, name, obj, skip, options):
    """The fields of a named tuple stand in its signature, and have no words of their own."""
    return True if type(obj).__name__ == "_tuplegetter" else skip


def caches(app, what, name, obj, options, lines):
    """The attributes of a cache are listed with their own words."""
    if what == "class" and name.endswith("Cache") and "Attributes" in lines:
        del lines[lines.index("Attributes") :]


def inline_math(writer, node):
    """MathML in a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(writer, node):
    """MathML on its own."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Hooks of autodoc, and formulas without scripts."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-docstring", caches, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", tidy)
    app.connect("autodoc-skip-member", fields)
