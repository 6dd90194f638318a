import numpy as np
import pytest
from host_helpers import dump

from tts_kernels import _ext

host = _ext.host()


def test_fork_into_one_child_copies_nothing_and_keeps_the_reserve():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.reserve(root, [20])
    forest.append(root, [6])
    (child,), src, dst = forest.fork(root, [1])
    assert (len(src), len(dst), forest.free_pages) == (0, 0, 3)
    assert forest.page_table(child).tolist() == [0, 1] and forest.base(child) == 4
    assert forest.append([child], [14]).tolist() == list(range(6, 20)) and forest.free_pages == 3
    forest.check()


def test_kept_parent_forks_again_and_grows_again():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.append(root, [6])
    first, src, _ = forest.fork(root, [2], keep=True)
    second, _, _ = forest.fork(root, [1], keep=True)
    assert src.tolist() == [1, 1] and forest.free_pages == 8 - 2 - 3
    with pytest.raises(ValueError, match=r"append: nodes\[0\] = 0 has children"):
        forest.append(root, [1])
    forest.release([*first, *second])
    assert forest.append(root, [1]).tolist() == [6] and forest.free_pages == 6
    forest.check()


def test_a_reserve_given_back_pays_for_the_copies():
    forest = host.Forest(3, 4)
    root = forest.add_roots(1)
    forest.reserve(root, [12])
    forest.append(root, [2])
    with pytest.raises(host.OutOfPages, match=r"^fork: wanted 3 pages, 2 free$"):
        forest.fork(root, [3], keep=True)
    forest.fork(root, [2], keep=True)
    assert (forest.free_pages, forest.peak_pages) == (0, 3)
    forest.check()


def test_release_frees_ancestors_in_any_order_of_one_batch():
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        forest = host.Forest(8, 4)
        root = forest.add_roots(1)
        forest.append(root, [6])
        forest.fork(root, [2], keep=True)
        forest.release(order)
        assert (forest.num_nodes, forest.free_pages) == (0, 8)
        forest.check()


def test_version_tells_when_plans_go_stale():
    forest = host.Forest(8, 4)
    versions = [forest.version]
    root = forest.add_roots(1)
    versions.append(forest.version)
    forest.reserve(root, [4])
    forest.append(root, [2])
    assert forest.version == versions[-1]
    children, _, _ = forest.fork(root, [2])
    versions.append(forest.version)
    forest.release(children)
    versions.append(forest.version)
    assert versions == sorted(set(versions))


@pytest.mark.parametrize("make", [list, np.int8, np.int64, np.uint64, np.uint8], ids=lambda m: m.__name__)
def test_any_lossless_integers_are_accepted(make):
    forest = host.Forest(8, 4)
    values = make([0, 1]) if make is list else np.array([0, 1], make)
    forest.add_roots(2)
    assert forest.append(values, np.array([9, 1, 9, 1])[1::2]).tolist() == [0, 4]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f: host.Forest(0, 16), ValueError, "Forest: num_pages must be > 0, got 0"),
        (lambda f: host.Forest(4, -1), ValueError, "Forest: page_size must be > 0, got -1"),
        (lambda f: host.Forest(2**27, 16), ValueError, r"Forest: num_pages \* page_size must be < 2\*\*31"),
        (lambda f: f.add_roots(-1), ValueError, "add_roots: n must be >= 0, got -1"),
        (lambda f: f.add_roots(2**31), ValueError, "add_roots: wanted 2147483648 node ids"),
        (lambda f: f.append([0.0], [1]), TypeError, "append: nodes must be integers, got float64"),
        (lambda f: f.append([0], [True]), TypeError, "append: counts must be integers, got bool"),
        (lambda f: f.append([[0]], [1]), ValueError, r"append: nodes must have 1 dimension, got shape \(1, 1\)"),
        (lambda f: f.append(0, [1]), ValueError, r"append: nodes must have 1 dimension, got shape \(\)"),
        (lambda f: f.append([0], [1, 2]), ValueError, r"append: counts must be \[1\] like nodes, got \[2\]"),
        (lambda f: f.append([0, 1], [1, -2]), ValueError, r"append: counts\[1\] must be >= 0, got -2"),
        (lambda f: f.append([0], [2**31]), ValueError, r"append: counts\[0\] must fit int32, got 2147483648"),
        (lambda f: f.append([0], [-(2**31) - 1]), ValueError, r"append: counts\[0\] must fit int32"),
        (lambda f: f.append([0], np.array([2**63], np.uint64)), ValueError, r"append: counts\[0\] must fit int32"),
        (lambda f: f.append([0], [2**31 - 1]), host.OutOfPages, "append: wanted 134217728 pages, 4 free"),
        (lambda f: f.reserve([0, 1], [2**31 - 1] * 2), host.OutOfPages, "reserve: wanted 268435456 pages, 4 free"),
        (lambda f: f.fork([0, 1], [1, 0]), ValueError, r"fork: widths\[1\] must be >= 1, got 0"),
        (lambda f: f.fork([0, 1], [2**31 - 1] * 2), ValueError, "fork: wanted 4294967294 node ids"),
        (lambda f: f.release([0, 0]), ValueError, r"release: nodes\[1\] = 0 is named twice"),
        (lambda f: f.length([0, 7]), ValueError, r"length: nodes\[1\] = 7 is not a live node"),
        (lambda f: f.page_table(2**40), ValueError, "page_table: node = 1099511627776 is not a live node"),
        (lambda f: f.parent(-1), ValueError, "parent: node = -1 is not a live node"),
    ],
)
def test_bad_input_is_named(call, error, text):
    forest = host.Forest(4, 16)
    forest.add_roots(2)
    before = dump(forest, [0, 1])
    with pytest.raises(error, match=text):
        call(forest)
    assert dump(forest, [0, 1]) == before
    forest.check()
