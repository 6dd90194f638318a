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
    assert forest.page_table(child).tolist() == [0, 1] and forest.num_nodes == 1
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


def test_truncate_gives_tokens_pages_and_the_reserve_back():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    assert forest.append(root, [9]).tolist() == list(range(9))
    forest.reserve(root, [12])
    forest.truncate(root, [3])
    assert (forest.length(root).tolist(), forest.page_table(0).tolist()) == ([6], [0, 1])
    assert (forest.used_pages, forest.free_pages, forest.peak_pages) == (2, 6, 6)
    assert forest.append(root, [2]).tolist() == [6, 7]
    forest.truncate(root, [8])
    assert (forest.length(root).tolist(), forest.used_pages, forest.is_held(0)) == ([0], 0, True)
    forest.reserve(root, [5])
    forest.truncate([0], [0])
    assert forest.used_pages == 0
    forest.check()


def test_truncate_ends_where_the_parent_does():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.append(root, [6])
    (child, heir), _, _ = forest.fork(root, [2])
    slots = forest.append([child, heir], [3, 2]).tolist()
    before = dump(forest, [0, child, heir])
    with pytest.raises(ValueError, match=r"^truncate: counts\[1\] must be at most the node's own 2 tokens, got 3$"):
        forest.truncate([child, heir], [3, 3])
    assert dump(forest, [0, child, heir]) == before
    forest.truncate([heir, child], [2, 3])
    assert forest.length([0, child, heir]).tolist() == [6, 6, 6] and forest.used_pages == 3
    assert forest.append([child, heir], [2, 2]).tolist() == slots[:2] + slots[3:]
    forest.check()


def test_a_node_that_has_one_child_left_is_that_childs_own():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.append(root, [6])
    (child, other), _, _ = forest.fork(root, [2])
    forest.append([child, other], [3, 1])
    with pytest.raises(ValueError, match=r"counts\[0\] must be at most the node's own 3 tokens, got 8$"):
        forest.truncate([child], [8])
    table = forest.page_table(child).tolist()
    forest.release([other])
    assert (forest.num_nodes, forest.parent(child), forest.base(child)) == (1, -1, 0)
    assert forest.page_table(child).tolist() == table
    forest.truncate([child], [8])
    assert forest.append([child], [1]).tolist() == [1] and forest.used_pages == 1
    forest.check()


def test_a_held_parent_is_not_its_only_childs():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.append(root, [6])
    (child,), _, _ = forest.fork(root, [1], keep=True)
    forest.append([child], [5])
    assert (forest.num_nodes, forest.base(child)) == (2, 4)
    forest.release(root)
    assert (forest.num_nodes, forest.base(child), forest.used_pages) == (1, 0, 3)
    forest.check()


def test_nodes_are_fewer_than_twice_the_held_ones_however_long_the_past():
    forest = host.Forest(256, 4)
    beams = forest.add_roots(1)
    for step in range(100):
        beams, _, _ = forest.fork(beams, [2] * len(beams))
        forest.append(beams, [1] * len(beams))
        if len(beams) > 8:
            forest.release(beams[step % 2 :: 2])
            beams = beams[1 - step % 2 :: 2]
        assert forest.num_nodes < 2 * len(beams)
        forest.check()


def test_a_parent_can_be_truncated_once_its_children_are_gone():
    forest = host.Forest(8, 4)
    root = forest.add_roots(1)
    forest.append(root, [6])
    children, _, _ = forest.fork(root, [2], keep=True)
    with pytest.raises(ValueError, match=r"truncate: nodes\[0\] = 0 has children"):
        forest.truncate(root, [1])
    forest.release(children)
    forest.truncate(root, [3])
    assert (forest.length(root).tolist(), forest.used_pages) == ([3], 1)
    forest.check()


