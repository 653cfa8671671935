"""The one tree of errors, and the problem document each becomes.

Every error that crosses a process boundary is a class here: its docstring is the message, its `code` is stable, its
`retry` says whether trying again can help. It knows nothing of HTTP beyond the status number; the door renders
`problem()` as RFC 9457, and the client turns a document back into the same class with `from_problem()`.

    CapstanError
    ├── BadRequest        the caller must change something
    ├── Refused           not allowed, or not now for a reason that the caller can read
    ├── NotFound
    ├── Unavailable       trying again later can help; `retry_after_seconds` says when
    ├── TapeError         drives, libraries, media (tapeserver.library adds the sense-like ones)
    └── Damaged           data that is not what it should be
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class Retry(enum.Enum):
    """Whether trying again can help, and how."""

    NEVER = "never"
    LATER = "later"
    OTHER_DOOR = "other_door"
    OTHER_DRIVE = "other_drive"
    OTHER_COPY = "other_copy"


class CapstanError(Exception):
    """Something went wrong inside Capstan."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        template = (type(self).__doc__ or "").strip().splitlines()[0]
        try:
            message = template.format(**arguments)
        except (KeyError, IndexError, AttributeError):
            message = f"{template} {arguments}"
        if message.endswith("..") and not message.endswith("..."):
            # Its last argument was a sentence itself.
            message = message[:-1]
        super().__init__(message)

    @property
    def retry_after_seconds(self) -> float | None:
        value = self.arguments.get("retry_after_seconds")
        return None if value is None else float(value)

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 problem document: status, title, detail, code, retry and the JSON-able arguments."""
        return {
            "type": f"urn:capstan:problem:{self.code}",
            "status": self.http_status,
            "title": self.code.replace("_", " "),
            "detail": str(self),
            "code": self.code,
            "retry": self.retry.value,
            "arguments": {
                key: value if isinstance(value, (str, int, float, bool, list, type(None))) else str(value)
                for key, value in self.arguments.items()
            },
        }


class BadRequest(CapstanError):
    """The request cannot be understood: {why}."""

    code, http_status = "bad_request", 400


class BadPath(BadRequest):
    """The path {path!r} is not allowed: {why}."""

    code = "bad_path"


class BadJson(BadRequest):
    """The body is not what is wanted: {why}."""

    code = "bad_json"


class BadDigest(BadRequest):
    """The digest header cannot be used: {why}."""

    code = "bad_digest"


class DigestMismatch(BadRequest):
    """The data has {algorithm} {actual}, but {expected} was promised; nothing was stored."""

    code = "digest_mismatch"


class ShortBody(BadRequest):
    """Only {received} of {expected} bytes arrived; nothing was stored."""

    code = "short_body"


class BadRange(BadRequest):
    """The range {range} lies outside the file of {size} bytes."""

    code, http_status = "bad_range", 416


class UnknownStorageClass(BadRequest):
    """There is no storage class {name!r}; known are: {known}."""

    code = "unknown_storage_class"


class NotInRequest(BadRequest):
    """The file {path} does not belong to the stage request {request}. No modification has been made to this request."""

    code = "not_in_request"


class ReasonRequired(BadRequest):
    """A change of {object} needs a reason."""

    code = "reason_required"


class BadConfig(BadRequest):
    """{source}: {why}"""

    code = "bad_config"


class TooLarge(BadRequest):
    """{what} is {actual}, and at most {limit} is allowed."""

    code, http_status = "too_large", 413


class LargerThanAnyVolume(TooLarge):
    """{what} is {actual}, and no cartridge of its storage class holds more than {limit} bytes."""

    code = "larger_than_any_volume"


class Refused(CapstanError):
    """That is not allowed: {why}."""

    code, http_status = "refused", 403


class Unauthenticated(Refused):
    """A valid token is needed: {why}."""

    code, http_status = "unauthenticated", 401


class Denied(Refused):
    """The token of {owner} does not grant {action} on {path}."""

    code = "denied"


class SystemClass(Refused):
    """Storage class {name!r} is for Capstan's own files: name another one with --class, or the directory's."""

    code = "system_class"


class BadSignature(Refused):
    """This URL cannot be used: {why}."""

    code = "bad_signature"


class Exists(Refused):
    """{path} exists already."""

    code, http_status = "exists", 409


class ExistsCondition(Exists):
    """{path} exists already, and If-None-Match: * was asked."""

    code, http_status = "exists", 412


class ExistsOverwrite(Exists):
    """{path} exists already, and Overwrite: F was asked."""

    code, http_status = "exists", 412


class ParentMissing(Refused):
    """The directory {path} does not exist."""

    code, http_status = "parent_missing", 409


class NotADirectory(Refused):
    """{path} is a file, not a directory."""

    code, http_status = "not_a_directory", 409


class IsADirectory(Refused):
    """{path} is a directory, not a file."""

    code, http_status = "is_a_directory", 409


class NotEmpty(Refused):
    """The directory {path} is not empty."""

    code, http_status = "not_empty", 409


class WrongState(Refused):
    """{object} is {state}; that does not allow {action}."""

    code, http_status = "wrong_state", 409


class Unsafe(Refused):
    """Without {what} {files} files are not safe any more, {last} of them without any good copy."""

    code, http_status = "unsafe", 409


class NotReclaimable(Refused):
    """Volume {volume} cannot be reclaimed: {why}."""

    code, http_status = "not_reclaimable", 409


class StaleEpoch(Refused):
    """The mount with epoch {epoch} is over; nothing may be done under it any more."""

    code, http_status = "stale_epoch", 409


class NotFound(CapstanError):
    """{what} does not exist."""

    code, http_status = "not_found", 404


class NoSuchInput(NotFound):
    """The job's input {path} does not exist; nothing was submitted."""

    code = "no_such_input"


