"""What became of every layer of an artefact: its manifest, and times if there are any, as rows."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_insta.errors import InputError
from tvm_insta.report import names
from tvm_insta.report.advice import advice_for
from tvm_insta.report.layer_times import LayerTimes, Peaks
from tvm_insta.report.missed import missed
from tvm_insta.report.rows import Advice, Explanation, KernelRow, LayerRow, Timing, Totals
from tvm_insta.runtime.manifest import Kernel, Layer, Manifest, TensorInfo
from tvm_insta.runtime.manifest_checks import BATCH, image_bytes

_AMX = frozenset({"insta.bitserial_conv2d_signs", "insta.conv2d_tiles"})
_NARROW = "insta.conv2d_narrow"
_PACKED, _BYTES = "uint32", "int8"


def explain(manifest: Manifest, times: LayerTimes | None = None) -> Explanation:
    """Put the rows together.

    Args:
        manifest: of the artefact.
        times: of its kernels; None if they were not measured.

    Raises:
        InputError: the times are another artefact's.
    """
    symbols = tuple(kernel.symbol for kernel in manifest.kernels)
    if times is not None and tuple(time.symbol for time in times.kernels) != symbols:
        raise InputError(
            f"got the times of {len(times.kernels)} kernels, but they are not the {len(symbols)} "
            f"of {manifest.name}: measure this artefact with bench --layers"
        )
    kernels = _kernel_rows(manifest, times)
    layers = tuple(_layer_row(manifest, layer, kernels, times) for layer in manifest.layers)
    binary = [layer for layer in layers if layer.kind == "binary"]
    used = {arg for kernel in manifest.kernels for arg in kernel.args if _is_constant(arg)}
    return Explanation(
        name=str(manifest.source.get("model") or manifest.source.get("class") or manifest.name),
        form=manifest.form,
        target=manifest.target_text,
        layers=layers,
        kernels=kernels,
        totals=Totals(
            layers=len(layers),
            binary_layers=len(binary),
            macs=sum(layer.macs for layer in layers),
            binary_macs=sum(layer.macs for layer in binary),
            kernels=len(kernels),
            weight_bytes=sum(image_bytes(_tensor(manifest, [], arg)) for arg in used),
            activation_bytes=sum(row.activation_bytes for row in kernels),
            working_set=manifest.working_set,
            kernel_seconds=None if times is None else times.kernel_seconds,
            seconds=None if times is None else times.seconds,
        ),
        missed=missed(manifest),
        times=times,
    )


def _kernel_rows(manifest: Manifest, times: LayerTimes | None) -> tuple[KernelRow, ...]:
    computed: dict[int, list[Layer]] = {}
    for layer in manifest.layers:
        for call in layer.calls:
            computed.setdefault(call, []).append(layer)
    values = [info for kernel in manifest.kernels for info in kernel.outputs]
    makers = [kernel.index for kernel in manifest.kernels for _ in kernel.outputs]
    rows = []
    for kernel in manifest.kernels:
        layers = computed.get(kernel.index, [])
        macs = [layer.macs // len(layer.calls) for layer in layers]
        # A binary layer of several planes has a call for each; several bits are in one call.
        work = sum(
            count * max(layer.bits or 1, 1) * (layer.planes if len(layer.calls) == 1 else 1)
            if layer.kind == "binary"
            else count
            for count, layer in zip(macs, layers, strict=True)
        )
        read = [_tensor(manifest, values, arg) for arg in kernel.args if not _is_constant(arg)]
        constants = [_tensor(manifest, values, arg) for arg in kernel.args if _is_constant(arg)]
        schedule = kernel.schedule
        rows.append(
            KernelRow(
                index=kernel.index,
                symbol=kernel.symbol,
                operators=kernel.operators,
                layers=tuple(layer.name for layer in layers),
                family="amx" if _AMX & set(kernel.operators) else manifest.family,
                rule=schedule.rule if schedule else "-",
                state=schedule.state if schedule else "-",
                fallback=schedule.fallback if schedule else None,
                reads=_reads(kernel, makers),
                shape=tuple(dim for dim in kernel.outputs[0].shape if dim != BATCH),
                macs=sum(macs),
                operations=work,
                weight_bytes=sum(map(image_bytes, constants)),
                activation_bytes=sum(map(image_bytes, (*read, *kernel.outputs))),
                timing=_timing(kernel, sum(macs), work, times),
            )
        )
    return tuple(rows)


def _timing(kernel: Kernel, macs: int, work: int, times: LayerTimes | None) -> Timing | None:
    if times is None:
        return None
    seconds = times.kernels[kernel.index].seconds
    peak = None if times.peaks is None else peak_of(kernel.operators, times.peaks)
    rate = 1e-9 * times.batch / seconds if seconds else 0.0
    return Timing(
        seconds=seconds,
        share=seconds / times.kernel_sum if times.kernel_sum else 0.0,
        gmacs=rate * macs if macs else None,
        of_peak=rate * work / (peak * times.threads) if macs and peak else None,
    )


def peak_of(operators: Sequence[str], peaks: Peaks) -> float | None:
    """The peak of one core for a kernel of these operators; None where none was measured.

    There is no probe of AMX tiles, nor of bfloat16 and int8 products.
    """
    if _AMX & set(operators) or _NARROW in operators:
        return None
    return peaks.binary_gmacs if names.any_binary(operators) else peaks.float_gmacs


def _layer_row(
    manifest: Manifest, layer: Layer, kernels: Sequence[KernelRow], times: LayerTimes | None
) -> LayerRow:
    own = [kernels[call] for call in layer.calls]
    first = own[0] if own else None
    calls = manifest.kernels_of(layer)
    return LayerRow(
        name=layer.name,
        op=layer.op,
        kind=layer.kind,
        line=layer.line,
        input=_input(manifest, layer),
        output=_form(calls[-1].outputs) if calls else "-",
        activation_bits=layer.bits or 0,
        weight_bits=layer.weight_bits,
        planes=layer.planes,
        reason=layer.reason,
        advice=tuple(Advice(code, advice_for(code)) for code in layer.reasons),
        notes=layer.notes,
        shape=layer.shape,
        weight_shape=layer.weight,
        macs=layer.macs,
        weight_bytes=sum(row.weight_bytes for row in own),
        activation_bytes=sum(row.activation_bytes for row in own),
        kernels=layer.calls,
        family=first.family if first else "-",
        rule=first.rule if first else "-",
        state=first.state if first else "-",
        fallback=next((row.fallback for row in own if row.fallback), None),
        timing=_sum([row.timing for row in own if row.timing], layer, times),
    )


def _sum(parts: Sequence[Timing], layer: Layer, times: LayerTimes | None) -> Timing | None:
    if not parts or times is None:
        return None
    seconds = sum(part.seconds for part in parts)
    peaks = [part.of_peak for part in parts]
    share = None
    if all(peak is not None for peak in peaks) and seconds:
        known = ((part.of_peak or 0.0) * part.seconds for part in parts)
        share = sum(known) / seconds
    rate = 1e-9 * times.batch * layer.macs / seconds if seconds else None
    return Timing(seconds, sum(part.share for part in parts), rate, share)


def _input(manifest: Manifest, layer: Layer) -> str:
    """The form of the activations that the layer's first kernel reads."""
    if not layer.calls:
        return "-"
    values = [info for kernel in manifest.kernels for info in kernel.outputs]
    args = [arg for arg in manifest.kernels_of(layer)[0].args if not _is_constant(arg)]
    read = [_tensor(manifest, values, arg) for arg in args]
    # What the epilogue adds may stand before the packed words or bytes.
    return _form(read if layer.kind == "binary" else read[:1])


def _form(tensors: Sequence[TensorInfo]) -> str:
    kinds = dict.fromkeys("packed" if info.dtype == _PACKED else info.dtype for info in tensors)
    return next((kind for kind in ("packed", _BYTES) if kind in kinds), next(iter(kinds), "-"))


def _is_constant(arg: str) -> bool:
    return arg.startswith("constant:")


def _tensor(manifest: Manifest, values: Sequence[TensorInfo], arg: str) -> TensorInfo:
    kind, _, number = arg.partition(":")
    table = {"input": manifest.inputs, "constant": manifest.constants, "value": values}[kind]
    return table[int(number)]


def _reads(kernel: Kernel, makers: Sequence[int]) -> tuple[int, ...]:
    found = []
    for arg in kernel.args:
        kind, _, number = arg.partition(":")
        if kind != "constant":
            found.append(-1 if kind == "input" else makers[int(number)])
    return tuple(dict.fromkeys(found))
