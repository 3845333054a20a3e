"""A real JupyterLab and a real browser. Chromium is Debian's: ``apt-get install chromium``."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from helpers.run import jupyterlab

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = (
    os.environ.get("WORKBOOK_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
    or "/usr/bin/chromium"
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--force-color-profile=srgb",
]
# Playwright's own way of waiting asks at every frame: the page is then drawn 60 times a second, by
# a third of a core that the kernel needs.
POLLING_MS = 100


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in str(item.fspath):
            item.add_marker("browser")


class Server:
    """JupyterLab as ``make lab`` starts it, on a folder of its own."""

    def __init__(self, folder: Path):
        self.root = folder / "root"
        (self.root / "notebooks").mkdir(parents=True)
        self.results = self.root / "results"
        places = {
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
        }
        env = jupyterlab.environment() | {"WORKBOOK_RESULTS_DIR": str(self.results)}
        env |= {name: str(folder / place) for name, place in places.items()}
        # Two saves at once can end in a dialog ("changed on disk"); these tests save by themselves.
        saving = folder / "settings/@jupyterlab/docmanager-extension/plugin.jupyterlab-settings"
        saving.parent.mkdir(parents=True)
        saving.write_text('{"autosave": false}')
        self.log = folder / "lab.log"
        line = jupyterlab.command(
            ["--no-browser", "--port=0", "--LabApp.expose_app_in_browser=True"], root=self.root
        )
        self.process = subprocess.Popen(
            line,
            env=env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = self._wait()

    def _wait(self) -> str:
        end = time.time() + 60
        while time.time() < end:
            found = re.search(
                r"http://127\.0\.0\.1:(\d+)/lab[^\s?]*\?token=(\w+)", self.log.read_text()
            )
            if found:
                self.port, self.token = found[1], found[2]
                return f"http://127.0.0.1:{found[1]}"
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise AssertionError(f"JupyterLab did not start:\n{self.log.read_text()[-3000:]}")

    def page(self, path: str) -> str:
        return f"{self.url}/lab/tree/{path}?token={self.token}&reset"

    def add(self, name: str, cells) -> Path:
        """A notebook of (source, or ("markdown", source)) in the server's folder."""
        made = [
            nbformat.v4.new_markdown_cell(cell[1])
            if isinstance(cell, tuple)
            else nbformat.v4.new_code_cell(cell)
            for cell in cells
        ]
        notebook = nbformat.v4.new_notebook(
            cells=made,
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
        )
        path = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    def _api(self, path: str, method="GET"):
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method, headers=headers)
        return urllib.request.urlopen(request, timeout=20).read()

    def end_kernel(self, name: str):
        """Of a notebook: it would hold memory until the server stops."""
        for session in json.loads(self._api("sessions")):
            if session["path"].endswith(name):
                self._api(f"sessions/{session['id']}", "DELETE")

    def stop(self):
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("lab"))
    yield one
    one.stop()


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


class Notebook:
    """A notebook in the browser: what a student can do with it."""

    def __init__(self, server, browser, name, dark=False, size=(1200, 900)):
        self.server, self.path = server, server.root / "notebooks" / f"{name}.ipynb"
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.open()

    def open(self):
        self.page.goto(self.server.page(f"notebooks/{self.path.name}"))
        self.panel = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.panel.wait_for()
        self.wait_idle()

    def command(self, name: str, **args):
        """Run a command of JupyterLab, as its menus do."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, args]
        )

    def wait_idle(self, timeout=120):
        """The kernel is connected and has nothing to do."""
        session = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session"
        self.page.wait_for_function(
            f"() => {session}?.kernel?.status === 'idle'",
            timeout=timeout * 1000,
            polling=POLLING_MS,
        )

    def cell(self, index):
        return self.panel.locator(".jp-Cell").nth(index)

    def run(self, index, wait=True, timeout=60):
        """Shift+Enter in a cell."""
        cell = self.cell(index)
        cell.scroll_into_view_if_needed()
        cell.locator(".jp-InputArea-prompt").first.click()
        self.page.keyboard.press("Shift+Enter")
        if wait:
            prompt = cell.locator(".jp-InputPrompt")
            self.page.wait_for_function(
                "e => /\\[\\d+\\]/.test(e.textContent)",
                arg=prompt.element_handle(),
                timeout=timeout * 1000,
                polling=POLLING_MS,
            )

    def restart(self):
        """Restart the kernel, as the menu does after asking."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        self.wait_idle()

    def output(self, index):
        return self.cell(index).locator(".jp-OutputArea").first

    def save(self):
        # Not waited for: saving can ask something, and would wait for the answer.
        self.page.evaluate(
            """() => {
              window.saved = false;
              window.jupyterapp.commands.execute("docmanager:save").then(() => {
                window.saved = true;
              });
            }"""
        )
        end = time.time() + 60
        while not self.page.evaluate("() => window.saved"):
            asked = self.page.locator(".jp-Dialog").all_inner_texts()
            assert not asked, f"saving asks: {asked}"
            assert time.time() < end, self.server.log.read_text()[-2000:]
            time.sleep(0.05)
        return nbformat.read(self.path, as_version=4)

    def close(self):
        self.context.close()


@pytest.fixture
def open_notebook(server, browser):
    made = []

    def open_one(name, cells=None, **kwargs):
        if cells is not None:
            server.add(name, cells)
        made.append(Notebook(server, browser, name, **kwargs))
        return made[-1]

    yield open_one
    for one in made:
        one.close()
        server.end_kernel(one.path.name)
