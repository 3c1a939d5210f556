"""Settings are read once, checked at the start, and told about without their values."""

import pytest
from pydantic import AliasChoices, BaseModel, Field, PositiveFloat, SecretStr, ValidationError

from kernel.setting_files import EnvFile
from kernel.settings import STARTUP_FAILURE, Settings, SliceSettings, load_settings

SECRET = "8b1f0c67d2e94a35" * 2
URL = "postgresql://user:canary@db.example/name?sslmode=verify-full"


def read(**given):
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@localhost/n",
        "postgresql://u:p@h:5432/n?sslmode=require",
        "postgresql+asyncpg://u:p@h/n?sslmode=disable",
        "postgresql://u@h1:5432,h2:5432/n?target_session_attrs=read-write&sslmode=verify-full",
        "postgresql:///n?host=/run/postgresql",
        "postgresql://u@?host=/run/postgresql&dbname=n",
    ],
)
def test_the_usual_forms_of_a_database_url_are_understood(url):
    found = read(env="dev", database_url=url).primary_url
    assert found.startswith("postgresql://")
    assert found.partition("://")[2] == url.partition("://")[2]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "canary"),
        ("DATABASE_URL", "mysql://u:canary@h/n"),
        ("DATABASE_URL", "postgresql://u:canary@h"),
        ("DATABASE_URL", "postgresql://u:12/canary@h/n"),
        ("DATABASE_URL", "postgresql://[canary/n"),
        ("READ_DATABASE_URL", "canary"),
        ("JWT_SECRET", "canary"),
        ("ENV", "canary"),
        ("LOG_LEVEL", "canary"),
        ("POOL_SIZE", "canary"),
        ("POOL_SIZE", "0"),
        ("STATEMENT_TIMEOUT", "nan"),
        ("STATEMENT_TIMEOUT", "inf"),
        ("POOL_TIMEOUT", "-1"),
        ("MAX_BODY_BYTES", "-1"),
        ("SLOW_REQUEST", "0"),
        ("RATE_LIMIT", "canary"),
        ("RATE_LIMIT", "0/minute"),
        ("RATE_LIMIT", "600"),
        ("RATE_LIMIT", "600/minutes"),
        ("RATE_LIMIT", "600/minute;canary"),
        ("RATE_LIMIT", "1\u0660/minute"),
        ("REDIS_URL", "canary"),
        ("REDIS_URL", "http://u:canary@h"),
        ("REDIS_URL", "redis://u:canary@h:port/0"),
        ("REDIS_URL", "redis://u:canary@h/0?socket_timeout=x"),
        ("SMTP_URL", "canary"),
        ("SMTP_URL", "http://u:canary@h"),
        ("SMTP_URL", "smtp://u:canary@"),
        ("SMTP_URL", "smtp://canary@h"),
        ("SMTP_URL", "smtp://u:canary@h:port"),
        ("SMTP_URL", "smtp://u:ca/nary@h"),
        ("SMTP_URL", "smtp://u:ca#nary@h"),
        ("SMTP_URL", "smtp://[canary"),
        ("SMTP_URL", "smtp://u:canary@h?starttls=off"),
        ("SMTP_URL", "smtp://u:canary@h?starttls=maybe"),
        ("SMTP_URL", "smtps://u:canary@h?starttls=off"),
        ("SMTP_URL", "smtps://u:canary%ff@h"),
        ("SMTP_URL", "smtps://u:canary%00@h"),
        ("SMTP_URL", "smtps://canary h"),
        ("SMTP_URL", "smtps://canary,h"),
        ("SMTP_URL", "smtps://canary..h"),
        ("SMTP_URL", f"smtps://{'canary' * 11}"),
        ("MAIL_FROM", "canary"),
        ("MAIL_FROM", "Canary <canary>"),
        ("MAIL_FROM", "a@example.com, canary@example.com"),
        ("MAIL_FROM", "Canary\nBcc: canary@example.com <a@example.com>"),
        ("MAIL_FROM", "=?utf-8?q?A=0D=0ABcc:_canary?= <a@example.com>"),
        ("PUBLIC_URL", "canary"),
        ("PUBLIC_URL", "ftp://canary.example"),
        ("PUBLIC_URL", "https://u:canary@h"),
        ("PUBLIC_URL", "https://h/?canary"),
        ("PUBLIC_URL", "https://h/#canary"),
        ("PUBLIC_URL", "https://h/canary/#"),
        ("PUBLIC_URL", 'https://h/"canary'),
        ("SIGNUP_OPEN", "canary"),
        ("CORS_ORIGINS", "canary"),
        ("CORS_ORIGINS", "https://a.example/canary"),
        ("CORS_ORIGINS", "https://a.example,canary"),
        ("CORS_ORIGINS", '["canary"'),
        ("CORS_ORIGINS", "[1]"),
    ],
)
def test_a_mistake_ends_the_start_with_one_line_that_names_it(monkeypatch, capsys, name, value):
    monkeypatch.setenv(f"APP_{name}", value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    # Of a list, it names the place.
    assert line.startswith((f"APP_{name}: ", f"APP_{name}."))
    assert "canary" not in line


def test_each_mistake_has_its_line(monkeypatch, capsys):
    monkeypatch.setenv("APP_POOL_SIZE", "x")
    monkeypatch.setenv("APP_ENV", "x")
    with pytest.raises(SystemExit):
        load_settings()
    names = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert sorted(names) == ["APP_ENV", "APP_POOL_SIZE"]


@pytest.mark.parametrize("env", ["staging", "prod"])
@pytest.mark.parametrize("missing", ["database_url", "jwt_secret"])
def test_outside_dev_a_database_and_a_secret_are_required(env, missing):
    given = {"database_url": URL, "jwt_secret": SECRET}
    assert read(env=env, **given).env == env
    del given[missing]
    with pytest.raises(ValidationError, match=f"APP_{missing.upper()} is required"):
        read(env=env, **given)


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:6380/1", "unix:///run/redis.sock?db=2", "redis://:p@[::1]"]
)
def test_the_usual_forms_of_a_redis_url_are_understood(url):
    assert read(redis_url=url).shared_counters_url == url


