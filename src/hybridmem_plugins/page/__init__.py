"""A local web page over a memory: ask, see the answers with their sources, and break the context live.

`desk.py`, `breaking.py` and `guard.py` know no user interface; `app.py` and `views.py` show them with NiceGUI.
"""

from __future__ import annotations

from hybridmem_plugins.page.breaking import Broken, break_context
from hybridmem_plugins.page.desk import Desk

__all__ = ["Broken", "Desk", "break_context"]
