"""What a record says of the machine and the software, and where it is kept."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", TOP, *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", read("/proc/cpuinfo") or "")
    return found[1] if found else platform.processor()


def caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read(str(index / name)) for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = f"{size}, shared by CPUs {read(str(index / 'shared_cpu_list'))}"
    return found


def chosen(setting: str | None) -> str | None:
    """`always [madvise] never` → `madvise`."""
    found = re.search(r"\[(\w+)\]", setting or "")
    return found[1] if found else setting


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("normkit", "numpy", "torch", "jax", "jaxlib", "onednn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203
            continue  # not installed: it does not take part
    return found


def machine() -> dict:
    flags = (read("/proc/cpuinfo") or "").split()
    isas = ("avx2", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16")
    return {
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "isa": [isa for isa in isas if isa in flags],
        "caches": caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "transparent_huge_pages": chosen(read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "hypervisor": "hypervisor" in flags,
        "load_before": os.getloadavg()[0],
    }


def commit() -> dict:
    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "changed_files": None if status is None else len(status.splitlines())}


def digest(path: str) -> str:
    """Of a compiled module: which build was measured, whatever the commit says."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def save(record: dict, folder: Path, what: str) -> Path:
    """Write `YYYY-MM-DD-<what>.json`, then -2, -3 …: a record is never overwritten."""
    stem, number = f"{datetime.date.today().isoformat()}-{what}", 1
    while (path := folder / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    write(record, path)
    return path


def write(record: dict, path: Path) -> None:
    """Over what is there, at once: whoever is stopped meanwhile leaves the old record or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(dumps(record))
    beside.replace(path)


def unfinished(folder: Path, asked: dict) -> Path | None:
    """The newest record that a stopped run has left which was asked for the same."""
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        record = load(path)
        if (record.get("finished"), record.get("asked")) == (False, asked):
            return path
    return None


def differences(a: dict, b: dict) -> list[str]:
    """What keeps the cells of two records from standing in one table."""
    found = [name for name in ("build", "versions") if a.get(name) != b.get(name)]
    if a["machine"]["cpu"] != b["machine"]["cpu"]:
        found.append("machine")
    names = {**a["settings"], **b["settings"]}
    return found + [name for name in names if a["settings"].get(name) != b["settings"].get(name)]


def dumps(record: dict) -> str:
    """JSON with one line per timing: small, and a diff can be read."""
    head = {k: v for k, v in record.items() if k != "cells"}
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    lines = [
        json.dumps(cell, ensure_ascii=False).replace(' "timings": [', '\n  "timings": [') for cell in record["cells"]
    ]
    lines = [line.replace('{"peer"', '\n   {"peer"') for line in lines]
    return f'{text},\n "cells": [\n ' + ",\n ".join(lines) + "\n ]\n}\n"


def load(path: Path) -> dict:
    return json.loads(path.read_text())
