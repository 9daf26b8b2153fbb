"""The documentation site: `make docs` writes out/docs/."""

import re

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
html_title = f"normkit {release}"
html_static_path = ["_static"]
html_css_files = ["normkit.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say it in words; the stubs say it to type checkers
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

# Pages that are written by commands, and may not be there yet.
suppress_warnings = ["toc.empty_glob"]
nitpick_ignore_regex = [("py:.*", ".*")]  # words of a docstring that stand where Sphinx looks for types

LONE_ASTERISK = re.compile(r"(?<![\w*`])\*(?=[a-z=])(?![^*\n]*[\w.]\*(?!\w))")


def escape(app, what, name, obj, options, lines):
    """`(N, C, *spatial)` is no emphasis."""
    lines[:] = [LONE_ASTERISK.sub(r"\\*", line) if ">>>" not in line else line for line in lines]


def fields(app, what, name, obj, skip, options):
    """The fields of a named tuple stand in its signature: NumPy-like names, and no words of their own."""
    return True if type(obj).__name__ == "_tuplegetter" else skip


def setup(app):
    """Hooks of autodoc."""
    app.connect("autodoc-process-docstring", escape)
    app.connect("autodoc-skip-member", fields)
