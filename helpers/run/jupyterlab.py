"""Open JupyterLab on the week's start page: ``make lab``.

It listens on this machine only (127.0.0.1; ``--ip`` says otherwise, in a container) and asks for a
token, which is in the address that it prints. Further arguments go to JupyterLab (``--port 8890``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers import REPO
from helpers.run import start_page

WIDGET = "application/vnd.jupyter.widget-view+json"


def command(arguments: list[str] = (), page: Path | None = None, root: Path = REPO) -> list[str]:
    """The command line of JupyterLab on the folder ``root``.

    page: shown first, when it lies in there.
    """
    line = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        "--FileContentsManager.pre_save_hook=helpers.run.jupyterlab.before_saving",
        f"--LabApp.extra_labextensions_path={REPO / 'helpers' / 'run' / 'lab_extensions'}",
    ]
    if not any(argument.startswith(("--ip", "--ServerApp.ip")) for argument in arguments):
        line.append("--ServerApp.ip=127.0.0.1")
    if page is not None and page.is_relative_to(root):
        line.append(f"--LabApp.default_url=/lab/tree/{page.relative_to(root).as_posix()}")
    if os.geteuid() == 0:
        line.append("--allow-root")  # containers and rented GPU boxes
    if "SSH_CONNECTION" in os.environ or not os.environ.get("DISPLAY"):
        line.append("--no-browser")
    return [*line, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with the workbook's settings and modules to be found."""
    env = dict(os.environ)
    settings = REPO / "helpers" / "run" / "lab_settings"
    places = {"JUPYTER_CONFIG_PATH": settings, "JUPYTER_PATH": settings, "PYTHONPATH": REPO}
    for name, folder in places.items():
        env[name] = os.pathsep.join(filter(None, [str(folder), env.get(name)]))
    return env


def before_saving(model, **_) -> None:
    """Keep live widgets out of saved notebooks (called by JupyterLab before it writes a file).

    A widget lives in the kernel. In a file it would be "Error displaying
    widget: model not found" on reopening, and an empty box in an HTML export;
    the text that stands beside each of ours says what it held. The page in
    the browser keeps its widgets.
    """
    if model.get("type") != "notebook" or not isinstance(model.get("content"), dict):
        return
    model["content"].get("metadata", {}).pop("widgets", None)
    for cell in model["content"].get("cells", []):
        if "outputs" in cell:
            cell["outputs"] = [kept for output in cell["outputs"] if (kept := _static(output))]


def _static(output: dict) -> dict | None:
    """The output without its widget; None when nothing else says what it is."""
    data = output.get("data") or {}
    if WIDGET not in data:
        return output
    rest = {kind: value for kind, value in data.items() if kind != WIDGET}
    return {**output, "data": rest} if set(rest) - {"text/plain"} else None


def main(arguments: list[str]) -> None:
    """Write the start page and become JupyterLab."""
    page = start_page.write()
    line = command(arguments, page)
    print("The start page is", page)
    if "SSH_CONNECTION" in os.environ:
        here = os.environ["SSH_CONNECTION"].split()[2]
        user = os.environ.get("USER", "you")
        print("On your own machine, run this; then open the address with the token that follows:")
        print(f"    ssh -L 8888:127.0.0.1:8888 {user}@{here}")
    sys.stdout.flush()
    os.chdir(REPO)
    os.execve(line[0], line, environment())


if __name__ == "__main__":
    main(sys.argv[1:])
