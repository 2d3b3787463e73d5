# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders templates of the roles as their tasks would."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).parents[3] / "roles"


@cache
def _load_plugins() -> None:
    init_plugin_loader()


def _load(path: Path) -> Any:
    """A YAML file of ours, its texts trusted as templates, as ansible loads it."""
    return _trust(yaml.safe_load(path.read_text()))


def _render(role: str, template: str, **variables: Any) -> Any:
    """The template's value, with the role's defaults and variables under those given; YAML and JSON are parsed."""
    _load_plugins()
    known: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        path = ROLES / role / part / "main.yml"
        if path.exists():
            known |= _load(path)
    templar = Templar(loader=DataLoader(), variables={**known, **variables})
    lookup = f"{{{{ lookup('ansible.builtin.template', {str(ROLES / role / 'templates' / template)!r}) }}}}"
    text = templar.template(trust_as_template(lookup))
    return yaml.safe_load(text) if ".yml" in template else text


def _trust(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _trust(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_trust(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


@pytest.fixture
def render() -> Callable[..., Any]:
    return _render


@pytest.fixture
def template() -> Callable[..., Any]:
    def value(text: str, **variables: Any) -> Any:
        _load_plugins()
        return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))

    return value
