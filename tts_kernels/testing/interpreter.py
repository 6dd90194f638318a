"""Triton's interpreter, made to compute what a GPU computes.

As shipped it works on the raw bits of bfloat16 and float8 as if they were integers, truncates where a GPU rounds to
nearest even, skips ``tl.device_assert``, takes tiles that no tensor core takes and fills the masked lanes of a load
without ``other=`` with zeros. It also patches ``triton.language`` anew at every call of a jitted helper.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle

# Types that numpy lacks: the interpreter keeps their bits in unsigned integers.
_NARROW = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
_BITS = {tl.bfloat16: np.uint16, tl.float8e4nv: np.uint8, tl.float8e5: np.uint8}
# The smallest K of a tile product by the width of its operands, as on NVIDIA GPUs.
_MIN_DOT_K = {8: 32, 16: 16, 32: 8, 64: 4}


def _to_float32(bits: np.ndarray, dtype: tl.dtype) -> np.ndarray:
    flat = torch.from_numpy(np.array(bits, copy=True, order="C").reshape(-1))
    return flat.view(_NARROW[dtype]).float().numpy().reshape(bits.shape)


def _to_bits(values: np.ndarray, dtype: tl.dtype) -> np.ndarray:
    """Round to nearest even; float8 saturates, as the conversion instructions of the GPUs do."""
    target = _NARROW[dtype]
    flat = torch.from_numpy(np.array(values, dtype=np.float32, copy=True, order="C").reshape(-1))
    if dtype != tl.bfloat16:
        limit = torch.finfo(target).max
        flat = torch.where(flat.isnan(), flat, flat.clamp(-limit, limit))
    carrier = torch.int16 if dtype == tl.bfloat16 else torch.uint8
    return flat.to(target).view(carrier).numpy().view(_BITS[dtype]).reshape(np.shape(values))


def _narrow(handle: TensorHandle) -> bool:
    return handle.dtype.scalar in _NARROW


def _widen(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(_to_float32(handle.data, handle.dtype.scalar), tl.float32) if _narrow(handle) else handle


def _round(handle: TensorHandle, dtype: tl.dtype) -> TensorHandle:
    """The result of an operation on values of ``dtype``, widened before; results of comparisons stay as they are."""
    if dtype not in _NARROW or handle.data.dtype.kind != "f":
        return handle
    return TensorHandle(_to_bits(handle.data, dtype), dtype)


def _tf32(values: np.ndarray) -> np.ndarray:
    """Ten bits of mantissa, ties away from zero, as the conversion before a TF32 product."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


