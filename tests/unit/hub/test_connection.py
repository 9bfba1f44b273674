import pytest

from edgetune.errors import HubError
from edgetune.hub import connection
from edgetune.hub.connection import TryAgain, Unreachable, patiently


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of them slept through."""
    made: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", made.append)
    return made


class Failing:
    """Fails with each error in turn, and has `arrived` bytes more after each."""

    def __init__(self, *errors: TryAgain, arriving: int = 0):
        self.errors, self.arriving, self.arrived, self.told = list(errors), arriving, 0, list[str]()

    def attempt(self) -> str:
        self.arrived += self.arriving
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def busy(pause: float | None = None) -> TryAgain:
    error = TryAgain("busy")
    error.pause = pause
    return error


def test_pauses_grow_until_it_works(pauses: list[float]) -> None:
    job = Failing(busy(), busy(), busy(pause=7))
    assert patiently(job.attempt, job.told.append) == "done"
    assert pauses == [1.0, 2.0, 7] and job.told == ["busy"] * 3


def test_it_is_given_up_when_nothing_comes(pauses: list[float]) -> None:
    job = Failing(*[busy() for _ in range(99)])
    with pytest.raises(HubError, match="busy") as caught:
        patiently(job.attempt, job.told.append)
    assert type(caught.value) is HubError and len(pauses) == 5


def test_it_is_never_given_up_while_bytes_come(pauses: list[float]) -> None:
    job = Failing(*[busy() for _ in range(99)], arriving=1)
    assert patiently(job.attempt, job.told.append, arrived=lambda: job.arrived) == "done"
    assert pauses == [1.0] * 99


def test_an_unreachable_hub_is_final_at_first_contact_only(pauses: list[float]) -> None:
    with pytest.raises(HubError):
        patiently(Failing(Unreachable("gone")).attempt, lambda _: None)
    assert not pauses
    assert patiently(Failing(Unreachable("gone")).attempt, lambda _: None, arrived=lambda: 0) == "done"


def test_an_address_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example:8443/")
    assert connection.endpoint() == "https://me:secret@hub.example:8443"
    assert connection.host() == "hub.example"
    assert connection.endpoint_without_secrets() == "https://hub.example:8443"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("on", True), ("TRUE", True), ("0", False), ("", False)])
def test_the_switch_is_that_of_huggingface_hub(monkeypatch: pytest.MonkeyPatch, value: str, offline: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert connection.is_offline() is offline


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("99999", 60.0), ("", None), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_a_servers_wish_has_a_limit(text: str, seconds: float | None) -> None:
    assert connection.seconds(text) == seconds


def test_a_proxy_looks_the_address_up_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("looked up here")

    monkeypatch.setattr(connection.socket, "getaddrinfo", never)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    connection.require_address()
