"""Which web pages may connect: ``origins``."""

import pytest

from archibald_rt.origins import OriginPolicy

HOST = "rt.example.com"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://rt.example.com", "rt.example.com"),
        ("http://rt.example.com", "rt.example.com"),
        ("https://rt.example.com", "rt.example.com:443"),
        ("http://rt.example.com", "rt.example.com:80"),
        ("https://rt.example.com:443", "rt.example.com"),
        ("https://rt.example.com:8443", "rt.example.com:8443"),
        ("HTTPS://RT.Example.COM", "rt.example.com"),
        ("https://rt.example.com", "RT.EXAMPLE.COM"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[::1]", "[::1]:80"),
    ],
)
def test_a_page_of_the_server_itself_may_connect(origin: str, host: str) -> None:
    assert OriginPolicy([]).allows(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", HOST),
        ("https://rt.example.com.evil.example", HOST),
        ("https://evilrt.example.com", HOST),
        ("https://example.com", HOST),
        ("https://rt.example.com:8443", HOST),
        ("https://rt.example.com", f"{HOST}:8443"),
        ("https://rt.example.com", f"{HOST}:80"),
        ("http://rt.example.com:8080", f"{HOST}:80"),
        ("https://rt.example.com@evil.example", HOST),
        ("https://evil.example/rt.example.com", HOST),
        ("rt.example.com", HOST),
        ("//rt.example.com", HOST),
        ("null", HOST),
        ("null", "null"),
        ("", HOST),
        ("", ""),
        ("https://", ""),
        ("://", ""),
        ("*", HOST),
        ("http://[::1", "[::1"[1:]),
    ],
)
def test_a_foreign_page_may_not(origin: str, host: str) -> None:
    assert not OriginPolicy([]).allows(origin, host)


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com", "https://APP.example.com", "https://app.example.com:443"],
)
def test_a_listed_origin_may_connect(origin: str) -> None:
    policy = OriginPolicy(["http://other.example", "https://app.example.com"])
    assert policy.allows(origin, HOST)


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://xapp.example.com",
        "https://appxexample.com",
        "https://app.example.com/",
        "https://app.example.com ",
    ],
)
def test_an_origin_that_only_looks_like_a_listed_one_may_not(origin: str) -> None:
    assert not OriginPolicy(["https://app.example.com"]).allows(origin, HOST)


@pytest.mark.parametrize(
    "origin", ["https://a.example.com", "https://a-1.b.example.com", "https://my_app.example.com"]
)
def test_a_wildcard_stands_for_subdomains(origin: str) -> None:
    assert OriginPolicy(["https://*.example.com"]).allows(origin, "elsewhere")


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com",
        "https://.example.com",
        "https://a..example.com",
        "https://aexample.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.example",
        "https://evil.example/a.example.com",
        "https://evil.example?.example.com",
        "https://evil.example#.example.com",
        "https://user@a.example.com",
        "https://a.examplexcom",
        "https://a.example.com\n",
        "https://evil.example\n.example.com",
    ],
)
def test_a_wildcard_stands_for_nothing_else(origin: str) -> None:
    assert not OriginPolicy(["https://*.example.com"]).allows(origin, "elsewhere")


def test_a_wildcard_keeps_the_port_that_stands_behind_it() -> None:
    policy = OriginPolicy(["https://*.example.com:8443"])
    assert policy.allows("https://a.example.com:8443", HOST)
    assert not policy.allows("https://a.example.com", HOST)


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.",
        "https://APP.example.com:8443",
        "https://app.example.com:443:443",
        "https://app.example.com:0443",
        "https://[::1]",
        "https://b\u00fccher.example",
        "https://a.app.example.com",
        "null",
        "https://null",
    ],
)
def test_a_listed_origin_is_neither_another_spelling_of_its_host_nor_another_port(
    origin: str,
) -> None:
    policy = OriginPolicy(["https://app.example.com", "https://xn--bcher-kva.example"])
    assert not policy.allows(origin, "elsewhere")


def test_listed_addresses_and_names_in_punycode_are_met_as_browsers_write_them() -> None:
    policy = OriginPolicy(["https://[::1]:8443", "https://xn--bcher-kva.example"])
    assert policy.allows("https://[::1]:8443", HOST)
    assert policy.allows("https://xn--bcher-kva.example", HOST)
    assert not policy.allows("https://[::1]", HOST)


def test_the_browser_is_told_the_one_origin_that_asked_and_that_it_matters() -> None:
    policy = OriginPolicy(["https://*.example.com"])
    for origin in ("https://a.example.com", f"https://{HOST}"):
        assert policy.cors_headers(origin, HOST) == {
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin",
        }
    everybody = OriginPolicy(["*"]).cors_headers("https://evil.example", HOST)
    assert everybody["Access-Control-Allow-Origin"] == "https://evil.example"


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null", ""])
def test_a_foreign_page_is_allowed_nothing_and_caches_are_told_that_the_origin_matters(
    origin: str | None,
) -> None:
    assert OriginPolicy(["https://*.example.com"]).cors_headers(origin, HOST) == {"Vary": "Origin"}


def test_a_star_allows_all() -> None:
    for origin in ("https://evil.example", "null", ""):
        assert OriginPolicy(["*"]).allows(origin, HOST)


def test_pages_without_an_origin_may_connect_where_null_is_listed() -> None:
    policy = OriginPolicy(["null"])
    assert policy.allows("null", HOST)
    assert not policy.allows("https://evil.example", HOST)