class _Builder(stock.InterpreterBuilder):
    """The operations whose results differ from a GPU's."""

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Any) -> TensorHandle:
        if not (_narrow(lhs) or _narrow(rhs)):
            return super().binary_op(lhs, rhs, op)
        return _round(super().binary_op(_widen(lhs), _widen(rhs), op), lhs.dtype.scalar)

    def unary_op(self, arg: TensorHandle, op: Any) -> TensorHandle:
        return _round(super().unary_op(_widen(arg), op), arg.dtype.scalar)

    def ternary_op(self, lhs: TensorHandle, rhs: TensorHandle, other: TensorHandle, op: Any) -> TensorHandle:
        if op is np.where or not _narrow(other):
            return super().ternary_op(lhs, rhs, other, op)
        return _round(super().ternary_op(_widen(lhs), _widen(rhs), _widen(other), op), other.dtype.scalar)

    def create_fma(self, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        """One rounding: the product of two float32 is exact in float64."""
        wide = [_widen(h).data.astype(np.float64) for h in (x, y, z)]
        result = wide[0] * wide[1] + wide[2]
        return self.cast_impl(TensorHandle(result, tl.float64), z.dtype.scalar)

    def create_rsqrt(self, arg: TensorHandle) -> TensorHandle:
        return _round(super().create_rsqrt(_widen(arg)), arg.dtype.scalar)

    def create_erf(self, arg: TensorHandle) -> TensorHandle:
        return _round(super().create_erf(_widen(arg)), arg.dtype.scalar)

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        src_type, dst = src.dtype.scalar, dst_type.scalar
        if src_type == dst:
            return src
        if dst in _NARROW:
            return TensorHandle(_to_bits(_widen(src).data, dst), dst)
        return super().cast_impl(_widen(src), dst_type) if src_type in _NARROW else super().cast_impl(src, dst_type)

    def create_fp_to_fp(self, src: TensorHandle, dst_type: Any, rounding_mode: Any) -> TensorHandle:
        # Truncation is the one rounding that the stock conversion gets right.
        if rounding_mode == stock._ir.ROUNDING_MODE.RTZ:
            return super().create_fp_to_fp(src, dst_type, rounding_mode)
        return self.cast_impl(src, dst_type)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, precision: Any, exact: Any) -> TensorHandle:
        left, right = _widen(a), _widen(b)
        if left.data.dtype == np.float32 and not _narrow(a) and precision == stock._ir.INPUT_PRECISION.TF32:
            left, right = (TensorHandle(_tf32(h.data), tl.float32) for h in (left, right))
        return super().create_dot(left, right, d, precision, exact)

    def get_bf16(self, value: float) -> TensorHandle:
        return TensorHandle(_to_bits(np.array([value]), tl.bfloat16), tl.bfloat16)

    def create_masked_load(
        self, ptrs: TensorHandle, mask: TensorHandle, other: TensorHandle | None, *rest: Any
    ) -> TensorHandle:
        if other is None and not mask.data.all():
            other = _poison(ptrs)
        return super().create_masked_load(ptrs, mask, other, *rest)

    def create_atomic_rmw(
        self, op: Any, ptr: TensorHandle, val: TensorHandle, mask: TensorHandle, sem: Any, scope: Any
    ) -> TensorHandle:
        if not _narrow(val):
            return super().create_atomic_rmw(op, ptr, val, mask, sem, scope)
        if op not in (stock._ir.ATOMIC_OP.FADD, stock._ir.ATOMIC_OP.ADD):
            raise ValueError(f"no GPU has atomic {op} on {val.dtype}")
        dtype = val.dtype.scalar
        old = np.zeros(val.data.shape, _BITS[dtype])
        live = np.broadcast_to(mask.data, val.data.shape)
        for index in np.ndindex(val.data.shape):
            if live[index]:
                address, one = np.array([ptr.data[index]], np.uint64), np.ones(1, bool)
                before = stock._interpreter.load(address, one, np.zeros(1, old.dtype), old.dtype)
                total = _to_float32(before, dtype) + _to_float32(val.data[index].reshape(1), dtype)
                stock._interpreter.store(address, _to_bits(total, dtype), one)
                old[index] = before[0]
        return TensorHandle(old, dtype)


def _poison(ptrs: TensorHandle) -> TensorHandle:
    """What lanes without ``other=`` hold on a GPU is anything: NaN here, or the largest integer."""
    dtype = ptrs.get_element_ty()
    np_dtype = stock._get_np_dtype(dtype)
    if np_dtype == np.bool_:
        return TensorHandle(np.ones(ptrs.data.shape, bool), dtype)
    if dtype in _NARROW:
        return TensorHandle(np.full(ptrs.data.shape, _to_bits(np.array(np.nan), dtype)), dtype)
    value = np.nan if np_dtype.kind == "f" else np.iinfo(np_dtype).max
    return TensorHandle(np.full(ptrs.data.shape, value, np_dtype), dtype)


