"""Plain URIs and paths, which become rows in bulk, without a look at each one.

A list of a hundred million is mostly plain. Other entries are read one by one (`lists`), which would
give the same rows for plain ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.inputs.entries import PLAN_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# No `.` or `..` for a name, no user, port, query or escape of Windows, nothing to be spelled otherwise.
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.~%=+,()!-]*"
_ABSOLUTE = rf"^(?:(?:s3|gs|az|https?)://[a-z0-9][a-z0-9.-]{{1,62}})?(?:/{_NAME})+$"
_RELATIVE = rf"^{_NAME}(?:/{_NAME})*$"
_ARCHIVE = r"(?i)\.(?:tar|tar\.gz|tgz|zip)$"


def which(texts: pa.Array[Any], folder: str) -> NDArray[np.bool_]:
    """Those of these texts that are plain: a file's URI, an absolute path, or one below `folder`.

    Args:
        texts: strings, or null.
        folder: the URI of the list's folder, with a final `/`.
    """
    plain = pc.match_substring_regex(texts, _ABSOLUTE)
    if _is_plain_folder(folder):
        plain = pc.or_(plain, pc.match_substring_regex(texts, _RELATIVE))
    plain = pc.and_not(plain, pc.match_substring_regex(texts, _ARCHIVE))
    found: NDArray[np.bool_] = pc.fill_null(plain, False).to_numpy(zero_copy_only=False)
    return found


def _is_plain_folder(folder: str) -> bool:
    """Whether a file's name needs only to be put behind it."""
    try:
        return "::" not in folder and storage.to_uri(f"{folder}x") == f"{folder}x"
    except ValueError:
        return False


def rows(texts: pa.Array[Any], labels: Sequence[str | None], folder: str) -> pa.RecordBatch:
    """The rows of plain texts, with PLAN_SCHEMA.

    Args:
        texts: strings, of which `which` says that they are plain.
        labels: of each, in place of the folder's name.
        folder: as there.
    """
    uris = pc.binary_join_element_wise(folder, texts, "")
    uris = pc.if_else(pc.match_substring(texts, "://"), texts, uris)
    paths = pc.binary_join_element_wise("file://", texts, "")
    uris = pc.if_else(pc.starts_with(texts, "/"), paths, uris)
    below = pc.starts_with(uris, folder)
    elsewhere = pc.replace_substring_regex(uris, "^[a-z0-9]+:///?", "")
    names = pc.if_else(below, pc.utf8_slice_codeunits(uris, len(folder)), elsewhere)
    in_folder = pc.and_(below, pc.match_substring(names, "/"))
    nothing = pa.scalar(None, pa.string())
    folders = pc.if_else(in_folder, pc.replace_substring_regex(names, "/.*", ""), nothing)
    columns: dict[str, Any] = {"uri": uris, "name": names}
    columns["label"] = pc.coalesce(pa.array(labels, pa.string()), folders)
    columns["codec"] = pa.repeat(pa.scalar("file"), len(texts))
    columns["given"] = pc.if_else(pc.equal(texts, uris), nothing, texts)
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(len(texts), field.type)) for field in PLAN_SCHEMA],
        schema=PLAN_SCHEMA,
    )
