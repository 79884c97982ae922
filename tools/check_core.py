"""Two promises of the C core that a compiler does not check: `python3 tools/check_core.py BUILD_FOLDER`.

1. No file of core/ includes Python.h.
2. libpz.a has no writable data: all state is in the arena or in a struct that the caller owns, so that every extension
   module may link its own copy. (`nm` types: B, C, D and their lower case; read-only tables are R, or in
   .data.rel.ro because they hold addresses, which is allowed.)

Standard library only; needs binutils' nm and objdump, like the linker itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def includes_of_python() -> list[str]:
    pattern = re.compile(r"^\s*#\s*include\s*[<\"]Python\.h", re.MULTILINE)
    files = [path for path in (ROOT / "core").rglob("*.[ch]") if pattern.search(path.read_text())]
    return [f"{path.relative_to(ROOT)} includes Python.h" for path in files]


def writable_symbols(library: Path) -> list[str]:
    """Symbols of libpz.a in sections that a program can write to."""
    # The symbol table with section names: `objdump -t`, fields: address, flags, section, size, name.
    listing = subprocess.run(
        ["objdump", "-t", str(library)], capture_output=True, text=True, check=True
    ).stdout
    found = []
    member = ""
    for line in listing.splitlines():
        if ":     file format" in line:
            member = line.split(":")[0]
            continue
        match = re.match(r"[0-9a-f]{8,16} .{7} (\S+)\s+([0-9a-f]+)\s+(.*)", line)
        if not match:
            continue
        section, size, name = match.groups()
        writable = section == "*COM*" or re.match(r"\.(data|bss|tdata|tbss)(\.|$)", section)
        if writable and not section.startswith(".data.rel.ro") and int(size, 16) > 0:
            found.append(f"{member}: {name.strip()} ({int(size, 16)} bytes in {section})")
    return found


def main() -> int:
    problems = includes_of_python()
    library = Path(sys.argv[1]) / "core" / "libpz.a"
    problems += [f"mutable global in the core: {symbol}" for symbol in writable_symbols(library)]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
