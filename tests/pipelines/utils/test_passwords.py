"""Passwords and tokens are recognised by where they stand, and nothing else is touched."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.utils.passwords import hidden, without_passwords


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@host:5000/x", "http://user:***@host:5000/x"),
        ("http://user:se@cret@host/", "http://user:***@host/"),
        ("http://user:se/cret@host/x", "http://user:***@host/x"),
        ("http://user:se%2Fcret@[::1]:5000", "http://user:***@[::1]:5000"),
        ("postgresql+psycopg2://u:secret@h/db?sslpassword=secret&x=1", None),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dsecret%3BUID%3Du", None),
        ("https://secret@github.com/team/code.git", "https://***@github.com/team/code.git"),
        ("git+https://secret@github.com/team/code.git", None),
        ("s3://KEY:secret@bucket/x", "s3://KEY:***@bucket/x"),
        ("https://h/x?X-Amz-Signature=secret&y=2", "https://h/x?X-Amz-Signature=***&y=2"),
        ("https://h/x?sv=1&sig=secret", "https://h/x?sv=1&sig=***"),
        ("http://h:5000?token=secret", "http://h:5000?token=***"),
        ("redis://:secret@h", "redis://:***@h"),
        ("proxy http://u:secret@proxy:3128 refused", "proxy http://u:***@proxy:3128 refused"),
        ("MLFLOW_TRACKING_PASSWORD=secret A=b", "MLFLOW_TRACKING_PASSWORD=*** A=b"),
        ("AWS_SECRET_ACCESS_KEY=secret", "AWS_SECRET_ACCESS_KEY=***"),
        ("Invalid header value b'Bearer secret1x\\r'", None),
        ('{"token": "secret", "n": 1}', '{"token": "***", "n": 1}'),
        ("api_key: secret\nn: 1", "api_key: ***\nn: 1"),
        ("+  password: 'secret'\n", "+  password: '***'\n"),
    ],
)
def test_what_is_secret_is_hidden(text, expected):
    found = hidden(text)
    assert "secret" not in found
    assert expected is None or found == expected
    assert hidden(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////data/me@home/mlflow.db",
        "http://host:5000/users/a@b.org",
        "postgresql://mlflow@localhost/mlflow",
        "ssh://git@github.com/team/code.git",
        "git@github.com:team/code.git",
        "$networks.Net(class_token=True, tokens=5)",
        "Basic functionality of a password manager",
        '{"password": "$os.environ[\'P\']", "tokens": "64"}',
        "/data/2026/a b/c;d=e.nii.gz",
        "+    token: str,\n+    password: str | None = None\n     secret: str\n",
        "API_TOKEN=$API_TOKEN run",
    ],
)
def test_what_is_not_stays(text):
    assert hidden(text) == text


@given(
    password=st.text(
        st.characters(codec="ascii", min_codepoint=33, exclude_characters="/?#'\"<>@"), min_size=1
    )
)
def test_any_password_of_an_address_is_gone(password):
    assert hidden(f"http://user:{password}@host/x") == "http://user:***@host/x"


@pytest.mark.parametrize(
    "letter", ["a", "-", "A", ".", "_", "+", " ", ":", "/", "a:", "http://a:", "&", "x\n"]
)
def test_megabytes_of_one_letter_take_no_time_to_speak_of(letter):
    text = letter * (1_000_000 // len(letter))
    assert hidden(text) == text


def test_values_under_a_name_of_a_password_are_hidden():
    value = {"a": [{"db_password": "x", "token": "y", "token_size": "z"}], "secret": "@other", "n": 1.5}
    expected = {
        "a": [{"db_password": "***", "token": "***", "token_size": "z"}],
        "secret": "@other",
        "n": 1.5,
    }
    assert without_passwords(value) == expected
    assert json.loads(hidden(json.dumps(value)))["a"][0]["token"] == "***"
