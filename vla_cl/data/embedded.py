"""What our exports keep of a file's description, where the readers of other layouts do not look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import h5py

from vla_cl.data.schema import SOURCE, Header
from vla_cl.envs import ObservationOptions

ATTRIBUTE = "vla_cl"
"""Attribute of `data`, and key of LeRobot's extra file: JSON of the original `Header`."""


def header_fields(header: Header) -> dict[str, Any]:
    """The description as JSON values; `header_of` is the way back."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(header), allow_nan=False))
    return fields


def header_of(fields: Mapping[str, Any], observation: Mapping[str, Any]) -> Header:
    """The description that `header_fields` gave, of what is stored now; cameras in the order that they had."""
    order = list(fields["observation"]["cameras"])
    cameras = sorted(observation["cameras"], key=lambda camera: order.index(camera) if camera in order else len(order))
    return replace(Header(**fields), observation={**fields["observation"], **observation, "cameras": cameras})


def embed(data: h5py.Group, header: Header) -> None:
    """Keep the description in an export."""
    data.attrs[ATTRIBUTE] = json.dumps(header_fields(header), allow_nan=False)


def embedded_header(
    data: h5py.Group, header: Header, observation: Mapping[str, Any], file: str, layout: str, note: str
) -> Header:
    """The description that one of our exports holds; of others' files the one given, with where it comes from."""
    if ATTRIBUTE in data.attrs:
        return header_of(json.loads(str(data.attrs[ATTRIBUTE])), observation)
    return from_elsewhere(header, observation, file, layout, note)


def from_elsewhere(header: Header, observation: Mapping[str, Any], file: str, layout: str, note: str) -> Header:
    """The description of somebody else's demonstrations, with where they come from and what is not what it was."""
    source = {"layout": layout, "file": file, "note": note}
    seen = {"image_size": ObservationOptions().image_size, **observation}
    return replace(header, observation=seen, collection={**header.collection, SOURCE: source})
