"""A broker of four listeners (plain, SASL, TLS with client certificates, SASL over TLS), and what a client needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from agents import kafka_node
from agents.broker import LocalBroker

USER = "flowstream"
PASSWORD = "plain-password-7f3a9c"
SCRAM_PASSWORD = "scram-password-51e0d2"
KEY_PASSWORD = "key-password-b84c66"

PROPERTIES = """
listeners=CONTROLLER://{host}:{controller},{listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,\
SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_plaintext.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
listener.name.ssl.ssl.client.auth=required
"""


class SecuredBroker(LocalBroker):
    """A local broker that also listens for SASL, TLS and both."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, port=0, controller_port=0, heap_mb=256)
        self.ports = {name: kafka_node.free_port() for name in ("SASL_PLAINTEXT", "SSL", "SASL_SSL")}

    def _write_properties(self) -> Path:
        path = super()._write_properties()
        make_certificates(self.folder)
        ports = {"PLAINTEXT": self.port, **self.ports}
        with path.open("a") as file:
            file.write(
                PROPERTIES.format(
                    host=kafka_node.HOST, controller=self.controller_port, folder=self.folder, user=USER,
                    password=PASSWORD, module="org.apache.kafka.common.security",
                    listeners=",".join(f"{name}://{kafka_node.HOST}:{port}" for name, port in ports.items()),
                )
            )  # fmt: skip
        return path

    def add_scram_user(self) -> None:
        """Let USER log in by SCRAM-SHA-512, with a password of its own."""
        java = [kafka_node.find_java(), *kafka_node.JVM, "-cp", f"{self.jars}/*", "kafka.admin.ConfigCommand"]
        subprocess.run(
            [*java, "--bootstrap-server", self.bootstrap, "--alter", "--entity-type", "users", "--entity-name", USER,
             "--add-config", f"SCRAM-SHA-512=[iterations=4096,password={SCRAM_PASSWORD}]"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip

    def client(self, protocol: str, mechanism: str = "PLAIN") -> dict[str, str]:
        """Return the settings of a client of one of the listeners, as variables."""
        told = {
            "BOOTSTRAP": f"{kafka_node.HOST}:{self.ports[protocol]}",
            "SECURITY_PROTOCOL": protocol,
        }
        if protocol.startswith("SASL"):
            told |= {"SASL_MECHANISM": mechanism, "SASL_USERNAME": USER}
            told["SASL_PASSWORD"] = PASSWORD if mechanism == "PLAIN" else SCRAM_PASSWORD
        if protocol.endswith("SSL"):
            told["SSL_CAFILE"] = str(self.folder / "ca.crt")
        if protocol == "SSL":
            told |= {"SSL_CERTFILE": str(self.folder / "client.crt"), "SSL_KEYFILE": str(self.folder / "client.key")}
            told["SSL_KEY_PASSWORD"] = KEY_PASSWORD
        return {f"FLOWSTREAM_KAFKA__{name}": value for name, value in told.items()}


def make_certificates(folder: Path) -> None:
    """Make a CA, the broker's certificate and key in one file, and a client's with an encrypted key."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    openssl("req", "-x509", *key, "-nodes", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    locks = {"server": ("-nodes",), "client": ("-passout", f"pass:{KEY_PASSWORD}")}
    for name, lock in locks.items():
        openssl("req", *key, *lock, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", f"{name}.crt",
        )  # fmt: skip
    (folder / "server.pem").write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
