# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small things of the real World."""

from __future__ import annotations

import pytest
from ansible_collections.progressive.istio.plugins.module_utils._find import own_name
from ansible_collections.progressive.istio.plugins.module_utils._patches import token_of
from ansible_collections.progressive.istio.plugins.module_utils._plan import State


def test_names() -> None:
    assert own_name("app-1") == "progressive-istio-app-1"


def test_a_state_of_another_world_has_no_token() -> None:
    with pytest.raises(TypeError):
        token_of(State("", "", "", {}, None, "", {}))
