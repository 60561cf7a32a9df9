from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from detseg3d.cli import completion

BASH = shutil.which("bash")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_script_knows_every_command_and_its_flags(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main([shell]) == 0
    script = capsys.readouterr().out
    for word in ("plan_and_preprocess", "detseg3d_train", "disable_tta", "target_recall"):
        assert word in script


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["detseg3d", "tr"], ["train"]),
        (["detseg3d", "train", "--disable_t"], ["--disable_tta"]),
        (["detseg3d_predict", "--save_c"], ["--save_candidates"]),
        (["detseg3d_evaluate", "--preset", "pic"], ["picai"]),
    ],
    ids=" ".join,
)
def test_bash_completes_commands_flags_and_choices(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    completion.main(["bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out, encoding="utf-8")
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"source '{tmp_path / 'script'}'\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        f"function=$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        "$function\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run([str(BASH), "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.split() == expected, done.stderr
