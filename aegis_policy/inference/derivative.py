"""A function that takes a derivative, traced to plain operators: torch's exporter does not follow autograd.

The derivative is written out first, by tracing the function over tensors without data whose free sizes are symbols;
what comes of that is exported like any other module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

TRACING: Any = {"strict": False, "prefer_deferred_runtime_asserts_over_guards": True}
"""For torch.export.export. Where keys and values are shared among heads, it compares sizes where it need not, and would
refuse to leave them free: those comparisons are left to when the graph runs, of which ONNX knows nothing."""

Free = Mapping[int, Dim]
"""Which dimensions of a tensor may have any size; the same Dim, the same size."""


def export_derivative(function: Callable[..., Any], example: Sequence[Tensor], free: Sequence[Free]) -> ExportedProgram:
    """As torch.export.export of `function`, which takes tensors like `example`."""
    shapes = ShapeEnv(duck_shape=False)  # sizes that are equal by chance stay two
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    symbols = [_without_data(fake, number, *each) for number, each in enumerate(zip(example, free, strict=True))]
    sizes: dict[Dim, Any] = {}
    for tensor, dims in zip(symbols, free, strict=True):
        for place, dim in dims.items():
            torch._check(sizes.setdefault(dim, tensor.shape[place]) == tensor.shape[place])
    trace = make_fx(function, decomposition_table=dict(core_aten_decompositions().items()), _allow_non_fake_inputs=True)
    with fake:
        written = trace(*symbols)
    return torch.export.export(written, tuple(example), dynamic_shapes=tuple(free), **TRACING)


def _without_data(fake: FakeTensorMode, number: int, tensor: Tensor, free: Free) -> Tensor:
    kinds = [DimDynamic.DYNAMIC if place in free else DimDynamic.STATIC for place in range(tensor.dim())]
    context: StatelessSymbolicContext = StatelessSymbolicContext(dynamic_sizes=kinds)
    return fake.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"input_{number}"))
