"""Recognises what should not be written down in clear: by the name of a parameter, and by the look of its value.

Rather too much than too little: what is not shown is still compared by its digest.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Anywhere in a name.
_PARTS = (
    *("apikey", "auth", "bearer", "cert", "cookie", "credential", "key", "passphrase", "passcode", "password"),
    *("passwd", "private", "secret", "session", "token", "username"),
)
# As a word of a name: `db_user` and `dbUser`, but not `users` or `spin`.
_WORDS = frozenset(
    {"account", "authz", "card", "conn", "creds", "cvc", "cvv", "dsn", "email", "iban", "jwt", "login", "mail", "mfa"}
    | {"licence", "license", "mnemonic", "nonce", "passport", "phrase", "signature", "webhook"}
    | {"oauth", "otp", "pass", "phone", "pin", "psk", "pw", "pwd", "salt", "sid", "ssn", "tan", "totp"}
    | {"user", "userid", "uid"}
)
_ENDINGS = ("pass", "pwd")  # of a word: `dbpass`
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KNOWN_SHAPES = re.compile(
    r"""
    ://[^/\s'"]*@                                            # a URL with a user or a password
    | (?:auth|key|pass|pin|pwd|secret|sig|sid|token)\w*["']?\s*[=:]\s*\S   # in a URL, a DSN, JSON
    | \b(?:pw|uid|user)["']?\s*[=:]\s*\S
    | (?:^|\s)--?(?:\w+-)*(?:auth|key|pass|pin|pwd|secret|token|user)[\w-]*\s+\S  # of a command line
    | \bmysql\w*\s.*-p\S
    | \b(?:passphrase|password|pin|secret)\s(?:is|was)\s\S  # in a sentence
    | \bhooks\.slack\.com/ | /webhooks?/ | \bbot\d{6,}:       # addresses that whoever knows them may use
    | \b(?:bearer|basic|digest|negotiate|token)\s+\S{6}      # of a header
    | -----BEGIN                                             # PEM
    | \beyJ[\w-]{6,}\.                                       # JWT
    | \b(?:sk|pk|rk)[-_][\w-]{6}                             # OpenAI, Anthropic, Stripe
    | \b(?:gh[a-z]|github_pat|glpat|gldt|hf|npm|pypi|dop_v1|shpat|xox[a-z]|xapp|ya29|nvapi|r8|ak|as)[-_.][\w-]{6}
    | \b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{8}         # Amazon
    | \b(?:AC|SK)[0-9a-f]{32}\b                              # Twilio
    | \b\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}\b                 # numbers of cards
    | \bAIza[\w-]{8} | \bSG\.[\w-]{6} | \bAGE-SECRET-KEY-    # Google, SendGrid, age
    | \$(?:2[aby]|argon2\w*|scrypt|pbkdf2[\w-]*|[156])\$     # hashes of passwords
    """,
    re.IGNORECASE | re.VERBOSE,
)
_RUN = re.compile(r"[A-Za-z0-9+/=]{10,}")
_SAME_KIND = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_MEAN_LENGTH = 3.5  # of the pieces of one kind in what nobody has chosen; words and dates are longer
_LEAST_RANDOM = 16


def looks_secret(name: str, text: str) -> bool:
    """Whether a value should not be shown.

    Args:
        name: The name of the parameter.
        text: The value as text.
    """
    return _is_secret_name(name) or _KNOWN_SHAPES.search(text) is not None or _holds_random(text)


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    lower = name.lower()
    return any(part in lower for part in _PARTS) or any(
        word in _WORDS or word.endswith(_ENDINGS) for word in map(str.lower, _WORD.findall(name))
    )


def _holds_random(text: str) -> bool:
    """Whether a text holds letters and digits that look as if nobody had chosen them: a key, a digest."""
    found = 0
    for run in _RUN.findall(text):
        pieces = _SAME_KIND.findall(run)
        length = sum(map(len, pieces))
        if len(pieces) > 2 and length / len(pieces) <= _MEAN_LENGTH:
            found += length
    return found >= _LEAST_RANDOM
