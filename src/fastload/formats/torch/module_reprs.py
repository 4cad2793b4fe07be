"""What the classes of torch.nn print between their parentheses: `extra_repr` of torch 2.13, as data.

A class that is not here, which is every class of another program, shows its hyperparameters as they are.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from fastload.errors import printable

__all__ = ["arguments", "shown"]

# Where the classes of the table live; torch.nn.quantized, say, has others of the same names.
HOMES = ("torch.nn.modules.", "torch.nn.parallel.")

MAX_SHOWN_CHARACTERS = 100  # of one value that no rule of torch's speaks of: a list of class names may be long
MAX_SHOWN_ITEMS = 50
MAX_SHOWN_DEPTH = 5
MAX_SHOWN_BITS = 4096  # CPython will not write an int of more than 4,300 digits


class Bare(NamedTuple):
    """A value alone."""

    key: str


class Quoted(NamedTuple):
    """`key='value'`."""

    key: str


class Unless(NamedTuple):
    """`key=value`, but nothing where the value, or each item of it, is the default, or where there is none."""

    key: str
    default: Any


Rule = tuple["str | Bare | Quoted | Unless", ...]  # a text is `key=value`

_INPLACE = Unless("inplace", False)
_CONV: Rule = (
    Bare("in_channels"),
    Bare("out_channels"),
    "kernel_size",
    "stride",
    Unless("padding", 0),
    Unless("dilation", 1),
    Unless("output_padding", 0),
    Unless("groups", 1),
    Unless("bias", True),
    Unless("padding_mode", "zeros"),
)
_BATCH_NORM: Rule = (Bare("num_features"), "eps", "momentum", "affine", "bias", "track_running_stats")
_RNN: Rule = (
    Bare("input_size"),
    Bare("hidden_size"),
    Unless("proj_size", 0),
    Unless("num_layers", 1),
    Unless("bias", True),
    Unless("batch_first", False),
    Unless("dropout", 0),
    Unless("bidirectional", False),
)
_RNN_CELL: Rule = (Bare("input_size"), Bare("hidden_size"), Unless("bias", True), Unless("nonlinearity", "tanh"))
_MAX_POOL: Rule = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_SLIDING_POOL: Rule = ("kernel_size", "stride", "padding")
_POWER_POOL: Rule = ("norm_type", "kernel_size", "stride", "ceil_mode")
_RESPONSE_NORM: Rule = (Bare("size"), "alpha", "beta", "k")
_UPSAMPLE: Rule = (Unless("scale_factor", None), Unless("size", None), Quoted("mode"))
_NOTHING: Rule = ()


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_each("Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d", _CONV),
    **_each("LazyConv1d LazyConv2d LazyConv3d", _CONV),
    **_each("LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d", _CONV),
    **_each("Linear NonDynamicallyQuantizableLinear LazyLinear", ("in_features", "out_features", "bias")),
    "Bilinear": ("in1_features", "in2_features", "out_features", "bias"),
    **_each("BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm", _BATCH_NORM),
    **_each("LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d", _BATCH_NORM),
    **_each("InstanceNorm1d InstanceNorm2d InstanceNorm3d", _BATCH_NORM),
    **_each("LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d", _BATCH_NORM),
    "LayerNorm": (Bare("normalized_shape"), "eps", "elementwise_affine", "bias"),
    "RMSNorm": (Bare("normalized_shape"), "eps", "elementwise_affine"),
    "GroupNorm": (Bare("num_groups"), Bare("num_channels"), "eps", "affine", "bias"),
    **_each("LocalResponseNorm CrossMapLRN2d", _RESPONSE_NORM),
    **_each("RNN LSTM GRU", _RNN),
    **_each("RNNCell LSTMCell GRUCell", _RNN_CELL),
    "Embedding": (
        Bare("num_embeddings"),
        Bare("embedding_dim"),
        Unless("padding_idx", None),
        Unless("max_norm", None),
        Unless("norm_type", 2),
        Unless("scale_grad_by_freq", False),
        Unless("sparse", False),
    ),
    "EmbeddingBag": (
        Bare("num_embeddings"),
        Bare("embedding_dim"),
        Unless("max_norm", None),
        Unless("norm_type", 2),
        Unless("scale_grad_by_freq", False),
        Quoted("mode"),
        Unless("padding_idx", None),
    ),
    **_each("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout", ("p", "inplace")),
    **_each("MaxPool1d MaxPool2d MaxPool3d", _MAX_POOL),
    **_each("MaxUnpool1d MaxUnpool2d MaxUnpool3d AvgPool1d AvgPool2d AvgPool3d", _SLIDING_POOL),
    **_each("LPPool1d LPPool2d LPPool3d", _POWER_POOL),
    **_each("AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d", ("output_size",)),
    **_each("AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d", ("output_size",)),
    **_each("ReLU ReLU6 SiLU Mish SELU", (_INPLACE,)),
    **_each("ELU CELU", ("alpha", _INPLACE)),
    "LeakyReLU": ("negative_slope", _INPLACE),
    "Threshold": ("threshold", "value", _INPLACE),
    "RReLU": ("lower", "upper", _INPLACE),
    "Hardtanh": ("min_val", "max_val", _INPLACE),
    "GELU": (Quoted("approximate"),),
    **_each("GLU Softmin Softmax LogSoftmax", ("dim",)),
    **_each("Hardshrink Softshrink", (Bare("lambd"),)),
    "Softplus": ("beta", "threshold"),
    "PReLU": ("num_parameters",),
    **_each("Sigmoid LogSigmoid Hardsigmoid Tanh Tanhshrink Hardswish Softsign Softmax2d", _NOTHING),
    "Flatten": ("start_dim", "end_dim"),
    "Unflatten": ("dim", "unflattened_size"),
    "Fold": ("output_size", "kernel_size", "dilation", "padding", "stride"),
    "Unfold": ("kernel_size", "dilation", "padding", "stride"),
    **_each("ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d", (Bare("padding"),)),
    **_each("ReplicationPad3d ZeroPad1d ZeroPad2d ZeroPad3d CircularPad1d CircularPad2d", (Bare("padding"),)),
    "CircularPad3d": (Bare("padding"),),
    **_each("ConstantPad1d ConstantPad2d ConstantPad3d", ("padding", "value")),
    "PixelShuffle": ("upscale_factor",),
    "PixelUnshuffle": ("downscale_factor",),
    "ChannelShuffle": ("groups",),
    **_each("Upsample UpsamplingNearest2d UpsamplingBilinear2d", _UPSAMPLE),
    **_each("Sequential ModuleList ModuleDict Identity Module DataParallel DistributedDataParallel", _NOTHING),
    **_each("MultiheadAttention Transformer TransformerEncoder TransformerDecoder", _NOTHING),
    **_each("TransformerEncoderLayer TransformerDecoderLayer CosineSimilarity PairwiseDistance", _NOTHING),
    **_each("L1Loss MSELoss SmoothL1Loss HuberLoss NLLLoss CrossEntropyLoss BCELoss BCEWithLogitsLoss", _NOTHING),
    **_each("KLDivLoss CTCLoss PoissonNLLLoss GaussianNLLLoss MarginRankingLoss HingeEmbeddingLoss", _NOTHING),
    **_each("CosineEmbeddingLoss MultiMarginLoss MultiLabelMarginLoss SoftMarginLoss", _NOTHING),
    **_each("MultiLabelSoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss", _NOTHING),
}  # fmt: skip


def arguments(type: str, hyperparameters: Mapping[str, Any], parameters: Container[str]) -> str:
    """What stands between the parentheses of a module.

    Parameters
    ----------
    type : str
        The dotted name of its class.
    parameters : container of str
        The names of those that it has; `bias=True` is told from them where no hyperparameter says so.
    """
    rule = RULES.get(type.rpartition(".")[2]) if type.startswith(HOMES) else None
    values = hyperparameters if "bias" in hyperparameters else {**hyperparameters, "bias": "bias" in parameters}
    if rule is None or not all(isinstance(piece, Unless) or _key(piece) in values for piece in rule):
        pairs = [(key, value) for key, value in hyperparameters.items() if key != "training"]
        return ", ".join(f"{printable(key)}={shown(value)}" for key, value in pairs)
    return ", ".join(filter(None, (_text(piece, values) for piece in rule)))


def _key(piece: str | Bare | Quoted | Unless) -> str:
    return piece if isinstance(piece, str) else piece.key


def _text(piece: str | Bare | Quoted | Unless, values: Mapping[str, Any]) -> str:
    """One piece of a rule; "" where it has nothing to say."""
    key = _key(piece)
    value = values.get(key, piece.default if isinstance(piece, Unless) else None)
    if isinstance(piece, Unless) and _is_default(value, piece.default):
        return ""
    text = printable(value) if isinstance(value, str) and not isinstance(piece, Quoted) else shown(value)
    return text if isinstance(piece, Bare) else f"{key}={text}"


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, tuple) and value:
        return all(type(item) is type(default) and item == default for item in value)
    if isinstance(value, (bool, int, float, str)) and default is not None:
        return bool(value == default)
    return value is default


def shown(value: Any) -> str:
    """The repr of a plain value, cut where it is long or deep."""
    text = _repr(value, MAX_SHOWN_DEPTH)
    if len(text) > MAX_SHOWN_CHARACTERS:
        text = f"{text[:MAX_SHOWN_CHARACTERS]}…"
    return printable(text)


def _repr(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return repr(value[: MAX_SHOWN_CHARACTERS + 1])
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:
        return "…"
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        return repr(value)
    if not depth:
        return "…"
    items = []
    for item, _ in zip(value, range(MAX_SHOWN_ITEMS), strict=False):
        text = _repr(item, depth - 1)
        items.append(f"{text}: {_repr(value[item], depth - 1)}" if isinstance(value, dict) else text)
        if sum(map(len, items)) > MAX_SHOWN_CHARACTERS:
            break
    if len(items) < len(value):
        items.append("…")
    if isinstance(value, tuple):
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, (set, frozenset)) and not value:
        return "set()"
    return f"[{', '.join(items)}]" if isinstance(value, list) else f"{{{', '.join(items)}}}"
