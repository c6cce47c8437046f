"""Passwords and tokens are recognised by where they stand, and nothing else is touched."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.utils.passwords import hidden, hidden_settings, without_passwords


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
        ('+password = "secret"\n', '+password = "***"\n'),
        ("-    self.db_password: str = b'secret'  # here", "-    self.db_password: str = b'***'  # here"),
        ('api_key = """secret"""', 'api_key = """***"""'),
        ("connect(user='a', password='secret', port=1)", "connect(user='a', password='***', port=1)"),
        ('config["password"] = f"secret"', 'config["password"] = f"***"'),
        ("DB_PASSWORD = 'secret one'", "DB_PASSWORD = '***'"),
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
        'password = os.environ["PASSWORD"]\ntoken = next(tokens)\nsecret = None\n',
        'password = "", user = "a"',
        "password = '' if unknown else given",
        'if password == "x" and token != "y": pass',
        'password = f"{given}"',
        'password = "$PASSWORD"',
        'tokens = "a b", passwords = "c"',
    ],
)
def test_what_is_not_stays(text):
    assert hidden(text) == text


def test_in_settings_a_password_needs_no_quotes():
    text = "[server]\n+password = secret one\n-api_key=secret\n user = a\n token = $TOKEN\n tokens = 5\n"
    expected = "[server]\n+password = ***\n-api_key=***\n user = a\n token = $TOKEN\n tokens = 5\n"
    assert hidden_settings(text) == hidden_settings(expected) == expected
    assert hidden(text) == text, "in a program it may be a variable"


@given(
    password=st.text(
        st.characters(codec="ascii", min_codepoint=33, exclude_characters="/?#'\"<>@"), min_size=1
    )
)
def test_any_password_of_an_address_is_gone(password):
    assert hidden(f"http://user:{password}@host/x") == "http://user:***@host/x"


@pytest.mark.parametrize(
    "letter",
    [
        "a",
        "-",
        "A",
        ".",
        "_",
        "+",
        " ",
        ":",
        "/",
        "a:",
        "http://a:",
        "&",
        "x\n",
        "a.",
        "a.token ",
    ],
)
def test_megabytes_of_one_letter_take_no_time_to_speak_of(letter):
    text = letter * (1_000_000 // len(letter))
    assert hidden_settings(text) == text


def test_values_under_a_name_of_a_password_are_hidden():
    value = {"a": [{"db_password": "x", "token": "y", "token_size": "z"}], "secret": "@other", "n": 1.5}
    expected = {
        "a": [{"db_password": "***", "token": "***", "token_size": "z"}],
        "secret": "@other",
        "n": 1.5,
    }
    assert without_passwords(value) == expected
    assert json.loads(hidden(json.dumps(value)))["a"][0]["token"] == "***"
