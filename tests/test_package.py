"""The shape of the package: who may import whom, how large files are, what an install without extensions says."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import library

import tts_kernels
from tts_kernels import _ext, backends

ROOT = Path(tts_kernels.__file__).parent

# From the bottom up; a module imports from lower layers and from its own. TreeModel (hf) stands below the scorers,
# because a reward model is run over a forest exactly as the policy is.
LAYERS = [
    {"_checks", "_ext", "assets"},
    {"processors"},
    {"plan", "backends", "testing", "accounting"},
    {"ops"},
    {"kv_pool", "layers"},
    {"hf", "tree", "answers", "separator", "compute_optimal"},
    {"scorers", "token_beam"},
    {"strategies", "selection"},
    {"search", "problems", "meter", "tournaments"},
    {"admission"},
    {"rows"},
    {"growth"},
    {"speculation"},
    {"branching"},
    {"run"},
    {"decoder"},
    {"report", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports_at_run_time(tree):
    """Imports of our own modules, those under TYPE_CHECKING left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tts_kernels":
            if node.module == "tts_kernels":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.split(".")[1]


def test_imports_go_down_only():
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).with_suffix("").parts[0]
        if module == "__init__":
            continue
        for imported in imports_at_run_time(ast.parse(path.read_text())):
            assert LEVEL[imported] <= LEVEL[module], f"{path}: {module} imports {imported}, which stands above it"


def test_files_stay_readable():
    sources = [*ROOT.rglob("*.py"), *(ROOT.parent / "csrc").rglob("*.cpp"), *(ROOT.parent / "csrc").rglob("*.h")]
    lengths = {path: len(path.read_text().splitlines()) for path in sources}
    longest = max(lengths, key=lambda path: lengths[path])
    assert lengths[longest] <= 330, f"{longest} has {lengths[longest]} lines"


def test_public_names_exist():
    for name in tts_kernels.__all__:
        assert getattr(tts_kernels, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Tree'"):
        tts_kernels.Tree  # noqa: B018


@pytest.fixture
def no_extension(monkeypatch):
    """As after TTS_BUILD_EXT=0: neither extension is there."""
    find = importlib.util.find_spec
    hidden = {"tts_kernels._C", "tts_kernels._host"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    _ext._load.cache_clear()
    yield
    _ext._load.cache_clear()


def test_without_extensions_the_reference_runs_and_native_says_why(no_extension):
    assert "not built (installed with TTS_BUILD_EXT=0)" in backends.why_not("merge_states", "native", "cpu")
    merge_states = importlib.import_module("tts_kernels.ops.merge_states").merge_states
    outs, lses = torch.ones(2, 1, 1, 4), torch.zeros(2, 1, 1)
    assert torch.equal(merge_states(outs, lses)[0], outs[0])
    with pytest.raises(RuntimeError, match=r"merge_states: backend 'native' cannot run here: .* is not built"):
        merge_states(outs, lses, backend="native")
    with pytest.raises(RuntimeError, match=r"needs the compiled host core: .* is not built"):
        _ext.host()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="op must be one of"):
        backends.why_not("attention", "native", "cpu")
    with pytest.raises(ValueError, match="backend must be one of"):
        backends.why_not("merge_states", "cuda", "cpu")


def test_native_ops_pass_torchs_own_check_of_custom_ops():
    if _ext.why_not_native():
        pytest.skip("the native extension is not built")
    outs, lses = torch.randn(2, 3, 2, 16), torch.randn(2, 3, 2)
    out, lse = torch.empty(3, 2, 16), torch.empty(3, 2)
    arguments = (outs, lses, out, lse)
    checks = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.tts_kernels.merge_states.default, arguments, test_utils=checks)
    # The last two are of tts_kernels/layers.py alone.
    assert set(_ext.native_ops()) == {*backends.OPS, "rms_norm", "silu_mul"}
