"""A configuration is right, or every mistake in it is named with its line, its field and what to do."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from onfh_runtime.errors import MissingExtraError, UsageError
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.config_checks import file_system_of, problems_here, problems_of, warnings_of
from onfh_runtime.listen.config_file import config_from_yaml

EXAMPLE = resources.files("onfh_runtime") / "data" / "listen.example.yaml"


def read(tmp_path: Path, text: str) -> ListenConfig:
    path = tmp_path / "listen.yaml"
    path.write_text(text)
    return config_from_yaml(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    assert refused.value.code == "config_invalid"
    return refused.value.text


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, and another key."""
    folder = tmp_path_factory.mktemp("pem")
    for name in ("node", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
        files = ["-keyout", folder / f"{name}-key.pem", "-out", folder / f"{name}.pem"]
        subprocess.run([*command, *files], check=True, capture_output=True)
    return folder


def test_the_shipped_example_is_valid() -> None:
    config = config_from_yaml(Path(str(EXAMPLE)))
    assert config.state_dir == Path("/var/lib/onfh-edge")
    assert config.route_of("ct-1") == config.routes[0]
    assert config.routes[0].destinations == ("pacs",)


def test_the_shipped_example_shows_every_field_and_the_default_of_those_it_comments() -> None:
    text = EXAMPLE.read_text()
    commented = "\n".join(
        line.replace("# ", "", 1)
        if line.lstrip().startswith("# ") and line.lstrip("# ").partition(" ")[0].endswith((":", ":\n"))
        else line
        for line in text.splitlines()
    )
    shown = yaml.safe_load(commented)
    config = ListenConfig.model_validate({**shown, "series": {"quiet_s": 5}})
    assert config.bundle == Path("/opt/onfh/bundle")

    def missing(model: type[BaseModel], given: dict[str, object]) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()} - given.keys()

    assert missing(ListenConfig, shown) == set()
    for name in ("node", "disk", "series", "tries", "webhook", "http", "log"):
        annotation = ListenConfig.model_fields[name].annotation
        model = annotation if isinstance(annotation, type) else annotation.__args__[0]
        assert missing(model, shown[name]) == set(), name
    for name in ("peers", "routes", "destinations"):
        model = ListenConfig.model_fields[name].annotation.__args__[0]
        assert missing(model, shown[name][0]) == set(), name
    defaults = ListenConfig(state_dir=Path("x"))
    assert config.node.model_copy(update={"tls": None}) == defaults.node
    assert (config.disk, config.series, config.tries, config.log) == (
        defaults.disk,
        defaults.series,
        defaults.tries,
        defaults.log,
    )
    assert (config.backend, config.threads) == (defaults.backend, defaults.threads)
    assert config.destinations[0].retry == type(config.destinations[0].retry)()


def test_only_the_folder_must_be_given_and_nothing_leaves_this_machine(tmp_path: Path) -> None:
    config = read(tmp_path, "state_dir: state")
    assert config.state_dir == tmp_path / "state"
    assert not config.state_dir.exists()
    assert config.node.address.is_loopback
    assert config.http.address.is_loopback
    assert config.peers == config.destinations == ()
    assert config.webhook is None
    assert config.route_of(None) is not None
    assert warnings_of(config) == ["peers is empty: every program on this machine may send, under any AE title."]


