# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable in plain pytest runs, through the collection root of `tests/env/setup`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOTS = os.environ.get("ANSIBLE_COLLECTIONS_PATH", "")


def pytest_configure() -> None:
    if importlib.util.find_spec("ansible_collections") is not None:
        return
    for root in filter(None, ROOTS.split(os.pathsep)):
        if (Path(root) / "ansible_collections" / "progressive" / "istio").is_dir():
            sys.path.insert(0, root)
            return
    raise SystemExit('no collection root: run `eval "$(tests/env/setup --print)"` first')
