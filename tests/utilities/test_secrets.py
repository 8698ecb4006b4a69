from __future__ import annotations

import warnings
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raylight.utilities import redaction
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn
from raylight.utilities.secrets import (
    REDACTED,
    is_secret_name,
    paths_of_redacted,
    redact,
    redact_text,
    redact_texts,
)

SECRET = "c3d1-planted-value"


@pytest.mark.parametrize(
    "name",
    [
        "password", "db_password", "dbPassword", "DB_PASSWORD", "passwd", "passphrase", "db.pwd", "secret",
        "client_secret", "secret_access_key", "aws_access_key_id", "api_key", "apiKey", "APIKey", "apikey", "api-key",
        "api_keys", "wandb_api_key", "private_key", "ssh_key", "encryption_key", "credential", "credentials", "token",
        "hf_token", "HFToken", "auth_token", "access_tokens", "refreshToken", "auth_header", "Authorization",
        "model.api_key",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "num_tokens", "max_tokens", "tokens", "tokenizer", "tokenizer_name", "token_dim", "token_type", "key_dim",
        "pad_token", "pad_token_id", "eos_token", "cls_token", "mask_token", "num_keys", "key", "keys", "keyboard",
        "monkey", "batch_key", "image_key", "query_key_value", "api_key_env", "password_file", "secret_name",
        "private_key_path", "pass_through", "passes", "pwd", "auth", "author", "access", "secretary", "bypass",
        "compass", "session", "sort_key", "lr", "monitor",
    ],
)  # fmt: skip
def test_names_that_only_look_alike(name: str) -> None:
    assert not is_secret_name(name)


@dataclass
class Database:
    host: str
    password: str


def test_by_name_only_texts_are_redacted() -> None:
    config = {
        "api_key": "sk-1", "password": 12345678, "token": None, "secret": True, "pad_token": "[PAD]", "lr": 0.1,
        "cls": {"token": "[CLS]"}, "db": Database("host", "<pw>"), "options": Namespace(hf_token="hf-1", depth=3),
        "credentials": {"user": "me", "keys": ["a", "b"]}, "layers": [{"secret": ("x", 1)}],
    }  # fmt: skip
    clean, found = redact(config)
    assert clean == {
        "api_key": REDACTED, "password": 12345678, "token": None, "secret": True, "pad_token": "[PAD]", "lr": 0.1,
        "cls": {"token": "[CLS]"}, "db": {"host": "host", "password": REDACTED},
        "options": {"hf_token": REDACTED, "depth": 3},
        "credentials": {"user": REDACTED, "keys": [REDACTED, REDACTED]}, "layers": [{"secret": (REDACTED, 1)}],
    }  # fmt: skip
    assert found == [
        "api_key", "db.password", "options.hf_token", "credentials.user", "credentials.keys", "layers.secret",
    ]  # fmt: skip
    assert config["api_key"] == "sk-1"
    assert redact(clean) == (clean, [])
    assert paths_of_redacted(clean) == [
        "api_key", "db.password", "options.hf_token", "credentials.user", "credentials.keys", "credentials.keys",
        "layers.secret",
    ]  # fmt: skip


def test_without_secrets_it_is_the_same_object() -> None:
    config = {"db": Database("host", ""), "lr": 0.1}
    assert redact(config)[0] is config


def test_what_holds_itself() -> None:
    config: dict[str, Any] = {"api_key": "sk-1"}
    config["again"] = [config]
    clean, found = redact(config)
    assert clean["again"][0] is clean
    assert found == ["api_key"]


@pytest.mark.parametrize("variable", ["MY_SERVICE_TOKEN", "X_KEY", "CLIENT_SECRET", "DBPASSWORD", "PASSWORD", "TOKEN"])
def test_values_of_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, SECRET)
    assert redact_text(f"at https://me:{SECRET}@host") == f"at https://me:{REDACTED}@host"
    assert redact({"url": [f"https://{SECRET}@host"], SECRET: 1}) == (
        {"url": [f"https://{REDACTED}@host"], REDACTED: 1},
        [f"${variable}"],
    )
    error, number = ValueError(SECRET), 3
    assert redact_texts((error, number, "text")) == (REDACTED, 3, "text")


def test_the_longer_of_two_values_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("B_KEY", f"{SECRET}-and-more")
    assert redact_text(f"{SECRET}-and-more") == REDACTED


def test_values_that_are_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHORT_KEY", "val_los")
    monkeypatch.setenv("SSL_KEY", str(tmp_path))  # where it is, not what
    monkeypatch.setenv("PWD", "/somewhere/else")
    monkeypatch.setenv("KEYBOARD", "some-long-value")
    text = f"val_los {tmp_path} /somewhere/else some-long-value"
    assert redact_text(text) == text


def test_messages_hold_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    with caplog.at_level("INFO", logger="raylight"):
        rank_zero_info("%s with %d and %s", "it", 3, {"a": SECRET})
    assert caplog.messages == [f"it with 3 and {{'a': '{REDACTED}'}}"]
    with pytest.warns(UserWarning, match=f"^it is {REDACTED}$"):
        rank_zero_warn(f"it is {SECRET}")


def test_one_warning_names_them_without_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_told", set())
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    config = {"db": {"password": "planted"}, "url": SECRET}
    with pytest.warns(
        UserWarning, match=r"in place of 'db\.password' and .* MY_SERVICE_TOKEN.*ignore=\['db'\]"
    ) as told:
        redaction.without_secrets(config)
    assert len(told) == 1
    assert "planted" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        redaction.without_secrets(config)
