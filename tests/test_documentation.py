"""The programs in the README and the manual run, and print what their comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def programs() -> list[tuple[str, str]]:
    """Python blocks that are whole programs: those with a main part."""
    found = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)):
            if "__main__" in block:
                found.append((f"{page.relative_to(ROOT)}:{number}", block))
    return found


@pytest.mark.parametrize("program", [pytest.param(text, id=name) for name, text in programs()])
def test_program(program: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=30, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    for promised in re.findall(r'# prints "(.*)"', program):
        assert promised in done.stdout.splitlines()


def test_links_between_pages() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken
