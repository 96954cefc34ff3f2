"""The public listener's certificate, where no proxy takes care of TLS."""

import ssl
from pathlib import Path

from archibald_rt.errors import ConfigError

_REFUSALS = {
    "KEY_VALUES_MISMATCH": "[server] tls_key: not the key of the certificate in tls_cert",
    "KEY_TYPE_MISMATCH": "[server] tls_key: not the key of the certificate in tls_cert",
    # What it says of the key where that is of another kind than the certificate's.
    "NO_CERTIFICATE_ASSIGNED": "[server] tls_key: not the key of the certificate in tls_cert",
    "EE_KEY_TOO_SMALL": "[server] tls_cert: its key is too small",
    "CA_MD_TOO_WEAK": "[server] tls_cert: its signature is too weak",
}


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what a listener needs to speak TLS 1.2 or newer with this certificate chain.

    Raises `ConfigError`, in one line, for files that can't be read or don't belong together.
    """
    for name, path in (("tls_cert", certificate), ("tls_key", key)):
        try:
            with path.open("rb"):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"[server] {name}: {path} can't be read: {reason}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # It would stop a connection whose socket goes on without the handshake's stream.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = _REFUSALS.get(error.reason or "")
        if reason is None:
            expected = "expected a certificate chain and its private key, both in PEM"
            reason = f"[server] tls_cert and tls_key: can't be used ({error.reason}); {expected}"
        raise ConfigError(reason) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"[server] tls_cert and tls_key: can't be used: {error}") from None
    return context


def _no_password() -> bytes:
    """Refuse a key that has one: OpenSSL would ask the terminal for it."""
    raise ConfigError("[server] tls_key: encrypted; expected one without a password")
