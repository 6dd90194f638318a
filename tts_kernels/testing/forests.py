"""Random search trees and the pages that their tokens are stored in."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of a random case: nodes of up to node_tokens tokens, of which up to row_tokens have rows; full: just so.

    Nodes with children are rounded up to full pages.
    """

    nodes: int = 16
    node_tokens: int = 40
    row_tokens: int = 2
    full: bool = False
    q_heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    page_size: int = 16
    tile_rows: int = 8
    layers: int = 3


@dataclass(frozen=True)
class Node:
    """Tokens at path positions base .. base+length-1 and the rows [row_begin, row_end) at or below the node."""

    path: tuple[int, ...]
    base: int
    length: int
    leaf: bool
    row_begin: int
    row_end: int


def random_forest(shape: Shape, rng: Random) -> tuple[list[Node], list[tuple[int, int]]]:
    """Nodes in depth-first order and rows (node, path position) in the order of their nodes."""
    parents = [-1]
    for node in range(1, shape.nodes):
        parents.append(-1 if rng.random() < 0.1 else rng.choice((node - 1, rng.randrange(node))))
    children: list[list[int]] = [[i for i, p in enumerate(parents) if p == node] for node in range(shape.nodes)]
    nodes: list[Node] = []
    rows: list[tuple[int, int]] = []

    def visit(node: int, path: tuple[int, ...], base: int) -> None:
        number, row_begin = len(nodes), len(rows)
        length = shape.node_tokens if shape.full else rng.randint(1, shape.node_tokens)
        if children[node]:
            # Only full pages are shared.
            length = -(-length // shape.page_size) * shape.page_size
        nodes.append(Node((*path, number), base, length, not children[node], row_begin, 0))
        if not children[node] or rng.random() < 0.2:
            count = shape.row_tokens if shape.full else min(length, rng.randint(1, shape.row_tokens))
            rows.extend((number, base + length - count + i) for i in range(count))
        for child in children[node]:
            visit(child, (*path, number), base + length)
        nodes[number] = Node((*path, number), base, length, not children[node], row_begin, len(rows))

    for node, parent in enumerate(parents):
        if parent == -1:
            visit(node, (), 0)
    if len(rows) > 2:
        blind = rng.randrange(len(rows))
        rows[blind] = (rows[blind][0], -1)
    return nodes, rows


def random_pages(nodes: list[Node], page_size: int, rng: Random) -> tuple[list[list[int]], int]:
    """Page ids per node, shuffled over a pool in which a third of the pages belongs to nobody."""
    counts = [-(-n.length // page_size) for n in nodes]
    num_pages = sum(counts) * 3 // 2 + 1
    ids = rng.sample(range(num_pages), sum(counts))
    return [[ids.pop() for _ in range(count)] for count in counts], num_pages


def fill_pages(tokens: list[Tensor], node_pages: list[list[int]], num_pages: int, page_size: int) -> Tensor:
    """[pages, Hkv, page_size, D]: each node's tokens in its pages, NaN everywhere else."""
    pages = tokens[0].new_full((num_pages, tokens[0].shape[1], page_size, tokens[0].shape[2]), torch.nan)
    for node_tokens, ids in zip(tokens, node_pages, strict=True):
        for page, part in zip(ids, node_tokens.split(page_size), strict=True):
            pages[page, :, : len(part)] = part.transpose(0, 1)
    return pages


def store_narrow(
    pages: Tensor, nodes: list[Node], node_pages: list[list[int]], dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Pages in 8 bits, a scale per page and head, and each node's tokens as they read back, in float64."""
    limit = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    # Scales of unused pages are NaN, unused tokens NaN or, where there is none, large.
    scales = pages.float().abs().nan_to_num(-1).amax((2, 3)) / limit
    scales = torch.where(scales < 0, torch.nan, scales)
    values = pages.float() / scales[..., None, None]
    narrow = (values.nan_to_num(limit).round() if dtype == torch.int8 else values.clamp(-limit, limit)).to(dtype)
    back = narrow.double() * scales[..., None, None]
    tokens = [back[ids].transpose(1, 2).flatten(0, 1)[: n.length] for n, ids in zip(nodes, node_pages, strict=True)]
    return narrow, scales, tokens