class _Semantic(TritonSemantic):
    def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Any) -> None:
        """Signed sums and products that leave their type are mistakes, mostly of addresses; unsigned ones wrap."""
        dtype = lhs.type.scalar
        if not dtype.is_int_signed() or dtype.int_bitwidth >= 64:
            return
        wide = getattr(np, {"add": "add", "sub": "subtract", "mul": "multiply"}[binary_op.__name__])
        exact = wide(lhs.handle.data, rhs.handle.data, dtype=np.int64)
        limit = 1 << (dtype.int_bitwidth - 1)
        if exact.size and not (-limit <= exact.min() and exact.max() < limit):
            raise OverflowError(f"{dtype} {binary_op.__name__} gives {exact.min()} .. {exact.max()}")


def _min_dot_size(lhs: Any, rhs: Any) -> tuple[int, int, int]:
    return 1, 1, _MIN_DOT_K[lhs.scalar.primitive_bitwidth]


def _call_helper(function: stock.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    """A jitted function called from a kernel: the language is patched already, errors pass as they are."""
    return function.rewrite()(*args, **kwargs)


def _launch(execute: Any, patch: Any, executor: stock.GridExecutor, *args: Any, **kwargs: Any) -> Any:
    scope = patch(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    try:
        # A GPU raises no signal for inf - inf in a lane that is masked out later.
        with np.errstate(all="ignore"):
            return execute(executor, *args, **kwargs)
    finally:
        scope.restore()


@cache
def install() -> None:
    """Repair the interpreter for the rest of the process. Call it with TRITON_INTERPRET=1, before any launch.

    bfloat16 and float8 compute in float32 and round to nearest even, float8 saturating; tile products round float32
    operands to TF32 unless told ``input_precision="ieee"`` and refuse a K that tensor cores do not take;
    ``tl.device_assert`` and signed overflow below 64 bits raise; a masked load without ``other=`` gives NaN or the
    largest integer. Exceptions come out of a launch as they were raised.
    """
    stock.interpreter_builder.__class__ = _Builder
    stock.interpreter_semantic.__class__ = _Semantic
    stock.interpreter_builder.options = dataclasses.replace(stock.interpreter_builder.options, debug=True)
    stock.interpreter_builder.codegen_fns["min_dot_size"] = _min_dot_size
    triton.knobs.compilation.front_end_debugging = True
    _make_fast()


def _elsewhere(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_elsewhere(item) for item in value)
    tensor = getattr(value, "base", value)
    return hasattr(tensor, "data_ptr") and tensor.device.type != "cpu"


def _make_fast() -> None:
    """Patch ``triton.language`` once per launch, look a numpy type up once per Triton type, copy no CPU tensor."""
    execute, patch, np_dtype = stock.GridExecutor.__call__, stock._patch_lang, stock._get_np_dtype
    restore = stock.GridExecutor._restore_args_dev

    def give_back(executor: Any, args: Any, host_args: Any, kwargs: Any, host_kwargs: Any) -> None:
        # Tensors on the CPU are run on in place; copying their storages onto themselves would touch whole pools.
        if _elsewhere((*args, *kwargs.values())):
            restore(executor, args, host_args, kwargs, host_kwargs)

    stock.GridExecutor._restore_args_dev = give_back
    stock.GridExecutor.__call__ = lambda *args, **kwargs: _launch(execute, patch, *args, **kwargs)
    stock._patch_lang = lambda function: stock._LangPatchScope()
    stock.InterpretedFunction.__call__ = _call_helper
    known: dict[Any, np.dtype] = {}

    def cached(dtype: Any) -> np.dtype:
        if isinstance(dtype, tl.block_type):
            dtype = dtype.element_ty
        if isinstance(dtype, tl.pointer_type):
            return known.setdefault("pointer", np.dtype(np.uint64))
        found = known.get(dtype)
        return found if found is not None else known.setdefault(dtype, np_dtype(dtype))

    stock._get_np_dtype = cached
    stock._patch_attr = _patch_attr


def _patch_attr(package: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    semantic = stock.interpreter_semantic

    def with_semantic(*args: Any, **kwargs: Any) -> Any:
        kwargs["_semantic"] = semantic
        return member(*args, **kwargs)

    scope.set_attr(package, name, with_semantic)
