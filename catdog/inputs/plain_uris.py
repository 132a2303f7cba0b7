"""URIs and absolute paths that need no look at each one: they become rows all at once.

A list of a hundred million is mostly such. What is not plain is read entry by entry (`lists`), and
what is plain would come out of that as the same rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.inputs.entries import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# No `.` or `..` for a name, no user, port, query or escape of Windows, nothing to be spelled otherwise.
_PLAIN = (
    r"^(?:(?:s3|gs|az|https?)://[a-z0-9][a-z0-9.-]{1,62})?"
    r"(?:/[A-Za-z0-9_][A-Za-z0-9_.~%=+,()!-]*)+$"
)
_ARCHIVE = r"(?i)\.(?:tar|tar\.gz|tgz|zip)$"


def which(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Those of these texts that are plain: a file's URI, or an absolute path."""
    try:
        given = pa.array(texts, pa.string())
    except UnicodeEncodeError:  # one of them is no text: all are looked at
        return np.zeros(len(texts), np.bool_)
    plain = pc.match_substring_regex(given, _PLAIN)
    archives = pc.match_substring_regex(given, _ARCHIVE)
    found: NDArray[np.bool_] = pc.and_not(plain, archives).to_numpy(zero_copy_only=False)
    return found


def rows(texts: Sequence[str], labels: Sequence[str | None], folder: str) -> pa.RecordBatch:
    """The rows of plain texts, with PLAN_SCHEMA.

    Args:
        texts: `which` says of each that it is plain.
        labels: of each, in place of the folder's name.
        folder: the URI of the list's folder, with a final `/`.
    """
    given = pa.array(texts, pa.string())
    local = pc.starts_with(given, "/")
    uris = pc.if_else(local, pc.binary_join_element_wise("file://", given, ""), given)
    below = pc.starts_with(uris, folder)
    elsewhere = pc.replace_substring_regex(uris, "^[a-z0-9]+:///?", "")
    names = pc.if_else(below, pc.utf8_slice_codeunits(uris, len(folder)), elsewhere)
    in_folder = pc.and_(below, pc.match_substring(names, "/"))
    folders = pc.replace_substring_regex(names, "/.*", "")
    nothing = pa.scalar(None, pa.string())
    told = pc.coalesce(pa.array(labels, pa.string()), pc.if_else(in_folder, folders, nothing))
    columns: dict[str, Any] = {"uri": uris, "name": names, "label": told}
    columns["codec"] = pa.repeat(pa.scalar("file"), len(given))
    columns["given"] = pc.if_else(local, given, nothing)
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(len(given), field.type)) for field in PLAN_SCHEMA],
        schema=PLAN_SCHEMA,
    )
