"""Open JupyterLab on the week's start page: ``make lab``.

It listens on this machine only (127.0.0.1) and asks for a token, which is in
the address that it prints. Further arguments go to JupyterLab (``--port 8890``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers import REPO
from helpers.run import start_page

WIDGET = "application/vnd.jupyter.widget-view+json"


def command(arguments: list[str] = (), page: Path | None = None, root: Path = REPO) -> list[str]:
    """The command line of JupyterLab on the folder ``root``; ``page`` is shown first (when it lies in there)."""
    line = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", "--ServerApp.ip=127.0.0.1",
        "--FileContentsManager.pre_save_hook=helpers.run.jupyterlab.before_saving",
    ]  # fmt: skip
    if page is not None and page.is_relative_to(root):
        line.append(f"--LabApp.default_url=/lab/tree/{page.relative_to(root).as_posix()}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        line.append("--allow-root")  # containers and rented GPU boxes
    if "SSH_CONNECTION" in os.environ or not (
        os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32")
    ):
        line.append("--no-browser")
    return line + list(arguments)


def environment() -> dict[str, str]:
    """This process's environment, with the workbook's settings and modules found by JupyterLab and its kernels."""
    env = dict(os.environ)
    for name, folder in (
        ("JUPYTER_CONFIG_PATH", REPO / "helpers" / "run" / "lab_settings"),
        ("PYTHONPATH", REPO),
    ):
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
    content = model["content"]
    content.get("metadata", {}).pop("widgets", None)
    for cell in content.get("cells", []):
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data")
            if not data or WIDGET not in data:
                kept.append(output)
            elif set(data) - {WIDGET, "text/plain"}:  # it has another form: keep that
                kept.append(
                    {
                        **output,
                        "data": {kind: value for kind, value in data.items() if kind != WIDGET},
                    }
                )
        if "outputs" in cell:
            cell["outputs"] = kept


def main(arguments: list[str] | None = None) -> None:
    """Write the start page and become JupyterLab."""
    arguments = sys.argv[1:] if arguments is None else arguments
    page = start_page.write()
    line = command(arguments, page)
    print("The start page is", page)
    if "SSH_CONNECTION" in os.environ:
        here = os.environ["SSH_CONNECTION"].split()[2]
        print(
            "On your own machine, run this, then open the address with the token that follows here:\n"
            f"    ssh -L 8888:127.0.0.1:8888 {os.environ.get('USER', 'you')}@{here}"
        )
    sys.stdout.flush()
    os.chdir(REPO)
    os.execve(line[0], line, environment())


if __name__ == "__main__":
    main()