class Unavailable(CapstanError):
    """{what} is not available now: {why}."""

    code, http_status, retry = "unavailable", 503, Retry.LATER


class CatalogUnreachable(Unavailable):
    """The catalog database does not answer: {why}."""

    code = "catalog_unreachable"


class DoorUnreachable(Unavailable):
    """No door answers at {url}: {why}."""

    code, retry = "door_unreachable", Retry.OTHER_DOOR


class TooBusy(Unavailable):
    """{what} is at its limit of {limit}; try again in {retry_after_seconds} s."""

    code, http_status = "too_busy", 429


class NoSpace(Unavailable):
    """No cache server has room for {bytes} bytes: {why}."""

    code, http_status = "no_space", 507


class OnTape(Unavailable):
    """{path} is only on tape; it is being brought to disk."""

    code = "on_tape"


class SpaceGivenBack(Unavailable):
    """The space for {path} was given back before the upload was complete, or its URL was used before; send it again."""

    code = "space_given_back"


class NotOnline(Unavailable):
    """{path} is not on disk: {why}."""

    code = "not_online"


class TimedOut(Unavailable):
    """{what} did not end within {seconds} s."""

    code, http_status = "timed_out", 504


class TapeError(CapstanError):
    """The tape could not be used: {why}."""

    code, http_status, retry = "tape_error", 502, Retry.OTHER_DRIVE


class Damaged(CapstanError):
    """{what} is damaged: {why}."""

    code, http_status = "damaged", 502


class Lost(Damaged):
    """{path} is lost: {why}."""

    code, http_status = "lost", 410


def _all_classes(root: type[CapstanError]) -> list[type[CapstanError]]:
    return [root, *(found for child in root.__subclasses__() for found in _all_classes(child))]


def from_problem(document: dict[str, Any], http_status: int) -> CapstanError:
    """The error that a problem document speaks of; an unknown code becomes the nearest family by its status."""
    arguments = document.get("arguments")
    detail = document.get("detail") or document.get("title") or f"HTTP {http_status}"
    wanted = document.get("code")
    matches = [found for found in _all_classes(CapstanError) if found.code == wanted]
    found = next((match for match in matches if match.http_status == http_status), matches[0] if matches else None)
    error = (found or CapstanError)(**(arguments if isinstance(arguments, dict) else {}))
    error.args = (str(detail),)
    return error
