# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environments of the tests: what we support is what is tested, and a machine that lacks something hears it."""

from __future__ import annotations

import json
import re
import sys
import time
from types import SimpleNamespace

import environment as env
import pytest
import yaml
from collection import unwanted
from environment import CHECKOUT, ENVIRONMENTS, MAIN, SetupError

OLDEST = ENVIRONMENTS["core-2.19"]


def pins(name: str) -> dict[str, str]:
    lines = ENVIRONMENTS[name].requirements.read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_requirements_are_exact(name: str) -> None:
    assert pins(name)["ansible-core"].startswith(name.removeprefix("core-") + ".")
    assert [version for version in pins(name).values() if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", version)] == []


def test_the_oldest_ansible_core_that_we_allow_is_tested() -> None:
    allowed = yaml.safe_load((CHECKOUT / "meta" / "runtime.yml").read_text("utf-8"))["requires_ansible"]
    assert allowed == f">={'.'.join(pins(OLDEST.name)['ansible-core'].split('.')[:2])}.0"


def test_the_oldest_kubernetes_client_that_we_allow_is_tested() -> None:
    allowed = re.findall(r"^kubernetes>=(\S+)$", (CHECKOUT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    assert allowed == [pins(OLDEST.name)["kubernetes"]]


def test_the_oldest_kubernetes_core_that_we_allow_is_tested() -> None:
    allowed = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text("utf-8"))["dependencies"]["kubernetes.core"]
    manifest = json.loads((OLDEST.kubernetes_core / "MANIFEST.json").read_text("utf-8"))
    assert allowed == f">={manifest['collection_info']['version']}"


def test_what_is_ready_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "make_venv", pytest.fail)
    began = time.monotonic()
    env.prepare(ENVIRONMENTS[MAIN])
    assert time.monotonic() - began < 0.5


def test_other_requirements_make_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ENVIRONMENTS[MAIN].digest()
    monkeypatch.setattr(env, "RECIPE", "another")
    assert ENVIRONMENTS[MAIN].digest() != before
    assert not ENVIRONMENTS[MAIN].ready()


def test_a_missing_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "version_of", lambda _python: "")
    with pytest.raises(SetupError) as caught:
        env.find_python(OLDEST)
    assert str(caught.value) == (
        "core-2.19 needs Python 3.11 or 3.12 or 3.13 and none was found: install python3.11 or set PYTHON311 to it"
    )


def test_a_python_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON311", sys.executable)
    monkeypatch.setattr(env, "version_of", lambda _python: "3.12")
    with pytest.raises(SetupError, match=r"^PYTHON311=\S+ is not a Python 3\.11: unset it or name one$"):
        env.find_python(OLDEST)


def test_a_failing_command_of_the_set_up_shows_its_last_lines() -> None:
    with pytest.raises(SetupError) as caught:
        env.run("the step", ["sh", "-c", "seq 1 50; exit 4"])
    assert str(caught.value).startswith("the step: `sh` ended with 4:\n")
    assert str(caught.value).endswith("  50")


def test_the_bootstrap_of_pip_passes_on_what_it_is_asked_for() -> None:
    calls: list[list[str]] = []
    fakes = {"os": SimpleNamespace(execv=lambda _program, words: calls.append(words)), "subprocess": Quiet()}
    words = ["get_pip.py", "--disable-pip-version-check", "pip==25.2", "--no-setuptools", "--no-wheel"]
    source = env.BOOTSTRAP.replace("import os, subprocess, sys", "")
    exec(source, {**fakes, "sys": SimpleNamespace(argv=words, executable="python")})
    assert calls == [["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip==25.2"]]


class Quiet:
    """Stands for the module subprocess: runs nothing."""

    DEVNULL = -3

    def run(self, *_words: object, **_options: object) -> None:
        pass


@pytest.mark.parametrize("member", ["tests/x.py", ".github/x", "roles/a/.x", "Makefile", "plugins/__pycache__/a.pyc"])
def test_what_only_developers_need_is_not_shipped(member: str) -> None:
    assert unwanted(["plugins/modules/istio_weight.py", member]) == [member]
