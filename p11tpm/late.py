"""Modules that are loaded when they are first needed.

A module that another thread is loading at a fork stays half loaded in the child, and whoever needs it there waits for
ever. So a thread holds `loading` while it loads one, and a fork takes it first.
The same goes for libcrypto's locks: a thread that may take them without the GIL holds `loading` too.
"""

from __future__ import annotations

import _thread

loading = _thread.RLock()
