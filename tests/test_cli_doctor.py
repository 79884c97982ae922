"""`python -m processing doctor`: the command, and what the probes make of machines that are not this one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processing.cli import cgroups, probes


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "processing", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def test_text() -> None:
    done = run("--plain")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "memfd",
        "futex_waitv",
        "pidfd",
        "RLIMIT_NOFILE",
        "affinity",
        "memory limit",
        "start methods",
        "rich",
    ):
        assert word in done.stdout


def test_json() -> None:
    document = json.loads(run("--json").stdout)
    found = document["findings"]
    assert found["Kernel"]["memfd"]["value"] is True
    assert found["CPUs"]["affinity"]["value"] == len(os.sched_getaffinity(0))
    assert found["Arena"]["memory limit"]["value"]
    assert isinstance(document["missing"], list)


def test_limited_address_space_is_noticed() -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from processing.cli import doctor; sys.exit(doctor.main(['--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    limit = document["findings"]["Limits"]["RLIMIT_AS (address space)"]
    assert (limit["value"], limit["ok"]) == (f"{4 << 30:,}", False)
    assert "RLIMIT_AS (address space)" in document["missing"]


def test_what_the_kernel_refuses_is_missing() -> None:
    def refused() -> None:
        raise OSError(errno.EPERM, "no")

    def unknown() -> None:
        raise OSError(errno.ENOSYS, "no")

    finding = probes._offers("pidfd", refused, "purpose", "the fallback")
    assert (finding.ok, finding.note) == (False, "refused with EPERM: the fallback")
    finding = probes._offers("pidfd", unknown, "purpose", "the fallback")
    assert finding.note == "this kernel does not have it: the fallback"
    finding = probes._offers("pidfd", lambda: None, "purpose", "the fallback")
    assert (finding.ok, finding.note) == (True, "purpose")


def test_an_arena_that_cannot_be_made_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    from processing import _program

    def broken() -> dict[str, object]:
        raise OSError(errno.ENOSYS, "no arena")

    monkeypatch.setattr(_program, "doctor", broken)
    [finding] = probes.arena()
    assert finding.fatal and "no arena" in finding.note


def test_probing_changes_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for probe in (lambda: probes._memfd(0), probes._futex_waitv, probes._pidfd, probes._abstract_socket):
        probes.reason_of(probe)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1.0 MiB"), (3 << 29, "1.5 GiB"), (5 << 40, "5.0 TiB")],
)
def test_human(size: int, text: str) -> None:
    assert probes.human(size) == text


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([0], "0"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")])
def test_ranges(numbers: list[int], text: str) -> None:
    assert probes._ranges(numbers) == text


# ---- Control groups -------------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_cgroup_v2_over_all_levels(tmp_path: Path) -> None:
    write(tmp_path, cgroup__controllers="cpu memory")
    write(tmp_path / "outer", memory__max="1000000", memory__current="400", cpu__max="max 100000")
    write(tmp_path / "outer" / "inner", memory__max="max", cpu__max="150000 100000")
    found = cgroups.levels("0::/outer/inner\n", str(tmp_path))
    assert [(level.path, level.memory, level.memory_used, level.cpus) for level in found] == [
        (f"{tmp_path}/outer/inner", None, None, 1.5),
        (f"{tmp_path}/outer", 1000000, 400, None),
        (f"{tmp_path}", None, None, None),
    ]


def test_cgroup_v1(tmp_path: Path) -> None:
    write(tmp_path / "memory" / "a", memory__limit_in_bytes="5000", memory__usage_in_bytes="17")
    write(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712")
    write(tmp_path / "cpu" / "a", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    write(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    found = cgroups.levels("4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/\n", str(tmp_path))
    assert [(level.version, level.memory, level.memory_used, level.cpus) for level in found] == [
        (1, 5000, 17, None),
        (1, None, None, None),
        (1, None, None, 0.5),
        (1, None, None, None),
    ]


def test_the_path_of_the_host_in_a_container(tmp_path: Path) -> None:
    """The group's path does not exist below the mount: the root is what limits us."""
    write(tmp_path, cgroup__controllers="memory", memory__max="77")
    [level] = cgroups.levels("0::/docker/0123\n", str(tmp_path))
    assert level.memory == 77


def test_the_root_group_ends_the_walk(tmp_path: Path) -> None:
    write(tmp_path, cgroup__controllers="memory")
    assert len(cgroups.levels("0::/\n", str(tmp_path))) == 1


def test_no_control_groups(tmp_path: Path) -> None:
    assert cgroups.levels("", str(tmp_path)) == []
    [finding] = probes.control_groups([])
    assert finding.value is False
