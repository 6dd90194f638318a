"""What the tests of the host core share."""


def dump(forest, live):
    """All that a caller can see of a forest."""
    counters = ("free_pages", "used_pages", "peak_pages", "num_nodes", "num_held", "version")
    nodes = {
        n: (forest.parent(n), forest.num_children(n), forest.is_held(n), forest.base(n), *forest.page_table(n))
        for n in live
    }
    return [getattr(forest, c) for c in counters], forest.length(live).tolist(), nodes


def grow_forest(host, rng, page_size, num_pages=4096):
    """A forest with forks at any length, kept parents, pruned and cut leaves and reserves, and the nodes still held."""
    forest = host.Forest(host.Frames(num_pages), page_size, rng.choice([1, 3]))
    held = forest.add_roots(rng.randint(1, 3)).tolist()
    forest.append(held, [rng.randint(0, 5 * page_size + 3) for _ in held])
    for _ in range(rng.randint(0, 5)):
        parents = rng.sample(held, rng.randint(1, len(held)))
        keep = rng.random() < 0.3
        children, _, _ = forest.fork(parents, [rng.randint(1, 3) for _ in parents], keep=keep)
        held = [n for n in held if keep or n not in parents] + children.tolist()
        growing = [n for n in children.tolist() if rng.random() < 0.8]
        counts = [rng.randint(0, 2 * page_size + 2) for _ in growing]
        forest.append(growing, counts)
        forest.truncate(growing, [rng.choice([0, 0, rng.randint(0, count)]) for count in counts])
        forest.reserve(growing, [rng.choice([0, 0, page_size]) for _ in growing])
        if len(held) > 24 or rng.random() < 0.3:
            gone = rng.sample(held, min(len(held) - 1, max(len(held) - 24, 2)))
            forest.release(gone)
            held = [n for n in held if n not in gone]
    forest.check()
    return forest, held


def depth_first(forest, nodes):
    """The nodes in the order in which a walk from the roots meets them."""

    def path(node):
        return [*path(forest.parent(node)), node] if node >= 0 else []

    return sorted(nodes, key=path)


def expand(plan):
    """For each row, what its units read: [(unit, position, page, offset)], in the order of units and runs."""
    reads = [[] for _ in range(plan.num_rows)]
    for u, (_, _, run_begin, run_end, _) in enumerate(plan.units.tolist()):
        for row_begin, row_end, page_begin, base, length in plan.runs[run_begin:run_end].tolist():
            tokens = [
                (u, base + i, int(plan.pages[page_begin + i // plan.page_size]), i % plan.page_size)
                for i in range(length)
            ]
            for row in range(row_begin, row_end):
                reads[row] += tokens
    return reads


def check_reads(plan, forest, leaves, counts, window=None):
    """Every row reads each token of its path (and window) exactly once, from where the forest keeps it."""
    reads = expand(plan)
    row_pos = plan.row_pos.tolist()
    rows = [
        (forest.page_table(leaf), int(forest.length([leaf])[0]) - count + i)
        for leaf, count in zip(leaves, counts, strict=True)
        for i in range(count)
    ]
    assert row_pos == [position for _, position in rows]
    for row, (table, last) in enumerate(rows):
        first = 0 if window is None else max(0, last - window + 1)
        got = sorted(read[1:] for read in reads[row] if first <= read[1] <= last)
        size = plan.page_size
        assert got == [(pos, int(table[pos // size]), pos % size) for pos in range(first, last + 1)]


def check_structure(plan, tile_rows, split_tokens, growth):
    """The promises that kernels rely on besides what is read, and the limits that were asked for."""
    units, runs = plan.units.tolist(), plan.runs.tolist()
    row_pos = plan.row_pos.tolist()
    most_tokens = max(split_tokens, plan.page_size)
    assert [unit[2] for unit in units] + [len(runs)] == [0] + [unit[3] for unit in units]
    assert plan.max_unit_rows == max((unit[1] - unit[0] for unit in units), default=0)
    for row_begin, row_end, run_begin, run_end, _ in units:
        assert 0 < row_end - row_begin <= tile_rows
        last = [-1] * (row_end - row_begin)
        tokens = {}
        for run in runs[run_begin:run_end]:
            assert row_begin <= run[0] < run[1] <= row_end
            assert run[3] % plan.page_size == run[4] % plan.page_size == 0 < run[4]
            assert growth or run[3] <= max(row_pos[run[0] : run[1]])
            # The last row sees at least what the others see.
            assert row_pos[run[1] - 1] >= min(max(row_pos[run[0] : run[1]]), run[3] + run[4] - 1)
            tokens[run[2]] = max(tokens.get(run[2], 0), min(run[4], row_pos[run[1] - 1] + 1 - run[3]))
            for row in range(run[0] - row_begin, run[1] - row_begin):
                assert last[row] < run[3]
                last[row] = run[3]
        assert min(last) >= 0
        assert growth or sum(tokens.values()) <= most_tokens


def check_page_reads(plan):
    """``reads`` are the runs page by page, and ``unit_reads`` leaves none out that holds a key."""
    units, runs, size = plan.units.tolist(), plan.runs.tolist(), plan.page_size
    row_pos, reads = plan.row_pos.tolist(), plan.reads.tolist()
    ends = [*(begin for begin, _ in plan.unit_reads.tolist()[1:]), len(reads)][: len(units)]
    for (_, _, run_begin, run_end, _), (begin, active_end), end in zip(
        units, plan.unit_reads.tolist(), ends, strict=True
    ):
        wanted = [
            [page_begin + i, base + i * size, row_begin, row_end]
            for row_begin, row_end, page_begin, base, length in runs[run_begin:run_end]
            for i in range(length // size)
        ]
        assert sorted(reads[begin:end]) == sorted(wanted)
        assert all(read[1] > row_pos[read[3] - 1] for read in reads[active_end:end])
        assert active_end == begin or reads[active_end - 1][1] <= row_pos[reads[active_end - 1][3] - 1]


def check_joins(plan):
    """A row of several units lists one slot for each, ascending in path position; a row of one unit lists none."""
    units, runs = plan.units.tolist(), plan.runs.tolist()
    join_ptr, join_slots = plan.join_ptr.tolist(), plan.join_slots.tolist()
    firsts = [[] for _ in range(plan.num_rows)]
    for u, (row_begin, row_end, run_begin, run_end, part_begin) in enumerate(units):
        for row in range(row_begin, row_end):
            first = min(run[3] for run in runs[run_begin:run_end] if run[0] <= row < run[1])
            firsts[row].append((first, u, part_begin + row - row_begin))
    taken = sorted(
        part_begin + i for begin, end, _, _, part_begin in units if part_begin >= 0 for i in range(end - begin)
    )
    assert taken == list(range(plan.num_slots))
    assert (join_ptr[0], join_ptr[-1], len(join_ptr)) == (0, len(join_slots), plan.num_rows + 1)
    for row, parts in enumerate(firsts):
        wanted = [slot for _, _, slot in sorted(parts)] if len(parts) > 1 else []
        assert parts and join_slots[join_ptr[row] : join_ptr[row + 1]] == wanted
    for row_begin, row_end, _, _, part_begin in units:
        joined = any(len(firsts[row]) > 1 for row in range(row_begin, row_end))
        assert joined == (part_begin >= 0)
