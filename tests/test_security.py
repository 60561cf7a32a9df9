"""What docs/reference/security.md says of the program as a whole: data are never code, no shell, no network."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "detseg3d").rglob("*.py"))

# Each of these can turn data into code, or hands a line to a shell.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "input"),
    *("os.system", "os.popen", "os.startfile", "pty.spawn"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "yaml.load", "yaml.unsafe_load"),
    *("numpy.core.multiarray.fromstring", "pandas.read_pickle", "joblib.load", "dill.load", "dill.loads"),
    *("shutil.unpack_archive", "tarfile.open"),
}
FORBIDDEN_ENDINGS = (".extractall", ".extract", ".set_start_method")
# Modules that talk to a network, run programs or store objects with code.
FORBIDDEN_IMPORTS = {
    *("socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib"),
    *(
        "xmlrpc",
        "socketserver",
        "webbrowser",
        "subprocess",
        "pty",
        "ctypes",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
    ),
    *("joblib", "yaml", "tarfile", "huggingface_hub", "wandb"),
}
ALLOWED = {
    # It starts this interpreter, which decodes DICOM frames: a decoder that ends its process costs one series.
    ("detseg3d/data/formats/dicom/encapsulated.py", "import subprocess"),
    # It starts this interpreter, which trains a fold on a machine of a cluster.
    ("detseg3d/cli/train_folds.py", "import subprocess"),
    # It calls malloc_trim and mallopt of the C library, which take numbers.
    ("detseg3d/system/memory.py", "import ctypes"),
    # It calls sigaltstack of the C library, to switch a stack off.
    ("detseg3d/system/signals.py", "import ctypes"),
    # It percent-encodes a name of a folder.
    ("detseg3d/reporting/html/scan_files.py", "import urllib.parse"),
    ("detseg3d/reporting/html/scan_files.py", "import urllib.parse.quote"),
    # The service listens for clients.
    ("detseg3d/serving/server.py", "import socket"),
    # It reads the header with the cookie, and the name of the host in the header with the origin.
    ("detseg3d/serving/guard.py", "import http.cookies"),
    ("detseg3d/serving/guard.py", "import http.cookies.CookieError"),
    ("detseg3d/serving/guard.py", "import http.cookies.SimpleCookie"),
    ("detseg3d/serving/guard.py", "import urllib.parse"),
    ("detseg3d/serving/guard.py", "import urllib.parse.urlsplit"),
}
NEEDED_KEYWORDS = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(node: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def dangers(source: str) -> list[str]:
    """What a module calls or imports that it must not, in words."""
    tree, found = ast.parse(source), []
    for name, node in calls(tree):
        if name in FORBIDDEN_CALLS or name.endswith(FORBIDDEN_ENDINGS):
            found.append(name)
        if keywords(node).get("shell", "False") != "False":
            found.append("shell")
        needed = NEEDED_KEYWORDS.get(name.replace("numpy.", "np."))
        if needed is not None and keywords(node).get(needed[0]) != needed[1]:
            found.append(f"{name} without {needed[0]}={needed[1]}")
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)] + [f"{node.module}.{alias.name}" for alias in node.names]
        found += [f"import {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        found += [f"import {name}" for name in names if name in FORBIDDEN_CALLS]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_turns_data_into_code_or_talks_to_others(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = dangers(path.read_text(encoding="utf-8"))
    assert [danger for danger in found if (name, danger) not in ALLOWED] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import os\nos.system(line)",
        "import pickle\npickle.load(handle)",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "run(words, shell=True)",
        "import subprocess",
        "from urllib.request import urlopen",
        "def f():\n    import socket",
        "archive.extractall(folder)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert dangers(source) != []


def test_what_is_allowed_is_still_there() -> None:
    for name, danger in ALLOWED:
        assert danger in dangers((ROOT / name).read_text(encoding="utf-8")), "take it off the list"


# An audit hook sees every attempt, also from libraries and from compiled code of Python's own; it cannot be removed.
WATCH = """
import sys
FORBIDDEN = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
             "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "ftplib.connect", "smtplib.connect",
             "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn", "webbrowser.open")
