# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that every file of the repository obeys."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from collection import tracked
from environment import CHECKOUT

HEADER = (
    "# Copyright (c) 2026, the progressive.istio authors",
    "# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)",
    "# SPDX-License-Identifier: GPL-3.0-or-later",
)
SPDX = HEADER[2].removeprefix("# ")
LONGEST = 500  # lines of a Python file: what a reader holds in the head

# Written in pieces, so that this file does not match itself.
REGISTRIES = ("GO" + "PROXY=", "index" + "-url", "npm_config" + "_registry", "PIP_" + "INDEX", "pypi" + ".org/simple")
SKIPS = ("pytest.mark" + ".skip", "pytest.mark" + ".xfail", "pytest" + ".skip(")
PUT_OFF = (*SKIPS, "# TO" + "DO", "# FIX" + "ME", "# XX" + "X")


def files() -> list[Path]:
    return [CHECKOUT / name for name in tracked()]


def text_of(path: Path) -> str:
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8")


def found(words: tuple[str, ...]) -> list[str]:
    """`file:line` of every line that holds one of the words."""
    pattern = re.compile("|".join(re.escape(word) for word in words))
    return [
        f"{path.relative_to(CHECKOUT)}:{number}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]


def python_files() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def test_there_are_files() -> None:
    assert len(python_files()) > 10


def test_no_address_of_a_package_registry() -> None:
    assert found(REGISTRIES) == []


def test_no_path_of_this_machine() -> None:
    paths = {str(CHECKOUT), os.path.realpath(CHECKOUT), str(Path.home())}
    assert found(tuple(f"{path}/" for path in paths if path != "/")) == []


def test_nothing_is_skipped_or_put_off() -> None:
    assert found(PUT_OFF) == []


def test_python_files_carry_the_licence_and_postponed_annotations() -> None:
    wrong = []
    for path in python_files():
        lines = text_of(path).splitlines()
        start = 1 if lines and lines[0].startswith("#!") else 0
        code = [node for node in ast.parse(text_of(path)).body if not isinstance(node, ast.Expr)]
        postponed = not code or "from __future__ import annotations" in lines
        if tuple(lines[start : start + 3]) != HEADER or not postponed:
            wrong.append(str(path.relative_to(CHECKOUT)))
    assert wrong == []


def test_other_sources_carry_the_licence() -> None:
    wrong = []
    for path in files():
        name = path.relative_to(CHECKOUT).as_posix()
        if name.startswith("changelogs/"):
            continue
        head = "\n".join(text_of(path).splitlines()[:6])
        if (
            path.suffix in {".yml", ".yaml", ".sh", ".go", ".j2", ".toml"} or head.startswith("#!")
        ) and SPDX not in head:
            wrong.append(name)
    assert wrong == []


def test_python_files_are_short() -> None:
    long = {path.relative_to(CHECKOUT).as_posix(): len(text_of(path).splitlines()) for path in python_files()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}


def test_every_target_of_the_makefile_has_its_script() -> None:
    scripts = re.findall(r"^\t@(tests/\S+)", (CHECKOUT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert len(scripts) > 5
    assert [script for script in scripts if not os.access(CHECKOUT / script, os.X_OK)] == []


def test_ci_runs_what_the_readme_says() -> None:
    assert re.search(r"\bmake (\S+ )?test\b", (CHECKOUT / ".ci" / "run").read_text("utf-8"))
    assert "make test" in (CHECKOUT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("version", ["2.19", "2.21"])
def test_nothing_is_exempt_from_sanity(version: str) -> None:
    ignored = CHECKOUT / "tests" / "sanity" / f"ignore-{version}.txt"
    assert not ignored.exists() or ignored.read_text("utf-8") == ""
