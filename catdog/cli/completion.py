"""Scripts that make shells complete commands, flags, their values and file names."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Literal

from catdog.cli import parsing

# What tyro's scripts lack: file names where any may stand. In bash they take the place of an empty
# word, which is what tyro offers where it has nothing.
_BASH_FILES = """
_catdog_or_files() {
  _tyro_catdog "$@"
  if [[ ${#COMPREPLY[@]} -eq 1 && -z ${COMPREPLY[0]} ]]; then COMPREPLY=(); fi
  return 0
}
complete -o bashdefault -o default -o filenames -F _catdog_or_files catdog
"""
_FISH_FILES = "\ncomplete --command catdog --force-files\n"
_ZSH_DESCRIBE = "  _describe 'catdog completions' completion_array\n"
_ZSH_FILES = """\
  local found=1
  [[ -n "$completions" ]] && _describe 'catdog completions' completion_array && found=0
  [[ $CURRENT -gt 2 && "${words[CURRENT]}" != -* ]] && _files && found=0
  return found
"""


def script(shell: Literal["bash", "zsh", "fish"]) -> str:
    """The script for a shell."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        parsing.call_parser(["--tyro-write-completion", shell, "-"])
    # A description of two lines would be two words to complete.
    text = re.sub(
        r"^COMPLETION_SPEC = .*$",
        lambda found: re.sub(r"\\+n", " ", found[0]),
        written.getvalue(),
        flags=re.MULTILINE,
    )
    if shell == "zsh":
        text = text.replace(_ZSH_DESCRIBE, _ZSH_FILES)
    return text + {"bash": _BASH_FILES, "fish": _FISH_FILES, "zsh": ""}[shell]
