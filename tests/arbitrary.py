"""Whatever can be emitted, as Hypothesis makes it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from archibald_rt.emissions import EmissionReader
from archibald_rt.events import Emission
from archibald_rt.timestamps import Stamper

_scalars = st.one_of(
    st.sampled_from(
        ["1.00", "1e400", "-0", "-0.0", "12345678901234567890123", "1E+2", "null", "true", '""']
    ),
    st.text(st.characters(exclude_categories=["Cs"])).map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
    st.sampled_from(['"\\u00e9\\/\\ud83e\\udd80"', '"\\u0000\u2028"', '"\x7f"']),
)
_spaces = st.sampled_from(["", " ", "\t", "  \n", "\r\n"])
_payloads = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.tuples(st.lists(inner, max_size=3), _spaces).map(
            lambda made: f"[{made[1]}{(',' + made[1]).join(made[0])}{made[1]}]"
        ),
        # A name may come twice; both are kept.
        st.tuples(st.lists(st.tuples(st.sampled_from(['"a"', '"\\u0061"', '""']), inner)), _spaces)
        .map(lambda made: [f"{name}{made[1]}:{value}" for name, value in made[0]])
        .map(lambda members: "{" + ", ".join(members) + "}"),
    ),
    max_leaves=6,
)
_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=256
) | st.sampled_from(["\U0001f980" * 256, "'\";--", "e\u0301", "\u00e9", " ", "null"])
ITEMS = st.fixed_dictionaries(
    {
        "userId": _names | st.none(),
        "payload": _payloads,
        "type": _names.map(lambda name: name[:99]),
    },
    optional={"key": _names.map(lambda name: name[:200])},
)
"""Durable emissions; the payload is JSON as a back end may write it."""


def emitted(items: Iterable[Mapping[str, Any]]) -> list[Emission]:
    """Read them as the internal listener does."""
    reader = EmissionReader(Stamper(), (), max_event=0)
    found = []
    for item in items:
        rest = {name: value for name, value in item.items() if name not in ("payload", "userId")}
        body = json.dumps({**rest, "type": "x" + item["type"], "durable": True}).encode()
        body = body[:-1] + b',"payload":' + item["payload"].encode() + b"}"
        if item["userId"] is None:
            found.append(reader.read_broadcast(body))
        else:
            user = json.dumps(item["userId"]).encode()
            ((one,), _) = reader.read(b'{"userId":' + user + b"," + body[1:])
            found.append(one)
    return found