def test_pages_of_shared_frames_are_multiples_of_the_stride():
    frames = host.Frames(4)
    small, large = host.Forest(frames, 4, 3), host.Forest(frames, 16, 1)
    assert (small.append(small.add_roots(1), [6]) // 4).tolist() == [0, 0, 0, 0, 3, 3]
    assert (large.append(large.add_roots(1), [17]) // 16).tolist() == [2] * 16 + [3]
    large.release([0])
    children, src, dst = small.fork([0], [3])
    assert (src.tolist(), dst.tolist()) == ([3, 3], [6, 9])
    assert [small.page_table(child).tolist() for child in children] == [[0, 6], [0, 9], [0, 3]]
    assert (small.page_stride, large.page_stride, host.Forest(4, 4).page_stride) == (3, 1, 1)
    small.check()
    large.check()


def test_forests_take_what_others_left_in_shared_frames():
    frames = host.Frames(3)
    one, other = host.Forest(frames, 4, 1), host.Forest(frames, 2, 2)
    root, second = one.add_roots(1), other.add_roots(1)
    one.append(root, [8])
    before = dump(other, [0])
    with pytest.raises(host.OutOfPages, match=r"^append: wanted 2 pages, 1 free$") as caught:
        other.append(second, [3])
    assert (caught.value.wanted, caught.value.free, dump(other, [0])) == (2, 1, before)
    one.truncate(root, [4])
    other.append(second, [3])
    with pytest.raises(host.OutOfPages, match=r"^reserve: wanted 1 pages, 0 free$"):
        one.reserve(root, [1])
    other.release(second)
    assert (one.used_pages, other.used_pages, one.free_pages, other.free_pages, frames.num_free) == (1, 0, 2, 2, 2)
    assert (one.peak_pages, other.peak_pages, frames.peak, one.num_pages, frames.count) == (2, 2, 3, 3, 3)
    one.check()
    other.check()


def test_slots_of_shared_frames_fill_int32():
    forest = host.Forest(host.Frames(1), 7, (2**31 - 1) // 7)
    assert forest.append(forest.add_roots(1), [7]).tolist() == list(range(7))
    forest.check()


def test_a_forest_keeps_the_frames_alive():
    forest = host.Forest(host.Frames(2), 4, 1)
    forest.append(forest.add_roots(1), [5])
    assert (forest.num_pages, forest.free_pages) == (2, 0)
    forest.check()


def test_a_forest_that_goes_gives_its_pages_back():
    frames = host.Frames(3)
    gone, left = host.Forest(frames, 4, 1), host.Forest(frames, 2, 3)
    gone.append(gone.add_roots(1), [9])
    assert frames.num_free == 0
    del gone
    assert left.free_pages == 3
    left.append(left.add_roots(1), [6])
    left.check()


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
    forest.truncate(children, [0, 0])
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
        (lambda f: host.Frames(0), ValueError, r"Frames: count must be in \[1, 2\*\*31\), got 0"),
        (lambda f: host.Frames(2**31), ValueError, r"Frames: count must be in \[1, 2\*\*31\), got 2147483648"),
        (lambda f: host.Forest(None, 4, 1), TypeError, "incompatible constructor arguments"),
        (lambda f: host.Forest(host.Frames(2), 0, 1), ValueError, "Forest: page_size must be > 0, got 0"),
        (lambda f: host.Forest(host.Frames(2), 1, 0), ValueError, "Forest: page_stride must be > 0, got 0"),
        (
            lambda f: host.Forest(host.Frames(2), 2**15, 2**15),
            ValueError,
            r"must be < 2\*\*31, got 2 \* 32768 \* 32768",
        ),
        (
            lambda f: host.Forest(host.Frames(2), 2**40, 2**40),
            ValueError,
            r"frames \* page_stride \* page_size must be",
        ),
        (lambda f: host.Forest([2], 4, 1), TypeError, "incompatible constructor arguments"),
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
        (lambda f: f.truncate([0], [0, 0]), ValueError, r"truncate: counts must be \[1\] like nodes, got \[2\]"),
        (lambda f: f.truncate([0, 1], [0, -1]), ValueError, r"truncate: counts\[1\] must be >= 0, got -1"),
        (lambda f: f.truncate([1], [1]), ValueError, r"counts\[0\] must be at most the node's own 0 tokens, got 1"),
        (lambda f: f.truncate([1, 1], [0, 0]), ValueError, r"truncate: nodes\[1\] = 1 is named twice"),
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
