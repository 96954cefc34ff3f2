"""What of the configuration takes effect without a restart: keys, tokens, the certificate."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

from archibald_rt.auth import BearerTokens, Jwks, Key, TokenVerifier, configured_keys
from archibald_rt.certificates import server_context
from archibald_rt.http1.listener import Listener
from archibald_rt.settings import AuthSettings, ServerSettings, Settings, changed
from archibald_rt.tap import Tap

RELOADABLE: Mapping[str, frozenset[str]] = {
    "server": frozenset({"tls_cert", "tls_key"}),
    "internal": frozenset({"emit_tokens", "read_tokens"}),
    "auth": frozenset({"jwt_secret", "jwt_public_key", "jwks_url", "algorithms"}),
}
"""The keys, by section, that a reload puts into effect."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has found: ``section.key`` of what changed, and of what waits for a restart."""

    changed: tuple[str, ...]
    need_restart: tuple[str, ...]


def keys_of(auth: AuthSettings) -> tuple[Key, ...]:
    """Return the keys that are configured themselves. Raises `ConfigError`."""
    return configured_keys(
        auth.jwt_secret,
        auth.jwt_public_key,
        algorithms=auth.algorithms,
        jwks=auth.jwks_url is not None,
    )


def tls_of(server: ServerSettings) -> ssl.SSLContext | None:
    """Return what the public listener speaks TLS by, None if it doesn't. Raises `ConfigError`."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    return server_context(server.tls_cert, server.tls_key)


class Access:
    """Who is let in, as it is configured now: by ``settings`` at first, then by the last reload."""

    def __init__(
        self,
        settings: Settings,
        verifier: TokenVerifier,
        jwks: Jwks,
        public: Listener,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        tap: Tap,
    ) -> None:
        self.jwks = jwks
        self._tap = tap
        self._settings = settings
        self._verifier = verifier
        self._public = public
        self._emit_tokens = emit_tokens
        self._read_tokens = read_tokens

    def reload(self, settings: Settings) -> Reloaded:
        """Use what these settings say from now on; devices that are connected stay.

        Who watches all traffic by a token that is none any more does not.

        Certificates are read anew and the key set is fetched anew, whether or not their
        settings changed. Raises `ConfigError`, in one line; then nothing has changed.
        """
        keys, context = keys_of(settings.auth), tls_of(settings.server)
        in_effect = self._in_effect(settings)
        found = changed(self._settings, in_effect)
        # From here on nothing can fail.
        self._verifier.use(keys, algorithms=settings.auth.algorithms)
        self.jwks.use(settings.auth.jwks_url)
        self._emit_tokens.use(settings.internal.emit_tokens)
        self._read_tokens.use(settings.internal.read_tokens)
        self._tap.look_again()
        if context is not None and self._public.secure:
            self._public.use_tls(context)
        self._settings = in_effect
        return Reloaded(found, changed(in_effect, settings))

    def _in_effect(self, settings: Settings) -> Settings:
        """Return the settings there are, with those of the new ones that a reload takes over."""
        sections = {}
        for section, names in RELOADABLE.items():
            old, new = getattr(self._settings, section), getattr(settings, section)
            if section == "server" and (new.tls_cert is not None) != self._public.secure:
                # A listener begins or ends to speak TLS only with a restart.
                continue
            sections[section] = replace(old, **{name: getattr(new, name) for name in names})
        return replace(self._settings, **sections)
