"""Bluesky's Tiled: the arrays of one node by its URL, read as a scan is read from a file, and results written back.

A name is the path of an array below the node; a name that is none is looked up in the node's metadata (there, or under
`start`, as in Bluesky's documents); the names below a list of the metadata are its texts. Stacks of images of an event,
(n, images, rows, columns), are counted through as (n x images, rows, columns). The server's key is taken from
TILED_API_KEY, or from a login that Tiled remembers.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.scan_layout import DatasetInfo

_MOST_BYTES = 1 << 29


def is_url(text: str) -> bool:
    """Whether a scan or a target is named by a URL of Tiled."""
    return text.startswith(("http://", "https://"))


class TiledView:
    """One node of a server; fulfils `View`. Arrays may grow between two calls.

    Raises InputError where the server or the node cannot be reached, FormatError where an answer makes no sense.
    """

    def __init__(self, url: str) -> None:
        self.where = url
        self._node = _connect(url)
        self._units: dict[str, str] = {}

    def info(self, name: str, since: int = 0) -> DatasetInfo | None:
        """Shape and type of an array, or of a value in the metadata; None where there is neither."""
        found = self._array(name)
        if found is not None:
            shape = _counted_through(found.shape)
            kind = np.dtype(found.dtype).str
            return DatasetInfo(name, shape, kind, self._unit(name), written=shape[0] if shape else 1)
        value = self._value(name)
        if value is None:
            return None
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return DatasetInfo(name, (), "<f8" if numeric else "text", written=1)

    def children(self, name: str) -> list[str]:
        """Names below a container, or in a list of the metadata."""
        found = self._ask(lambda: self._below(name))
        if hasattr(found, "keys"):
            return [str(child) for child in found]
        listed = self._value(name)
        return [child for child in listed if isinstance(child, str)] if isinstance(listed, list) else []

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of an array, or a value of the metadata."""
        found = self._array(name)
        if found is None:
            value = self._value(name)
            if not isinstance(value, int | float):
                raise FormatError(f"holds no array '{name}'.", where=self.where, remedy="Check the path of the node.")
            return np.array(float(value))
        shape = _counted_through(found.shape)
        stop = shape[0] if stop is None and shape else stop
        bytes_asked = np.dtype(found.dtype).itemsize * ((stop or 1) - start) * int(np.prod(shape[1:], dtype=np.float64))
        if bytes_asked > _MOST_BYTES:
            raise FormatError(f"array '{name}': {bytes_asked:,} bytes are too many for one read.", where=self.where)
        if len(found.shape) == 4 and stop is not None:
            each = int(found.shape[1])
            first, last = start // each, -(-stop // each)
            images = np.asarray(self._ask(lambda: found[first:last])).reshape(-1, *shape[1:])
            return images[start - first * each : stop - first * each]
        return np.asarray(self._ask(lambda: found[start:stop] if shape else found[()]))

    def text(self, name: str) -> str:
        """A text of the metadata, "" where there is none; `scan_uid` is the run's own uid."""
        value = self._value("uid" if name == "scan_uid" else name)
        return value if isinstance(value, str) else ""

    def close(self) -> None:
        """End the connection."""
        self._node.context.http_client.close()

    def _below(self, name: str) -> Any:
        node = self._node
        for part in filter(None, name.split("/")):
            node = node[part]
        return node

    def _unit(self, name: str) -> str:
        """The unit that the data key of an event stream's array has; "" where there is none."""
        above, _, key = name.rpartition("/")
        if name not in self._units:
            stream = self._ask(lambda: self._below(above.removesuffix("/data").removesuffix("/internal")))
            metadata = dict(getattr(stream, "metadata", {}))
            for described in (metadata, *reversed(metadata.get("descriptors") or [])):
                unit = (described.get("data_keys") or {}).get(key, {}).get("units")
                if isinstance(unit, str):
                    self._units[name] = unit
                    break
        return self._units.get(name, "")

    def _array(self, name: str) -> Any:
        found = self._ask(lambda: self._below(name))
        return found if hasattr(found, "shape") and hasattr(found, "dtype") else None

    def _value(self, name: str) -> Any:
        metadata = dict(self._node.metadata)
        for place in (metadata, metadata.get("start", {})):
            value: Any = place
            for part in filter(None, name.split("/")):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None and not isinstance(value, Mapping):
                return value
        return None

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer; None where there is no such node."""
        try:
            return question()
        except (KeyError, TypeError):
            return None
        except Exception as error:  # of the network, the server or the client library
            raise FormatError(f"Tiled says: {' '.join(str(error).split())[:200]}", where=self.where) from None


def _counted_through(shape: Any) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in shape)
    return (sizes[0] * sizes[1], *sizes[2:]) if len(sizes) == 4 else sizes


def write_container(url: str, name: str, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> str:
    """Write arrays as a new container `name` below the node at `url`; its URL.

    Raises:
        InputError: the node cannot be reached or written, or has a child of this name.
    """
    node = _connect(url)
    try:
        if name in list(node):
            raise InputError(f"has a '{name}' already.", where=url, remedy="Give another name.")
        made = node.create_container(name, metadata=json.loads(json.dumps(dict(metadata))))
        for key, array in arrays.items():
            made.write_array(np.ascontiguousarray(array), key=key)
    except InputError:
        raise
    except Exception as error:  # of the network, the server or the client library
        raise InputError(f"cannot be written ({' '.join(str(error).split())[:200]}).", where=url) from None
    finally:
        node.context.http_client.close()
    return str(made.uri)


def _connect(url: str) -> Any:
    try:
        client = importlib.import_module("tiled.client")
    except ImportError:
        raise InputError("needs the package 'tiled'.", where=url, remedy="pip install 'beamside[tiled]'") from None
    try:
        return client.from_uri(url)
    except Exception as error:  # of the network, the server or the client library
        raise InputError(f"cannot be reached ({' '.join(str(error).split())[:200]}).", where=url) from None
