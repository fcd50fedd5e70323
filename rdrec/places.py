"""Where the files are that are no modules: commands, recipes, templates of cards, metrics, the Space.

In a checkout they lie at its top. An installed package has brought them along, in a folder of its own.
"""

from pathlib import Path


_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "installed"
HOME = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
