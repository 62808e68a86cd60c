"""Builds what plays: the small programs of bench/micro, and their peers.

The peers' libraries go into an environment of their own, .bench-venv, so that
nothing of them is installed anywhere else. Programs are rebuilt when a source,
a header, the library or the command changes.

Knows nothing of: turns, goals.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "bench" / "micro"
POOLS = ROOT / "bench" / "pools"
PEERS = ROOT / ".bench-venv"
PEER_LIST = ROOT / "scripts" / "tools-bench.txt"
OPTIONS = ["-D_GNU_SOURCE", "-O3", "-ffp-contract=off", "-fopenmp-simd", "-Wall"]


class Missing(Exception):
    """Something that a row needs is not on this machine."""


def run(command: list[object]) -> str:
    """Run a command; return its output, raise Missing with it if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        shown = " ".join(map(str, command[:3]))
        raise Missing(f"'{shown} …' failed: {done.stdout.strip()[-600:]}")
    return done.stdout


def first_line(command: list[object]) -> str:
    """Return the first line of what a command prints."""
    return run(command).strip().partition("\n")[0]


def install_peers() -> dict[str, str]:
    """Install the peers' packages, newest releases, unless they are there.

    Returns
    -------
    dict of str to str
        The version of each package.
    """
    python, stamp = PEERS / "bin" / "python", PEERS / ".made"
    lines = PEER_LIST.read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    made = "\n".join([".".join(map(str, sys.version_info[:2])), *packages])
    if not stamp.exists() or stamp.read_text() != made:
        print(f"installing {', '.join(packages)} into {PEERS.name}", flush=True)
        run([sys.executable, "-m", "venv", "--clear", PEERS])
        run([python, "-m", "pip", "install", "--quiet", *packages])
        stamp.write_text(made)
    code = (
        "import sys; from importlib.metadata import version;"
        "print(*map(version, sys.argv[1:]))"
    )
    versions = run([python, "-c", code, *packages]).split()
    return dict(zip(packages, versions))


@dataclass
class Workshop:
    """Where programs are built, and from what.

    Parameters
    ----------
    build : Path
        A meson build directory that holds the library, built.
    """

    build: Path

    def __post_init__(self) -> None:
        self.out = self.build / "bench"
        self.out.mkdir(parents=True, exist_ok=True)
        found = sorted(
            path
            for path in self.build.glob("**/liballcores.so")
            if self.out not in path.parents
        )
        if not found:
            raise Missing(f"there is no liballcores.so in {self.build}: make build")
        self.library = found[0].resolve()
        self.library_folder = found[0].parent
        # libgomp is gcc's: clang would bring a runtime of its own
        self.c_compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
        self.cxx_compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"

    def target(self) -> dict[str, object]:
        """Return what meson knows of the shared library: sources and options."""
        targets = json.loads(
            (self.build / "meson-info" / "intro-targets.json").read_text()
        )
        for target in targets:
            if target["name"] == "allcores" and target["type"] == "shared library":
                for source in target["target_sources"]:
                    if source.get("language") == "c":
                        return source
        raise Missing(f"{self.build} does not say how the library is built")

    def package(self) -> Path:
        """Return a folder that holds the Python package and nothing else.

        It is the package that this interpreter imports. The peers' environment, of
        the same Python, has it by the search path.

        Raises
        ------
        Missing
            If it is not installed.
        """
        spec = importlib.util.find_spec("allcores")
        if spec is None or not spec.submodule_search_locations:
            raise Missing("the Python package is not installed: make build")
        link = self.out / "package" / "allcores"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(spec.submodule_search_locations[0]).resolve())
        return link.parent

    def peer_python(self) -> Path:
        """Return the interpreter of the peers' environment.

        Raises
        ------
        Missing
            If it could not be made.
        """
        if not (PEERS / ".made").exists():
            raise Missing(f"the peers are not in {PEERS.name}: see the versions")
        return PEERS / "bin" / "python"

    def options(self) -> dict[str, object]:
        """Return the options of the build that matter for speed."""
        wanted = ("buildtype", "optimization", "b_ndebug", "b_sanitize", "b_lto")
        options = json.loads(
            (self.build / "meson-info" / "intro-buildoptions.json").read_text()
        )
        return {o["name"]: o["value"] for o in options if o["name"] in wanted}

    def program(self, name: str) -> Path:
        """Build bench/micro/<name>; what it links to follows from its name.

        Raises
        ------
        Missing
            If a compiler or a peer's library is not there, with the reason.
        """
        source = next(MICRO.glob(f"{name}.c*"))
        target = self.out / name
        side = name.rpartition("_")[2]
        command: list[object] = [self.c_compiler, "-std=c17", *OPTIONS]
        if source.suffix == ".cc":
            if not shutil.which(self.cxx_compiler):
                raise Missing("skipped: there is no C++ compiler (package g++)")
            command = [self.cxx_compiler, "-std=c++17", *OPTIONS]
        command += ["-o", target, source]
        if side == "ac":
            command += [f"-I{ROOT / 'include'}", self.library]
            command += [f"-Wl,-rpath,{self.library_folder}"]
        elif side == "openmp":
            command += ["-fopenmp"]
        elif side == "tbb":
            folder = PEERS / "lib"
            command += [f"-I{PEERS / 'include'}", f"-L{folder}", "-ltbb"]
            command += [f"-Wl,-rpath,{folder}"]
        self._make(target, [*command, "-pthread", "-lm"])
        return target

    def _make(self, target: Path, command: list[object]) -> None:
        """Run the command if the target does not come from it and what is now."""
        stamp = target.with_suffix(".command")
        text = "\n".join(map(str, command))
        inputs = [self.library, *MICRO.iterdir(), *ROOT.glob("include/**/*.h")]
        newest = max(path.stat().st_mtime for path in inputs)
        if (
            target.exists()
            and stamp.exists()
            and stamp.read_text() == text
            and target.stat().st_mtime >= newest
        ):
            return
        run(command)
        stamp.write_text(text)

    def whole_program(self, name: str, compiler: str, march: str) -> Path:
        """Build bench/micro/<name>.c with the library's sources in one program.

        Parameters
        ----------
        compiler : str
            "gcc" or "clang".
        march : str
            The instruction set, as in -march.
        """
        target = self.out / f"{name}-{compiler}-{march}"
        recipe = self.target()
        skipped = ("-W", "-fdiagnostics", "-M", "-g")
        options = [o for o in recipe["parameters"] if not o.startswith(skipped)]
        run(
            [
                *[compiler, *options, f"-march={march}", "-w", "-o", target],
                *[MICRO / f"{name}.c", *recipe["sources"], "-pthread", "-lm"],
            ]
        )
        return target

    def versions(self) -> dict[str, object]:
        """Return the versions of everything that is compared."""
        versions: dict[str, object] = {
            "allcores": self._library_version(),
            "allcores options": self.options(),
            "python": sys.version.partition(" ")[0],
        }
        compilers = dict.fromkeys([self.c_compiler, self.cxx_compiler, "clang"])
        for compiler in compilers:
            if shutil.which(compiler):
                name = Path(compiler).name
                versions[name] = first_line([compiler, "--version"])
        return versions

    def _library_version(self) -> str:
        code = (
            "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]);"
            "library.ac_version.restype = ctypes.c_char_p;"
            "print(library.ac_version().decode())"
        )
        version = first_line([sys.executable, "-c", code, self.library])
        if (ROOT / ".git").exists() and shutil.which("git"):
            git = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
            version += f" ({first_line(git)})"
        return version
