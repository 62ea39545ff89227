"""What an invertible adapter is made of, and what it costs."""

from __future__ import annotations

from typing import NamedTuple

from compose.specs import ActingSpec, BackboneSpec

KINDS = ("nice", "glow")
"""The coupling blocks: additive (Dinh et al., 2015) and affine (Kingma and Dhariwal, 2018)."""


class Net(NamedTuple):
    """Widths of one of a coupling block's two networks: in, hidden, out."""

    input: int
    hidden: int
    output: int


def nets(kind: str, width: int, factor: float) -> tuple[Net, Net]:
    """The networks of a coupling block over states of a width, in the order in which they are used.

    Args:
        kind: one of `KINDS`.
        width: of the states; the first half has the smaller part of an odd width.
        factor: the width that a network reads over its hidden width.
    """
    first = width // 2
    second = width - first
    scale = 1 if kind == "nice" else 2  # an affine network gives a scale and a shift
    return (
        Net(second, max(1, int(second // factor)), scale * first),
        Net(first, max(1, int(first // factor)), scale * second),
    )


def acting(name: str, kind: str, factor: float, non_linearity: str, learned: int, backbone: BackboneSpec) -> ActingSpec:
    """An invertible part at the embeddings of a backbone.

    Args:
        name: the adapter's.
        kind: one of `KINDS`.
        factor: see `nets`.
        non_linearity: of the networks.
        learned: how many weights each of these has of its own.
        backbone: the backbone.
    """
    both = nets(kind, backbone.hidden_size, factor)
    multiplies = sum(net.input * net.hidden + net.hidden * net.output for net in both)
    layer, site = backbone.embed_key
    return ActingSpec(
        layer=layer,
        site=site,
        rank=both[0].hidden,
        parameters=multiplies + sum(net.hidden + net.output + learned for net in both),
        multiplies=multiplies,
        increment_multiplies=0,
        shape=("invertible", kind, both, non_linearity, name if learned else ""),
    )
