"""Keys of one attempt: what a client makes, what others derive from it, and sealed letters."""

import os
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmed.aggregation.secagg.messages import SecAggError

KEY_BYTES = 32
ANNOUNCEMENT_BYTES = 3 * KEY_BYTES
NONCE_BYTES = 12


class Secrets(NamedTuple):
    """What a client makes anew for each attempt and tells nobody whole.

    Attributes:
        cipher: X25519 private key (32 bytes) that opens what other clients seal for this one.
        mask: X25519 private key, of the masks that a pair of clients has in common.
        seed: 32 uniform bytes, of the mask that is this client's alone.
    """

    cipher: bytes
    mask: bytes
    seed: bytes

    @classmethod
    def make(cls) -> "Secrets":
        """Draw them from the system's randomness."""
        return cls(os.urandom(KEY_BYTES), os.urandom(KEY_BYTES), os.urandom(KEY_BYTES))

    def announced(self) -> bytes:
        """Return what all may know of them, 96 bytes; see :class:`Announced`."""
        return public_of(self.cipher) + public_of(self.mask) + commitment(self.seed)


class Announced(NamedTuple):
    """What a client announces: two public keys, and what binds it to its seed."""

    cipher: bytes
    mask: bytes
    seed: bytes

    @classmethod
    def read(cls, announcement: bytes) -> "Announced":
        """Take 96 bytes apart."""
        return cls(
            *(announcement[at : at + KEY_BYTES] for at in range(0, ANNOUNCEMENT_BYTES, KEY_BYTES))
        )


def public_of(private: bytes) -> bytes:
    """Return the X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def check_public(public: bytes) -> None:
    """Refuse an X25519 public key with which all agree on the same secret.

    Raises:
        SecAggError: if it is one.
    """
    _agree(os.urandom(KEY_BYTES), public)


def commitment(seed: bytes) -> bytes:
    """Return what shows later that a seed is the announced one, and before that nothing of it."""
    return _derive(seed, "commitment")


def seed_mask_key(seed: bytes) -> bytes:
    """Return the key of the mask that a client has alone."""
    return _derive(seed, "seed mask")


def pair_mask_key(private: bytes, public: bytes, transcript: str) -> bytes:
    """Return the key of the mask that two clients have in common: the same from either side.

    Args:
        private: the mask key of one.
        public: that of the other.
        transcript: of the attempt.

    Raises:
        SecAggError: if the public key is none that gives a secret.
    """
    return _derive(_agree(private, public), f"pair mask {transcript}")


def seal(letter: bytes, private: bytes, public: bytes, label: bytes) -> bytes:
    """Seal a letter from one client to another: AES-256-GCM under the key that they agree on.

    Args:
        letter: what only the other may read.
        private: the sender's cipher key.
        public: the recipient's.
        label: of what attempt, from whom and to whom; it is not sent, and must be the same there.

    Returns:
        The letter, longer by 28 bytes.

    Raises:
        SecAggError: if the public key is none that gives a secret.
    """
    nonce = os.urandom(NONCE_BYTES)
    key = _derive(_agree(private, public), "letter")
    return nonce + AESGCM(key).encrypt(nonce, letter, label)


def unseal(sealed: bytes, private: bytes, public: bytes, label: bytes) -> bytes:
    """Open what :func:`seal` sealed.

    Args:
        sealed: as it came.
        private: the recipient's cipher key.
        public: the sender's.
        label: as it was sealed with.

    Raises:
        SecAggError: if it is not what that client sealed under that label.
    """
    key = _derive(_agree(private, public), "letter")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label)
    except (InvalidTag, ValueError):
        raise SecAggError(
            "a sealed share is not as its sender sealed it for this attempt"
        ) from None


def _agree(private: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:  # a point of low order: everyone would know the secret
        raise SecAggError("a public key gives no secret: it is of low order") from None


def _derive(secret: bytes, purpose: str) -> bytes:
    info = f"fedmed secagg 1 {purpose}".encode()
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)
