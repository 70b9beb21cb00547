"""A local web page over a memory: ask, see the answers with their sources, and break the context live.

`desk.py`, `breaking.py` and `guard.py` know no user interface; `app.py` and `views.py` show them with NiceGUI.
"""
