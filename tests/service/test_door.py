"""Who is let in, and what is refused before anything is read."""

import pytest
from service.answered import attached

from medfuse.service.door import Rules, hosts_of, is_loopback

TOKEN = "a-token-of-the-tests"


def bearer(token: str = TOKEN, scheme: str = "Bearer") -> dict[str, str]:
    return {"authorization": f"{scheme} {token}"}


@pytest.fixture
def guarded(make_service):
    return make_service(desk={"token": TOKEN})


def paths(service) -> list[tuple[str, str]]:
    """Every operation that is described."""
    schema = service.client.get("/openapi.json", headers=bearer()).json()
    return [(method.upper(), path) for path, how in schema["paths"].items() for method in how]


def test_nothing_but_health_is_told_without_the_token(guarded):
    listed = paths(guarded)
    assert len(listed) > 15
    for method, path in [*listed, ("GET", "/openapi.json"), ("GET", "/"), ("GET", "/nix"), ("POST", "/jobs")]:
        if path in ("/healthz", "/auth/", "/auth/token"):
            continue
        for headers in ({}, bearer("another"), bearer(""), bearer(scheme="Basic"), bearer(TOKEN[:-1])):
            answer = guarded.client.request(method, path.replace("{", "").replace("}", ""), headers=headers)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.client.get("/healthz").json()["status"] == "ok"


def test_an_upload_without_the_token_is_not_read(guarded, image):

    answer = guarded.client.post("/jobs", content=b"x", headers=bearer("nix"))
    assert answer.status_code == 401
    assert guarded.is_empty


def test_with_the_token_all_is_as_without_one(guarded, image):
    answer = guarded.client.post("/infer/cubes", files=attached(image), headers=bearer(scheme="bearer"))
    assert answer.status_code == 200


def test_the_token_is_given_for_itself_alone(guarded):
    said = guarded.client.post("/auth/token", data={"username": "x", "password": TOKEN})
    assert said.json() == {"access_token": TOKEN, "token_type": "bearer"}
    for wrong in ("", "nix", TOKEN + "x", "é"):
        answer = guarded.client.post("/auth/token", data={"username": "x", "password": wrong})
        assert answer.status_code == 401
        assert TOKEN not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::2]"])
def test_a_name_that_somebody_pointed_here_is_refused_on_loopback(make_service, host):
    service = make_service(rules=Rules(None, hosts_of("127.0.0.1", ())))
    assert service.client.get("/info/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "LOCALHOST", "[::1]:8000", "pacs.example"])
def test_its_own_names_are_let_in(make_service, host):
    service = make_service(rules=Rules(None, hosts_of("127.0.0.1", ["pacs.example"])))
    assert service.client.get("/info/", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_are_refused_and_none_is_let_to_read(service, image):
    for origin in ("https://evil.example", "null", "http://testserver.evil.example"):
        answer = service.client.post("/infer/cubes", files=attached(image), headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert service.client.get("/info/", headers={"origin": "http://testserver"}).status_code == 200


def test_a_request_that_is_too_large_is_refused_by_what_it_says(make_service):
    service = make_service(request=1000)
    for length in ("10000000000", "1001", "9" * 30):
        answer = service.client.post("/jobs", content=b"x", headers={"content-length": length})
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


def test_a_request_that_does_not_say_its_size_is_counted(make_service, image):
    service = make_service(request=1000)

    def chunks():
        for _ in range(10):
            yield b"--x\r\n" + b"y" * 500

    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/jobs", content=chunks(), headers=kind)
    assert answer.status_code in (400, 413)
    assert service.is_empty


def test_a_connection_is_kept_where_nothing_is_left_to_read(service, image):
    for answer in (
        service.client.get("/info/"),
        service.client.get("/jobs/nix"),
        service.client.post("/infer/cubes", files=attached(image)),
        service.client.post("/train/cubes"),
    ):
        assert answer.headers.get("connection") != "close"


def test_packed_content_is_not_unpacked(service):
    for packing in ("gzip", "br", "deflate, gzip"):
        answer = service.client.post("/jobs", content=b"x", headers={"content-encoding": packing})
        assert answer.status_code == 415


def test_a_client_of_another_version_is_told_this_one(service):
    answer = service.client.get("/info/", headers={"api-version": "2"})
    assert answer.status_code == 406
    assert "version 1" in answer.json()["detail"]
    assert service.client.get("/info/", headers={"api-version": "1"}).status_code == 200
    assert "version 1" in service.client.get("/v2/jobs").json()["detail"]


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host, own):
    assert is_loopback(host) is own


def test_a_token_is_needed_where_others_can_come(capsys):
    from medfuse.verbs.serve import _token

    made = _token("", "0.0.0.0")
    assert made is not None
    assert len(made) > 40
    assert made != _token("", "0.0.0.0")
    assert _token("", "127.0.0.1") is None
    assert _token(TOKEN, "127.0.0.1") == TOKEN
