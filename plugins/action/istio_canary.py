# Copyright (c) 2026, the progressive.istio authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls the module istio_canary until the release is over, and prints a line for every event when it happens."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.kubernetes.core.plugins.action.k8s_info import ActionModule as KubernetesAction
from ansible_collections.progressive.istio.plugins.module_utils._run import handed_down, is_dead

LOCAL_SECONDS = 60.0  # one module call; its events are read along from a file
REMOTE_SECONDS = 20.0  # without a file to read along, events come when a call ends
POLL_SECONDS = 0.2

display = Display()


class ActionModule(KubernetesAction):
    """kubernetes.core's plugin finds and decrypts kubeconfig files; the loop and the live lines are ours."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        del tmp  # of no effect any more
        task_vars = task_vars or {}
        result: dict[str, Any] = {}
        if self._task.async_val:
            raise AnsibleActionFail(
                "istio_canary runs in the foreground; for a background run use wait: false in a loop"
            )
        args = copy.deepcopy(self._task.args)
        if args.get("run") is not None:
            raise AnsibleActionFail("option 'run' of istio_canary is set by the action plugin; leave it out")
        if args.get("kubeconfig"):
            try:
                self.get_kubeconfig(args["kubeconfig"], self._connection.transport != "local", args)
            except AnsibleError as error:
                raise AnsibleActionFail(str(error)) from None
        again = boolean(args.get("wait", True), strict=False) and not self._task.check_mode
        silent = bool(self._task.no_log)
        host = str(task_vars.get("inventory_hostname", ""))
        local = self._connection.transport == "local"
        identity = handed_down()
        events: list[dict[str, Any]] = []
        changed, calls, began = False, 0, time.monotonic()
        descriptor, journal = tempfile.mkstemp(prefix="progressive-istio-")
        os.close(descriptor)
        try:
            while True:
                budget = (LOCAL_SECONDS if local else REMOTE_SECONDS) if again else 0.0
                args["run"] = {
                    "identity": identity,
                    "budget": budget,
                    "calls": calls,
                    "release": result.get("release_id", ""),
                    "elapsed": time.monotonic() - began,
                    "journal": journal if local else "",
                }
                with _Reader(journal, host, silent) as reader:
                    result = self._execute_module(
                        module_name="progressive.istio.istio_canary", module_args=args, task_vars=task_vars
                    )
                calls += 1
                reader.rest(result.get("events") or [])
                events += result.get("events") or []
                changed = changed or bool(result.get("changed"))
                if not again or result.get("failed") or result.get("finished", True):
                    break
                if any(is_dead(process) for process in identity["processes"]):
                    raise AnsibleActionFail(
                        "the ansible-playbook of this task is gone; the release waits for the next run"
                    )
        finally:
            Path(journal).unlink()
        self._remove_tmp_path(self._connection._shell.tmpdir)
        result.update(events=events, changed=changed)
        invocation = result.get("invocation", {}).get("module_args")
        if isinstance(invocation, dict):
            invocation.pop("run", None)
        return result


class _Reader:
    """Prints the events of a running module call as they are written to its journal."""

    def __init__(self, path: str, host: str, silent: bool) -> None:
        self._path, self._host, self._silent = path, host, silent
        self._printed, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="events")
        self._start = Path(path).stat().st_size

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        with Path(self._path).open(encoding="utf-8") as file:
            file.seek(self._start)
            part = ""
            while True:
                stopping = self._stop.is_set()
                part += file.read()
                *lines, part = part.split("\n")
                for line in lines:
                    self._print(json.loads(line))
                if stopping:
                    return
                self._stop.wait(POLL_SECONDS)

    def _print(self, event: dict[str, Any]) -> None:
        self._printed += 1
        if not self._silent:
            display.display(f"[{self._host}] {event['time']}  {event['text']}")

    def rest(self, events: list[dict[str, Any]]) -> None:
        """Print what did not come through the journal."""
        for event in events[self._printed :]:
            self._print(event)