def test_the_package_that_a_setting_needs_is_named_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("kernel.setting_types.find_spec", lambda name: None)
    monkeypatch.setenv("APP_REDIS_URL", "redis://h")
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    line = "APP_REDIS_URL: needs the package redis: uv sync --group redis\n"
    assert capsys.readouterr().err == line


def test_a_secret_shows_in_no_representation_of_the_settings():
    settings = read(env="dev", database_url=URL, jwt_secret="canary" * 8)
    assert "canary" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert isinstance(settings.jwt_secret, SecretStr)


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("APP_DATABASE_URL", "")
    assert read().primary_url is None


# Settings of slices.


class PigeonSettings(SliceSettings, env_prefix="PIGEON_"):
    host: str
    password: SecretStr = SecretStr("none")
    timeout: PositiveFloat = 5.0


@pytest.fixture
def mail(monkeypatch):
    """A service with a slice that has settings of its own."""
    monkeypatch.setattr("kernel.settings.slice_settings", lambda: [PigeonSettings])
    monkeypatch.setitem(PigeonSettings.model_config, "env_file", None)


def test_a_slices_settings_are_read_with_the_services(monkeypatch, mail):
    monkeypatch.setenv("PIGEON_HOST", "mail.example")
    monkeypatch.setenv("PIGEON_TIMEOUT", "2")
    own = load_settings().of(PigeonSettings)
    monkeypatch.setenv("PIGEON_HOST", "another.example")  # too late: they are read once
    assert (own.host, own.timeout) == ("mail.example", 2.0)


def test_mistakes_in_a_slices_settings_are_told_with_the_services(monkeypatch, capsys, mail):
    monkeypatch.setenv("APP_POOL_SIZE", "canary")
    monkeypatch.setenv("PIGEON_TIMEOUT", "canary")
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    told = capsys.readouterr().err
    names = [line.partition(":")[0] for line in told.splitlines()]
    assert sorted(names) == ["APP_POOL_SIZE", "PIGEON_HOST", "PIGEON_TIMEOUT"]
    assert "canary" not in told


def test_tests_say_a_slices_settings_themselves():
    settings = read().having(PigeonSettings(host="localhost", _env_file=None))
    assert settings.model_copy(update={"env": "prod"}).of(PigeonSettings).host == "localhost"


class Nest(BaseModel):
    eggs: int


