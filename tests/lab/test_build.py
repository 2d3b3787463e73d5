# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's build, without building: what is done again and when, what is said, what an image is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from lablib import build, host, images, programs
from lablib.paths import SOURCE, Places, places
from lablib.shell import LabError, logged
from lablib.steps import Stamps, Step, Tick, run_steps


def _step(name: str, folder: Path, key: str, done: list[str]) -> Step:
    def action(tick: Tick) -> None:
        tick(16.0)
        (folder / name).write_text(key)
        done.append(name)

    return Step(name, f"the {name}", 60, key, (folder / name,), action)


def test_only_what_changed_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps, done = Stamps(tmp_path / "stamps"), list[str]()
    steps = [_step("one", tmp_path, "a", done), _step("two", tmp_path, "b", done)]
    assert run_steps(steps, stamps) == 2
    said = capsys.readouterr().err
    assert "[1/2] the one: about 1:00, then 1:00" in said
    assert "[1/2] the one: 0:16 so far, about 1:44 left in all" in said
    assert "[2/2] the two: about 0:00" in said  # the first took no time, so this machine is a fast one
    assert run_steps(steps, stamps) == 0
    assert run_steps([steps[0], dataclasses.replace(steps[1], key="c")], stamps) == 1
    (tmp_path / "one").unlink()
    assert run_steps(steps, stamps) == 2  # the file of one; two, as its key is b again
    assert done == ["one", "two", "two", "one", "two"]


def test_a_step_that_makes_nothing_is_an_error(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    idle = Step("idle", "the idle", 1, "a", (tmp_path / "never",), lambda _: None)
    with pytest.raises(LabError, match=r"the idle: ended well but did not make .*/never"):
        run_steps([idle], stamps)
    assert not stamps.done(idle)


def test_a_change_of_hello_builds_hello_and_its_image_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where = places()
    before = {step.name: step.key for step in build.all_steps(where, "made")}
    copy = tmp_path / "go"
    for source in (SOURCE / "go").rglob("*"):
        if source.is_file():
            (copy / source.relative_to(SOURCE / "go")).parent.mkdir(parents=True, exist_ok=True)
            (copy / source.relative_to(SOURCE / "go")).write_bytes(source.read_bytes())
    with (copy / "hello/hello/main.go").open("a") as handle:
        handle.write("// changed\n")
    monkeypatch.setattr(programs, "GO", copy)
    after = {step.name: step.key for step in build.all_steps(where, "made")}
    assert {name for name in before if before[name] != after[name]} == {"hello", "app-images"}


def test_every_module_is_pinned() -> None:
    """go.mod and go.sum stand together, with a checksum for each required version."""
    modules = {program.module for program in programs.PROGRAMS}
    assert modules == {folder.name for folder in (SOURCE / "go").iterdir()}
    for name in modules:
        required = [
            line.split() for line in (SOURCE / "go" / name / "go.mod").read_text().splitlines() if line.startswith("\t")
        ]
        sums = {tuple(line.split()[:2]) for line in (SOURCE / "go" / name / "go.sum").read_text().splitlines()}
        for words in required:
            if len(words) > 1 and words[1].startswith("v"):
                assert (
                    sums & {(words[0], words[1]), (words[0], words[1] + "/go.mod")} or "=>" in words or name == "kube"
                )


def test_an_image_is_the_same_every_time_and_brings_its_libraries(tmp_path: Path) -> None:
    image = images.Image(
        "lab.invalid/x:1", {"/bin/thing": Path("/bin/ls")}, ("/bin/thing",), (("/bin/other", "thing"),)
    )
    for name in ("one", "two"):
        images.write_image(tmp_path / f"{name}.tar", image)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as outer:
        manifest = json.load(outer.extractfile("manifest.json") or pytest.fail("no manifest"))
        config = (outer.extractfile(manifest[0]["Config"]) or pytest.fail("no config")).read()
        layer = (outer.extractfile("layer.tar") or pytest.fail("no layer")).read()
        with tarfile.open(fileobj=outer.extractfile("layer.tar")) as inner:
            names = inner.getnames()
    assert manifest[0]["RepoTags"] == ["lab.invalid/x:1"]
    assert (tmp_path / "one.id").read_text() == hashlib.sha256(config).hexdigest()
    assert json.loads(config)["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    assert {"bin/thing", "bin/other"} <= set(names)
    assert any("libc.so" in name for name in names)


def test_too_little_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        LabError, match=r"1000000 GiB of disk are needed below .* and [\d.]+ are free: make room or set"
    ):
        host.check_disk(tmp_path / "not/yet/there", 1e6)


def test_an_error_comes_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match=r"counting: ended with 3 \(log: .*log\)") as caught:
        logged(["sh", "-c", "seq 1 50; echo; exit 3"], log, "counting")
    assert caught.value.tail() == [str(number) for number in range(43, 51)]
    with pytest.raises(LabError, match="the program no-such-program is not there: run `lab build`"):
        logged(["no-such-program"], log, "nothing")


def test_another_cache_is_another_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = set()
    for folder in ("one", "two"):
        monkeypatch.setenv("PROGRESSIVE_ISTIO_CACHE", str(tmp_path / folder))
        names.add(places().name)
    monkeypatch.delenv("PROGRESSIVE_ISTIO_CACHE")
    monkeypatch.setenv("HOME", "/root")
    assert places().name == "progressive-istio"
    assert len(names | {places().name}) == 3


def test_socket_paths_are_short_enough() -> None:
    """A socket's path has 107 bytes; the longest of ours is containerd's, below the run folder."""
    where = Places(Path("/x" * 100), Path("/y"), "progressive-istio-123456")
    assert len(f"{where.run}/containerd.sock.ttrpc") < 80