def test_a_section_without_lines_is_as_if_absent(tmp_path: Path) -> None:
    assert read(tmp_path, "state_dir: x\nnode:\npeers:\nroutes:\n") == read(tmp_path, "state_dir: x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node: {prt: 4}", "line 2, node.prt: there is no such field. Did you mean port?"),
        ("nodes: 1", "line 2, nodes: there is no such field. Did you mean node?"),
        ("destinations:\n  - {name: a, ae_title: A, host: h, port: 1, TLS: x}", "line 3, destinations.0.TLS: there is"),
        ("node:\n  port: 70000", "line 3, node.port: 70000 does not fit. It should be: less than or equal to 65535."),
        ("node:\n  port: 0", "line 3, node.port: 0 does not fit. It should be: greater than or equal to 1."),
        ("node: {port: yes}", "line 2, node.port: True does not fit. It should be: a valid integer."),
        ("node: {ae_title: 12}", "line 2, node.ae_title: this is no text. Put it in quotes."),
        ("node: {ae_title: ABCDEFGHIJKLMNOPQ}", "an AE title has 1 to 16 printable ASCII characters"),
        ("node: {address: everywhere}", "line 2, node.address: 'everywhere' does not fit."),
        ("node: {address: 1}", "line 2, node.address: 1 does not fit. It should be: an IP address in quotes."),
        ("peers: [{name: a, ae_title: A, addresses: [1]}]", "line 2, peers.0.addresses.0: 1 does not fit."),
        ("webhook: {url: 'http://localhost:99999'}", "line 2, webhook.url: 'http://localhost:99999' does not fit."),
        ("node: 7", "line 2, node: this is no section."),
        ("peers: [{name: a, ae_title: A}]", "line 2, peers.0.addresses: this field must be given."),
        ("peers: [{name: a, ae_title: A, addresses: 10.0.0.1}]", "peers.0.addresses: this is no list."),
        ("peers: [{name: a, ae_title: A, addresses: [10.0.0.1/8]}]", "'10.0.0.1/8' does not fit."),
        ("peers: [{name: ../a, ae_title: A, addresses: [10.0.0.1]}]", "line 2, peers.0.name: '../a' does not fit."),
        ("routes: [{name: a, from: ct}]", "line 2, routes.0.from: 'ct' does not fit. It should be: a list"),
        ("routes: [{name: a, from: [ct]}]", "routes.0.from.0: there is no peer named 'ct'. List it under peers."),
        ("routes: [{name: a, destinations: [b]}]", "routes.0.destinations.0: there is no destination named 'b'."),
        ("routes: []", "line 2, routes: [] does not fit."),
        ("series: {complete_when: count}", "line 2, series: {'complete_when': 'count'} does not fit."),
        ("tries: {backoff_s: [-1]}", "line 2, tries.backoff_s.0: -1 does not fit."),
        ("disk: {keep_objects_days: 40}", "a result is not deleted before its images. Raise it."),
        ("http: {port: 11112}", "line 2, http.port: port 11112 is the node's. Choose another one."),
        ("node:\n  address: 0.0.0.0", "line 3, node.address: 0.0.0.0 can be reached from elsewhere and"),
        ("http: {address: '::'}", "line 2, http.address: :: can be reached from elsewhere and"),
        ("webhook: {url: 'http://8.8.8.8/x'}", "line 2, webhook.url: The webhook's host 8.8.8.8 is at 8.8.8.8"),
        ("webhook: {url: 'file:///etc/passwd'}", "line 2, webhook.url: 'file:///etc/passwd' does not fit."),
        ("bundle: nowhere", "nowhere holds no bundle.json. Name the folder `onfh export` wrote."),
        ("state_dir: y", "line 2, state_dir: this field is given on line 1 too. Remove one."),
        ("http: {token_file: absent}", "line 2, http.token_file: The token file"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_field_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    said = refusal(tmp_path, f"state_dir: x\n{text}\n")
    assert expected in said
    assert len(said.splitlines()) == 2, said


def test_every_mistake_is_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = refusal(tmp_path, "threads: -1\nnode:\n  port: x\n  prot: 3\nlog: {level: loud}\n")
    lines = [line.split(",")[0].strip() for line in said.splitlines()[1:]]
    assert lines == ["line 1", "line 1", "line 3", "line 4", "line 5"]
    assert said.startswith(f"{tmp_path / 'listen.yaml'} cannot be used:")


@pytest.mark.parametrize(
    ("section", "entry", "field"),
    [
        ("peers", "{{name: {0}, ae_title: {1}, addresses: [10.0.0.1]}}", "name"),
        ("peers", "{{name: {0}, ae_title: {1}, addresses: [10.0.0.1]}}", "ae_title"),
        ("destinations", "{{name: {0}, ae_title: {1}, host: h, port: 1}}", "name"),
        ("routes", "{{name: {0}}}", "name"),
    ],
)
def test_what_is_given_twice_is_refused(tmp_path: Path, section: str, entry: str, field: str) -> None:
    names = ("a", "a") if field == "name" else ("a", "b")
    titles = ("A", "B") if field == "name" else ("A", "'A '")
    entries = "\n".join(f"  - {entry.format(name, title)}" for name, title in zip(names, titles, strict=True))
    value = "a" if field == "name" else "A"
    expected = f"line 4, {section}.1.{field}: '{value}' is given twice under {section}. Give each its own."
    assert expected in refusal(tmp_path, f"state_dir: x\n{section}:\n{entries}\n")


@pytest.mark.parametrize(
    "text", ["", "- state_dir", "state_dir", "state_dir: [", "a: 'b", "? {a: b}\n: c", "a: !!python/x 1"]
)
def test_what_is_no_configuration_is_said(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "listen.yaml") in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for name, data in (("absent.yaml", None), ("binary.yaml", b"\xff\xfe\x00")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError) as refused:
            config_from_yaml(tmp_path / name)
        assert refused.value.code == "config_unreadable"


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    refusal(tmp_path, f"state_dir: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(tmp_path, "state_dir: file/state")
    assert f"line 1, state_dir: {tmp_path / 'file'} is no folder." in said


MOUNTS = """\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 24 0:26 / /mnt rw - nfs4 server:/export rw
31 24 0:27 / /mnt rw - xfs /dev/vdb rw
32 24 0:28 / /mnt/our\\040share rw,relatime shared:7 - cifs //server/share rw
"""


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount() -> None:
    expected = {"/var/lib": "ext4", "/mnt/x": "xfs", "/mnt/our share/x": "cifs", "/mnt/our": "xfs", "/": "ext4"}
    assert {path: file_system_of(Path(path), MOUNTS) for path in expected} == expected


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(tmp_path, "state_dir: x")
    monkeypatch.setattr("onfh_runtime.listen.config_checks.file_system_of", lambda path: "nfs4")
    (problem,) = problems_here(config)
    assert (problem.place, problem.text) == (("state_dir",), f"{tmp_path} is on a network file system (nfs4)")


def test_tls_files_are_opened(tmp_path: Path, pem: Path) -> None:
    def tls(**given: object) -> str:
        files = {"certificate": pem / "node.pem", "key": pem / "node-key.pem", "ca": pem / "other.pem"} | given
        return "state_dir: x\nnode:\n  tls:\n" + "".join(f"    {name}: {value}\n" for name, value in files.items())

    assert read(tmp_path, tls()).node.tls is not None
    assert read(tmp_path, tls(ca="null", require_client="false")).node.tls is not None
    assert "line 6, node.tls.ca: clients are asked for a certificate" in refusal(tmp_path, tls(ca="null"))
    said = refusal(tmp_path, tls(certificate="absent.pem"))
    assert f"line 4, node.tls.certificate: {tmp_path / 'absent.pem'} cannot be read (No such file" in said
    assert "line 3, node.tls: " in refusal(tmp_path, tls(key=pem / "other-key.pem"))


def test_a_destination_may_have_tls_too(tmp_path: Path, pem: Path) -> None:
    entry = f"{{name: a, ae_title: A, host: h, port: 1, tls: {{certificate: {pem}/node.pem, key: gone.pem}}}}"
    said = refusal(tmp_path, f"state_dir: x\ndestinations:\n  - {entry}\n")
    assert "line 3, destinations.0.tls.key: " in said


def test_a_token_makes_the_page_reachable(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    config = read(tmp_path, "state_dir: x\nhttp: {address: 0.0.0.0, token_file: token}")
    assert config.http.token_file == token


def test_a_peer_is_who_calls_by_its_title_from_its_address(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "state_dir: x\nnode: {address: 0.0.0.0}\n"
        "peers:\n"
        "  - {name: ct, ae_title: CT1, addresses: [10.1.2.0/24, 'fd00::/8']}\n"
        "  - {name: mr, ae_title: MR1, addresses: [10.1.3.4]}\n"
        "routes:\n  - {name: first, from: [mr]}\n  - {name: second, from: [ct, mr]}\n",
    )
    who = {
        ("CT1", "10.1.2.9"): "ct",
        ("CT1 ", "::ffff:10.1.2.9"): "ct",
        ("CT1", "fd00::1"): "ct",
        ("CT1", "10.1.3.4"): None,
        ("MR1", "10.1.3.4"): "mr",
        ("MR1", "10.1.3.5"): None,
        ("ct1", "10.1.2.9"): None,
    }
    for (title, address), name in who.items():
        peer = config.peer_of(title, address)
        assert (peer and peer.name) == name, (title, address)
    assert [route and route.name for route in map(config.route_of, ("mr", "ct", None))] == ["first", "second", None]
    assert warnings_of(config) == ["node: images reach 0.0.0.0 without TLS."]


def test_results_in_the_clear_and_unused_destinations_are_mentioned(tmp_path: Path) -> None:
    entries = "[{name: a, ae_title: A, host: pacs, port: 1}, {name: b, ae_title: B, host: localhost, port: 1}]"
    config = read(tmp_path, f"state_dir: x\ndestinations: {entries}\nroutes: [{{name: r, destinations: [a]}}]")
    assert problems_of(config) == []
    assert warnings_of(config)[1:] == [
        "destinations: results leave for a without TLS.",
        "destinations: no route sends to b.",
    ]


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match="listen"):
        read(tmp_path, "state_dir: x")


def test_a_key_that_asks_for_a_password_does_not_stop_the_start(tmp_path: Path, pem: Path) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", pem / "node-key.pem", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    text = f"state_dir: x\nnode: {{tls: {{certificate: {pem}/node.pem, key: {locked}, ca: {pem}/node.pem}}}}"
    assert "line 2, node.tls: " in refusal(tmp_path, text)


@pytest.mark.parametrize("host", ["pacs", "pacs.hospital.example.", "10.0.0.1", "fd00::1", "my_pacs-2"])
def test_the_host_of_a_destination_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    entry = f"{{name: a, ae_title: A, host: '{host}', port: 1}}"
    assert read(tmp_path, f"state_dir: x\ndestinations: [{entry}]").destinations[0].host == host


@pytest.mark.parametrize("host", ["127.0.0.1:5", "a..b", "300.1.2.3", "a" * 64, "", "0", "a b", "a." * 127])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    entry = f"{{name: a, ae_title: A, host: '{host}', port: 1}}"
    assert "destinations.0.host: " in refusal(tmp_path, f"state_dir: x\ndestinations: [{entry}]")
