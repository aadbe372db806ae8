"""The protos: generated code is fresh, changes only add, and names agree with the engine's own tables."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from engine.schema import FIELDS, KINDS, OUTCOMES, STAGES
from engine.service import convert
from engine.service._generated.arbiter.v1 import decision_pb2, event_pb2, policy_pb2
from engine.service.convert.places import choice_of, places
from engine.values import Action, Tier

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "protos"))  # the generator is a script beside the protos, not part of the package

import compatibility  # noqa: E402
import generate  # noqa: E402


def _stored() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(generate.STORED_DESCRIPTORS.read_bytes())


@pytest.fixture(scope="module", name="regenerated")
def _regenerated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileDescriptorSet]:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the development set: make setup")
    target = tmp_path_factory.mktemp("generated") / "_generated"
    return target, generate.generate(target)


def _files_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_committed_code_is_what_the_generator_makes(regenerated):
    """Generating into an empty folder gives the committed files, byte for byte."""
    assert _files_below(regenerated[0]) == _files_below(generate.GENERATED)


def test_protos_only_add_to_what_callers_rely_on(regenerated):
    """No message, field, enum value or method of the stored descriptor set is gone or changed."""
    assert compatibility.breaking_changes(_stored(), regenerated[1]) == []


def test_generated_code_needs_no_path_of_its_own():
    """With warnings as errors, importing the generated code puts no top-level package `arbiter` on the path."""
    script = (
        "import sys; from engine.service._generated.arbiter.v1 import decision_pb2_grpc, segment_pb2; "
        "sys.exit('arbiter' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True)


def _message(files: FileDescriptorSet, name: str):
    return next(m for file in files.file for m in file.message_type if m.name == name)


def _enum(files: FileDescriptorSet, name: str):
    return next(e for file in files.file for e in file.enum_type if e.name == name)


def _method(files: FileDescriptorSet, name: str):
    return next(m for file in files.file for s in file.service for m in s.method if m.name == name)


_REPEATED = FieldDescriptorProto.LABEL_REPEATED
BREAKING = {
    "a field is removed": lambda f: _message(f, "Money").field.pop(),
    "a field is renumbered": lambda f: setattr(_message(f, "Money").field[1], "number", 7),
    "a field is renamed": lambda f: setattr(_message(f, "Money").field[1], "name", "iso"),
    "a field is retyped": lambda f: setattr(_message(f, "Money").field[0], "type", FieldDescriptorProto.TYPE_INT32),
    "a field loses its presence": lambda f: setattr(_message(f, "Money").field[0], "proto3_optional", False),
    "a field is repeated": lambda f: setattr(_message(f, "Money").field[1], "label", _REPEATED),
    "a field leaves its oneof": lambda f: _message(f, "Parameter").field[0].ClearField("oneof_index"),
    "a field speaks of another message": lambda f: setattr(_message(f, "Payment").field[3], "type_name", ".x.Y"),
    "a message is renamed": lambda f: setattr(_message(f, "Money"), "name", "Amount"),
    "an enum value is removed": lambda f: _enum(f, "Tier").value.pop(),
    "an enum value is renumbered": lambda f: setattr(_enum(f, "Tier").value[3], "number", 9),
    "a method is renamed": lambda f: setattr(_method(f, "Decide"), "name", "Judge"),
    "a method streams": lambda f: setattr(_method(f, "Decide"), "server_streaming", True),
    "a method answers otherwise": lambda f: setattr(_method(f, "Decide"), "output_type", ".arbiter.v1.Assessment"),
}


@pytest.mark.parametrize("change", BREAKING)
def test_breaking_change_is_named(change):
    """Each kind of change that a caller would feel is found."""
    changed = _stored()
    BREAKING[change](changed)
    assert compatibility.breaking_changes(_stored(), changed)


def test_additions_break_nobody():
    """New fields, values, messages, methods and files may come."""
    changed = _stored()
    _message(changed, "Money").field.add(name="note", number=9, type=FieldDescriptorProto.TYPE_STRING)
    _enum(changed, "Tier").value.add(name="TIER_EXTREME", number=4)
    changed.file.add(name="arbiter/v1/new.proto", package="arbiter.v1").message_type.add(name="New")
    service = next(file.service[0] for file in changed.file if file.service)
    service.method.add(name="Foresee", input_type=".arbiter.v1.Money", output_type=".arbiter.v1.Money")
    assert compatibility.breaking_changes(_stored(), changed) == []


def test_update_refuses_a_breaking_change_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """`--update` names what would break, exits with 1, and leaves descriptors and generated code as they are."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the development set: make setup")
    before = _stored()
    _message(before, "Money").field.add(name="promised", number=9, type=FieldDescriptorProto.TYPE_STRING)
    file = tmp_path / "descriptor_set.binpb"
    file.write_bytes(before.SerializeToString())
    monkeypatch.setattr(generate, "STORED_DESCRIPTORS", file)
    monkeypatch.setattr(generate, "GENERATED", tmp_path / "_generated")
    assert generate.main(["--update"]) == 1
    assert "arbiter.v1.Money.promised was removed" in capsys.readouterr().err
    assert file.read_bytes() == before.SerializeToString()
    assert not (tmp_path / "_generated").exists()


