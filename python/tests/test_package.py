"""The package's face: names, stubs, docstrings, the command."""

import ast
import importlib
import inspect
import json
import pathlib
import pickle
import subprocess
import sys

import allcores as ac
import pytest

HOME = pathlib.Path(ac.__file__).parent
MODULES = [
    "allcores",
    "allcores._core",
    "allcores._procs",
    "allcores.arrays",
    "allcores.budget",
    "allcores.executor",
    "allcores.parallel",
    "allcores.pools",
    "allcores.shared",
]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "allcores", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_public_name_is_there_and_has_a_docstring():
    for name in ac.__all__:
        value = getattr(ac, name)
        assert name in dir(ac)
        assert name == "__version__" or inspect.getdoc(value), name


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'allcores' has no attribute 'nothing'"):
        _ = ac.nothing


def test_no_module_has_the_name_of_a_function():
    modules = {path.stem for path in HOME.glob("*.py")}
    assert not modules & set(ac.__all__)


def stub_of(module):
    name = module.removeprefix("allcores").removeprefix(".") or "__init__"
    return ast.parse((HOME / f"{name}.pyi").read_text())


def stub_names(tree):
    """Public names that a stub defines, with their nodes."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.asname:
                    found[alias.asname] = node
    return {name: node for name, node in found.items() if not name.startswith("_")}


def parameters(node):
    """Names and kinds of a stub function's parameters, `self` aside."""
    args = node.args
    found = [(a.arg, "positional") for a in args.posonlyargs]
    found += [(a.arg, "either") for a in args.args]
    found += [(a.arg, "keyword") for a in args.kwonlyargs]
    return [pair for pair in found if pair[0] != "self"]


def real_parameters(function):
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
    }
    found = inspect.signature(function).parameters.values()
    return [(p.name, kinds[p.kind]) for p in found if p.name != "self"]


@pytest.mark.parametrize("module", MODULES)
def test_the_stub_has_the_names_of_the_module(module):
    real = importlib.import_module(module)
    names = set(stub_names(stub_of(module)))
    public = set(getattr(real, "__all__", ()) or vars(real))
    assert {n for n in public if not n.startswith("_")} <= names
    for name in names:
        assert hasattr(real, name), name


@pytest.mark.parametrize("module", MODULES)
def test_the_stub_has_the_signatures_of_the_module(module):
    real = importlib.import_module(module)
    for name, node in stub_names(stub_of(module)).items():
        if isinstance(node, ast.FunctionDef):
            assert parameters(node) == real_parameters(getattr(real, name)), name


def test_the_stub_of_info_has_its_fields():
    stub = stub_names(stub_of("allcores.budget"))["Info"]
    assert [field.target.id for field in stub.body] == list(ac.Info._fields)


def test_the_package_says_that_it_is_typed():
    assert (HOME / "py.typed").exists()


def test_sum_is_pickled_by_its_public_name():
    assert ac.sum.__module__ == "allcores"
    assert pickle.loads(pickle.dumps(ac.sum)) is ac.sum


def test_the_versions_agree():
    from importlib.metadata import version

    assert ac.__version__ == version("allcores")


def test_the_command_prints_its_version():
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"allcores {ac.__version__}\n")


def test_info_says_how_many_cores_and_why():
    done = command("info")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cores used")
    assert ac.info().reason in done.stdout


def test_info_as_json_has_the_fields_of_info():
    found = json.loads(command("info", "--json").stdout)
    assert found == {"version": ac.__version__, **ac.info()._asdict()}


def test_info_counts_a_sample():
    found = json.loads(command("info", "--counters", "--json").stdout)
    assert list(found["counters"]) == list(ac.counters())
    assert found["counters"]["regions"] >= found["sample"]["loops"]
    text = command("info", "--counters").stdout
    assert "loops and reductions entered" in text


@pytest.mark.parametrize(
    "arguments", [[], ["nothing"], ["info", "--nothing"], ["info", "more"], ["--js"]]
)
def test_a_wrong_command_line_is_status_2_and_one_sentence(arguments):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("allcores: ") and done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m allcores info --json | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_python_docstrings_run():
    import doctest

    for module in ("allcores.budget", "allcores"):
        failed, _ = doctest.testmod(importlib.import_module(module))
        assert failed == 0
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(ac.sum, "sum", globs={}):
        runner.run(test)
    assert runner.failures == 0 and runner.tries > 0
