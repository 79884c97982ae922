"""Sphinx configuration. `make docs` builds into build/docs, with warnings as errors."""

project = "processing"
author = "The processing developers"
copyright = "The processing developers"
release = "0.1.0"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# Nothing is fetched while building: no intersphinx, no fonts or scripts from elsewhere.
html_theme = "furo"
html_title = "processing"
nitpicky = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