attempts = []
# pydicom imports requests where that is installed. The urllib3 of requests asks whether there is IPv6: its socket takes
# any free port of the machine itself, and listens to nobody.
ASKS_FOR_IPV6 = ("::1", 0)
def watch(event, arguments):
    if event == "socket.bind" and arguments[1][:2] == ASKS_FOR_IPV6:
        return
    if event in FORBIDDEN:
        attempts.append(event)
        raise RuntimeError("forbidden: " + event)
sys.addaudithook(watch)
"""
RUN = (
    WATCH
    + """
import importlib, json
for command, *words in json.loads(sys.argv[1]):
    code = importlib.import_module("detseg3d.cli." + command).main(words)
    print(command, code, flush=True)
print("attempts", attempts)
"""
)


def run_watched(lines: list[list[str]]) -> str:
    words = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_command_works_without_a_network(tmp_path: Path) -> None:
    roots = {name: str(tmp_path / name) for name in ("raw", "preprocessed", "results")}

    def folders(*names: str) -> list[str]:
        return [word for name in names for word in (f"--{name}", roots[name])]

    raw = tmp_path / "raw" / "Dataset999_Example"
    images, labels, found = raw / "imagesTs", raw / "labelsTs", tmp_path / "found"
    short = ["-np", "0"]
    case = "held_out_001"
    printed = run_watched(
        [
            ["example", roots["raw"], "--num_cases", "3", "--num_test", "1", "--shape", "24", "28", "26", *short],
            ["convert", "--image_dir", str(raw / "imagesTr"), "--label_dir", str(raw / "labelsTr"), "--output_dir",
             str(tmp_path / "converted"), "--dataset_name", "Dataset120_Copy", *short],
            ["plan_and_preprocess", "-d", "999", *folders("raw", "preprocessed"), "--val_split", "0.3", *short],
            ["train", "999", "0", *folders(*roots), "--max_minutes", "0.02", "--num_workers", "0", "-device", "cpu",
             "--disable_tta"],
            ["predict", "-i", str(images), "-o", str(found), "-d", "999", *folders("results"), "--disable_tta"],
            ["evaluate", "-gt", str(labels), "-pred", str(found), "-o", str(tmp_path / "evaluation"), "--report",
             "--images", str(images), *short],
            ["consolidate", "999", "-f", "0", *folders("raw", "results"), *short],
            ["visualize", "--image", str(images / f"{case}_0000.nii.gz"), "--pred", str(found / f"{case}.nii.gz"),
             "--output", str(tmp_path / "picture.png")],
            ["export_model", "999", "-o", str(tmp_path / "model.safetensors"), *folders("results")],
            ["install_model", str(tmp_path / "model.safetensors"), "--results", str(tmp_path / "elsewhere")],
        ]
    )  # fmt: skip
    codes = [line.split() for line in printed.splitlines() if len(line.split()) == 2 and line[-1].isdigit()]
    commands = "example convert plan_and_preprocess train predict evaluate visualize export_model install_model"
    # So short a training may find no lesion, and then there is nothing to consolidate.
    assert [command for command, code in codes if code == "0" and command != "consolidate"] == commands.split()
    assert "consolidate" in dict(codes)
    assert "attempts []" in printed


def test_the_watch_sees_an_attempt() -> None:
    script = WATCH + "\nimport socket\nsocket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode != 0 and "forbidden: socket." in done.stderr


def test_the_watch_lets_a_library_ask_for_ipv6_and_sees_any_other_bind() -> None:
    bind = "\nimport socket\nfamily = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET"
    bind += "\nsocket.socket(family).bind((sys.argv[1], 0))"
    for address, forbidden in [("::1", False), ("::", True), ("127.0.0.1", True)]:
        done = subprocess.run(
            [sys.executable, "-c", WATCH + bind, address], capture_output=True, encoding="utf-8", check=False
        )
        # Without IPv6 the system itself refuses.
        assert ("forbidden: socket." in done.stderr) == forbidden, done.stderr