class NestSettings(SliceSettings, env_prefix="NEST_"):
    inner: Nest
    tags: list[str] = Field(default_factory=list)
    host: str = Field(default="x", validation_alias="COOP_HOST", max_length=3)


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({"NEST_INNER": '{"eggs": "x"}'}, ["NEST_INNER.eggs: Input should be a valid integer"]),
        ({"NEST_INNER": '{"eggs": 1}', "NEST_TAGS": "a,b"}, ["NEST_TAGS: should be JSON"]),
        ({"NEST_INNER": '{"eggs": 1}', "COOP_HOST": "canary"}, ["COOP_HOST: String should have"]),
    ],
)
def test_a_mistake_in_a_slices_settings_names_what_has_to_be_changed(
    monkeypatch, capsys, variables, lines
):
    monkeypatch.setattr("kernel.settings.slice_settings", lambda: [NestSettings])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith(start) for line, start in zip(told, lines, strict=True)] == [True]
    assert "canary" not in str(told)


def test_settings_that_were_not_read_at_the_start_are_none():
    with pytest.raises(RuntimeError, match="NestSettings was not read at the start"):
        read().of(NestSettings)


class PostSettings(SliceSettings, env_prefix="POST_"):
    host: str = Field("x", validation_alias=AliasChoices("POST_HOST", "POST_SERVER"))
    port: int = 25


def in_file(tmp_path, content):
    path = tmp_path / ".env"
    path.write_bytes(content)
    return EnvFile(path, [Settings, PostSettings, SliceSettings])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"APP_ENV=dev\n\ncanary is nothing\n", "line 3: cannot be read: write NAME=value"),
        (b"APP_ENV: canary\n", "line 1: cannot be read: write NAME=value"),
        (b"APP ENV=canary\n", "line 1: cannot be read: write NAME=value"),
        (b'#\nAPP_JWT_SECRET="canary\nAPP_ENV=dev\n', "line 2: cannot be read: write NAME=value"),
        (b"APP_ENV\n", "line 1: APP_ENV has no value: write APP_ENV=value"),
        (
            b"APP_LOGLEVEL=canary\n",
            "line 1: APP_LOGLEVEL is not a setting: did you mean APP_LOG_LEVEL?",
        ),
        (
            b"export app_pool_sise=1",
            "line 1: APP_POOL_SISE is not a setting: did you mean APP_POOL_SIZE?",
        ),
        (b"POST_PROT=1\n", "line 1: POST_PROT is not a setting: did you mean POST_PORT?"),
        (b"APP_FOO=canary\n", "line 1: APP_FOO is not a setting: remove it, or correct its name"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line_and_no_value(tmp_path, content, told):
    (line,) = in_file(tmp_path, content).mistakes()
    assert line.startswith(f".env, {told}")
    assert line.endswith("\n")
    assert "canary" not in line


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbfAPP_ENV=dev\r\n",
        b"# APP_FOO=1\n export APP_ENV = dev # x\nAPP_LOG_FORMAT=\n",
        b"POST_SERVER='x'\npost_host=x\n",
        b"POSTGRES_PASSWORD=x\nFOO\nAP_ENV=1\n",
    ],
)
def test_a_file_may_hold_settings_and_what_is_for_others(tmp_path, content):
    assert [*in_file(tmp_path, content).mistakes()] == []


def test_a_file_need_not_be_there(tmp_path):
    assert [*EnvFile(tmp_path / ".env", [Settings]).mistakes()] == []


def test_a_value_of_a_file_counts_where_the_environment_has_none(tmp_path, monkeypatch):
    file = in_file(tmp_path, b"\nAPP_ENV=x\nAPP_POOL_SIZE=1\nAPP_ENV=y\n")
    monkeypatch.setenv("app_pool_size", "2")
    assert file.place_of("APP_ENV") == " (.env, line 4)"
    assert file.place_of("APP_POOL_SIZE") == file.place_of("APP_LOG_LEVEL") == ""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"\nAPP_POOL_SIZE=canary\nAPP_FOO=1\n",
            [".env, line 3: APP_FOO is", "APP_POOL_SIZE: Inp"],
        ),
        ("APP_ENV=dev\n".encode("utf-16"), [".env: should be UTF-8"]),
        (b"APP_ENV=prod\n", ["APP_DATABASE_URL is required", "APP_JWT_SECRET is required"]),
    ],
)
def test_a_broken_file_ends_the_start_with_a_line_for_each_mistake(
    tmp_path, monkeypatch, capsys, content, told
):
    (tmp_path / ".env").write_bytes(content)
    monkeypatch.setattr("kernel.settings.ROOT", tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert end.value.code == STARTUP_FAILURE
    lines = capsys.readouterr().err.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told
    assert all(line.endswith(" (.env, line 2)") for line in lines if "POOL_SIZE" in line)
    assert "canary" not in str(lines)