def test_update_stores_an_addition(tmp_path, monkeypatch):
    """`--update` takes additions in: afterwards the stored set is the protos'."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the development set: make setup")
    file = tmp_path / "descriptor_set.binpb"
    before = _stored()
    _message(before, "Money").field.pop()
    file.write_bytes(before.SerializeToString())
    monkeypatch.setattr(generate, "STORED_DESCRIPTORS", file)
    monkeypatch.setattr(generate, "GENERATED", tmp_path / "_generated")
    assert generate.main(["--update"]) == 0
    assert compatibility.breaking_changes(_stored(), FileDescriptorSet.FromString(file.read_bytes())) == []
    assert (tmp_path / "_generated" / "arbiter" / "v1" / "decision_pb2.py").exists()


def test_unknown_argument_shows_the_usage(capsys):
    """Any other argument is refused with the usage and exit code 2."""
    assert generate.main(["--force"]) == 2
    assert "--update" in capsys.readouterr().err


def test_every_enum_starts_unspecified():
    """The zero of each enum is *_UNSPECIFIED, so that nothing is said by accident."""
    enums = [e for file in _stored().file for e in file.enum_type]
    assert len(enums) >= 10
    assert [e.name for e in enums if e.value[0].number or not e.value[0].name.endswith("_UNSPECIFIED")] == []


def _words(enum_class) -> tuple[str, ...]:
    return tuple(choice_of(enum_class.DESCRIPTOR).numbers)


def test_kinds_outcomes_and_stages_are_the_schemas():
    """The detail oneof has one member for each kind of event, and the enums the schema's words in its order."""
    details = event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields
    assert [field.name for field in details] == [f"{kind}_detail" for kind in KINDS]
    assert len({field.message_type.full_name for field in details}) == len(KINDS)
    assert _words(decision_pb2.OutcomeKind) == OUTCOMES
    assert _words(decision_pb2.Stage) == STAGES


def test_tiers_and_actions_have_the_engines_numbers():
    """A tier or action is the same number on the wire and in the engine."""
    assert {w.upper(): n for w, n in choice_of(policy_pb2.Tier.DESCRIPTOR).numbers.items()} == {
        t.name: int(t) for t in Tier if t
    }
    assert {w.upper(): n for w, n in choice_of(policy_pb2.Action.DESCRIPTOR).numbers.items()} == {
        a.name: int(a) for a in Action if a
    }


def _field_at(path: str):
    descriptor, field = event_pb2.Event.DESCRIPTOR, None
    for step in path.split("."):
        field = descriptor.fields_by_name[step]
        descriptor = field.message_type
    return field


@pytest.mark.parametrize("kind", KINDS)
def test_each_schema_field_has_one_place_of_its_type_in_each_kind(kind):
    """In every kind of event each plain schema field sits in a message field of its type, alone there."""
    taken = places(kind)
    assert len(set(taken.values())) == len(taken)
    wire = {
        FieldDescriptorProto.TYPE_STRING: "string", FieldDescriptorProto.TYPE_DOUBLE: "double",
        FieldDescriptorProto.TYPE_INT64: "int", FieldDescriptorProto.TYPE_INT32: "int",
        FieldDescriptorProto.TYPE_BOOL: "bool", FieldDescriptorProto.TYPE_MESSAGE: "timestamp",
    }  # fmt: skip
    for name, path in taken.items():
        field, wanted = _field_at(path), FIELDS[name]
        if wanted.choices:
            assert tuple(choice_of(field.enum_type).numbers) == wanted.choices, name
        else:
            assert wire[field.type] == wanted.type, name
        assert field.has_presence == (wanted.type != "string" or bool(wanted.choices)), name


def test_methods_are_listed_with_their_classes():
    """A server can be wired by name without knowing the protobuf classes."""
    assert convert.SERVICE == "arbiter.v1.DecisionService"
    assert convert.METHODS["Decide"] == (decision_pb2.DecideRequest, decision_pb2.Decision)
    assert set(convert.METHODS) == {"Decide", "Record", "RecordOutcome", "AssessUser", "GetDecision", "Explain"}
