"""Certificates and keys for what does not leave one machine.

A server has one certificate that hospitals see, from an authority that they trust, and each
hospital makes its own key and never lets it out of the house; see docs/deployment.md. Those here
are for trials, and for the server's processes among themselves.

They are made with ``cryptography``, which is Flower's too. trustme 1.2 would take fewer lines for
the certificates, but its authority is valid until the year 3000 and takes no other end, and it
makes no node's key, which is an OpenSSH one.
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization import PrivateFormat as Private
from cryptography.hazmat.primitives.serialization import PublicFormat as Public
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


def make_certificates(folder: Path, valid: timedelta) -> None:
    """Write ``ca.crt``, and ``server.crt`` with ``server.key`` for the loopback address.

    Args:
        folder: where they are written anew. The authority's key is kept nowhere.
        valid: how long, from now.
    """
    authority, server = _key(), _key()
    name = _name("fedmed's authority for one machine")
    ca = x509.BasicConstraints(ca=True, path_length=0)
    signed = _certificate(name, name, authority, valid).add_extension(ca, critical=True)
    _write(folder / "ca.crt", signed.sign(authority, hashes.SHA384()).public_bytes(Encoding.PEM))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), address])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    signed = _certificate(_name("localhost"), name, server, valid).add_extension(
        names, critical=False
    )
    signed = signed.add_extension(issuer, critical=False)
    _write(
        folder / "server.crt", signed.sign(authority, hashes.SHA384()).public_bytes(Encoding.PEM)
    )
    key = server.private_bytes(Encoding.PEM, Private.TraditionalOpenSSL, NoEncryption())
    _write(folder / "server.key", key)


def make_node_key(path: Path) -> None:
    """Write a node's private key, and beside it its public one with ``.pub``."""
    key = _key()
    _write(path, key.private_bytes(Encoding.PEM, Private.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH)
    _write(path.with_name(path.name + ".pub"), public + b"\n")


def _key() -> Key:
    return ec.generate_private_key(ec.SECP384R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: Key, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + valid)
        .add_extension(identifier, critical=False)
    )


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
