"""Hiding passwords and tokens in texts that are shown, logged or stored.

They occur in addresses (of an MLflow server, a database, a git remote, a proxy, a bucket), on the command line, in
config files and in the messages of libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

# Texts may be megabytes long, so the patterns have bounded repetitions and few possible starts, to limit backtracking.
_SCHEME = r"(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{0,40}://"
_SECRET = r"(?:password|passwd|pwd|token|secret|signature|credential|(?:api|access|account)[_-]?key)"
# RFC 3986: user and password precede the host. The last @ ends them, because a password may contain an @ by mistake.
_USER_AND_PASSWORD = re.compile(rf"""({_SCHEME}[^\s/?#@:'"<>]{{0,200}}):[^\s/?#'"<>]{{0,4000}}@""")
# A password with a / or # makes an address invalid, and error messages about it quote the address.
_NOT_ENCODED = re.compile(
    rf"""({_SCHEME}[^\s/?#@:'"<>]{{0,200}}):(?!\d+(?:[/?#\s'"]|$))[^\s'"<>@]{{0,4000}}@"""
)
# A token in place of the user, as git hosts accept it.
_TOKEN_ALONE = re.compile(r"""((?:git\+)?https?://)[^\s/?#@:'"<>]{1,4000}@""")
_IN_QUERY = re.compile(
    rf"""([?&;]|%3B|%26)((?:[\w.\-]{{0,60}}{_SECRET}[\w.\-]{{0,60}}|sig|sas)(?:=|%3D))(?:(?!%3B|%26)[^&;\s'"<>])+""",
    re.IGNORECASE,
)
_IN_ENVIRONMENT = re.compile(
    r"""\b([A-Z][A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|TOKEN|SECRET|_KEY)=)(?!\$)[^\s'"]+"""
)
_IN_HEADER = re.compile(r"""\b(Bearer|Basic)\s+(?=[^\s'"]*[\d=+/])[^\s'"]{8,}""")
_NAME = (
    r"(?:(?:\w[\w\-.]{0,60}[_\-.])?(?:password|passwd|secret|api_key|access_key|secret_key|private_key|credentials?|"
    r"(?:access|auth|api|bearer|tracking)_token)|pwd|token)"
)
_KEY = re.compile(_NAME, re.IGNORECASE)
# References and expressions are kept: they name the source of a password, not the password itself.
_IN_JSON = re.compile(rf"""(["']{_NAME}["']\s*:\s*["'])(?![$@%])[^"'\n]+""", re.IGNORECASE)
# Assignments in programs and settings: `password = "..."`, `self.token: str = b'...'`, `connect(password="...")`.
_IN_ASSIGNMENT = re.compile(
    rf"""((?<![\w\-.]){_NAME}["']?\]?(?:[ \t]*:[ \t]*\w[\w.\[\], |]{{0,40}})?[ \t]*=[ \t]*"""
    rf"""(?:[bru]{{0,2}}(?:\"""|'''|"(?!")|'(?!'))(?![$@%])|f(?:"(?!")|'(?!'))(?![$@%{{])))[^"'\n]+""",
    re.IGNORECASE,
)
_IN_SETTINGS = re.compile(
    rf"""^([+\- ]?[ \t]*{_NAME}[ \t]*=[ \t]*)(?![$@%"'\s])[^\n]+$""", re.IGNORECASE | re.MULTILINE
)
# Excludes type annotations such as `token: str`.
_IN_YAML = re.compile(
    rf"""^([+\- ]*{_NAME}\s*:[ \t]+["']?)(?!(?:str|bytes|int|float|bool|Any|None|null|true|false)\b)"""
    r"""(?![$@%"'])[^\s"',()\[\]|=]+(["']?[ \t]*)$""",
    re.IGNORECASE | re.MULTILINE,
)


def hidden(text: str) -> str:
    """A text with `***` in place of every password and token that can be recognised by its form.

    The scheme, user, host and path of an address are kept, so that it can be recognised.
    """
    text = _USER_AND_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _NOT_ENCODED.sub(rf"\1:{HIDDEN}@", text)
    text = _TOKEN_ALONE.sub(rf"\1{HIDDEN}@", text)
    text = _IN_QUERY.sub(rf"\1\2{HIDDEN}", text)
    text = _IN_JSON.sub(rf"\1{HIDDEN}", text)
    text = _IN_ASSIGNMENT.sub(rf"\1{HIDDEN}", text)
    text = _IN_YAML.sub(rf"\1{HIDDEN}\2", text)
    text = _IN_ENVIRONMENT.sub(rf"\1{HIDDEN}", text)
    return _IN_HEADER.sub(rf"\1 {HIDDEN}", text)


def hidden_settings(text: str) -> str:
    """A text of settings (ini, env) with `***` also for passwords without quotes, as in `password = ...`.

    Not for programs, where the right side of such a line may be a variable.
    """
    return _IN_SETTINGS.sub(rf"\1{HIDDEN}", hidden(text))


def without_passwords(value: Any) -> Any:
    """A JSON value in which all texts are `hidden`, and texts under a key for a password or token are `***`."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return {key: _of_key(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_passwords(item) for item in value]
    return value


def _of_key(key: Any, value: Any) -> Any:
    plain = isinstance(value, str) and value and not value.startswith(("@", "%", "$"))
    return HIDDEN if plain and _KEY.fullmatch(str(key)) else without_passwords(value)
