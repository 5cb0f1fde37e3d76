"""How every Kafka client of ours is configured: one place for addresses and credentials."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import faust

from agents import codecs
from flowstream.errors import SettingsError
from flowstream.setting_tables import Kafka


class _NoCredentials(logging.Filter):
    """Keeps from the log what is said to a broker to log in: at debug level aiokafka prints whole requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a line may be logged."""
        said = record.args if isinstance(record.args, tuple) else ()
        return not any("Sasl" in type(part).__name__ for part in said)


logging.getLogger("aiokafka.conn").addFilter(_NoCredentials())
codecs.install()


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Return the connection options of an aiokafka client; SettingsError where a file of TLS is of no use."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def faust_credentials(kafka: Kafka) -> Any:
    """Return the same as Faust wants it; None for plaintext."""
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(_ssl_context(kafka))
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=kafka.sasl_mechanism,
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            ssl_context=_ssl_context(kafka) if kafka.security_protocol == "SASL_SSL" else None,
        )
    return None


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(kafka, name)
        if path and not Path(path).is_file():
            raise SettingsError(f"setting kafka.{name} = {path!r}: no such file")
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile or None)
    except ssl.SSLError as error:
        raise SettingsError(f"setting kafka.ssl_cafile = {kafka.ssl_cafile!r}: no certificates in PEM") from error
    if kafka.ssl_certfile:
        try:
            # A function, because without one OpenSSL asks the terminal for the password of an encrypted key.
            context.load_cert_chain(
                kafka.ssl_certfile, kafka.ssl_keyfile or None, kafka.ssl_key_password.get_secret_value
            )
        except ssl.SSLError as error:
            key = kafka.ssl_keyfile or kafka.ssl_certfile
            raise SettingsError(
                f"setting kafka.ssl_certfile = {kafka.ssl_certfile!r}: no certificate in PEM to which the key in "
                f"{key!r} belongs, or kafka.ssl_key_password does not open it"
            ) from error
    elif kafka.ssl_keyfile:
        raise SettingsError(f"setting kafka.ssl_keyfile = {kafka.ssl_keyfile!r}: of no use without kafka.ssl_certfile")
    return context
