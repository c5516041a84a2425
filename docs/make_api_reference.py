#!/usr/bin/python3
"""Writes docs/api.md, the reference of the RPCs, from the comments in the protos.

    docs/make_api_reference.py            writes it
    docs/make_api_reference.py --check    fails if it is not what would be written
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, Union

from google.protobuf import descriptor_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
# In the order of the page.
PROTOS = [
    "normd/v1/normalization_service.proto", "normd/v1/layer_service.proto", "normd/v1/snapshot_service.proto",
    "normd/v1/shared_memory_service.proto", "normd/v1/admin_service.proto", "normd/v1/tensor.proto",
    "normd/v1/resources.proto", "normd/v1/error_details.proto", "inference/open_inference_service.proto",
    "grpc/health/v1/health.proto",
]
HEAD = """# API reference

Every RPC and message, from the comments in [the protos](../proto), which are the contract: any gRPC client in any language works.
How calls are repeated, what versions are and what survives a restart stands in [concepts](concepts.md) and [state](state.md); the
mathematics in [batch_norm](batch_norm.md).

<!-- Made by docs/make_api_reference.py; tests/lint.sh checks that it is up to date. -->
"""
Type = pb.FieldDescriptorProto
SCALARS = {getattr(Type, name): name[5:].lower() for name in Type.DESCRIPTOR.enum_types_by_name["Type"].values_by_name}
Described = Union[pb.DescriptorProto, pb.EnumDescriptorProto]


class File:
    """A proto and its comments by the path of what they are of, in the numbers of FileDescriptorProto."""

    def __init__(self, proto: pb.FileDescriptorProto) -> None:
        self.proto = proto
        self._comments = {
            tuple(location.path): (location.leading_comments or location.trailing_comments)
            for location in proto.source_code_info.location
        }

    def comment(self, *path: int) -> str:
        """As Markdown: what is set in is a list or code already, and what could be taken for HTML is not."""
        lines = [line[1:] if line.startswith(" ") else line for line in self._comments.get(path, "").splitlines()]
        return re.sub(r"<(?=[A-Za-z/])", "&lt;", "\n".join(lines).strip())


def read_files() -> list[File]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "protos"
        subprocess.run(["protoc", "-I", "proto", "--include_source_info", f"--descriptor_set_out={out}", *PROTOS], check=True,
                       cwd=ROOT)
        found = {file.name: File(file) for file in pb.FileDescriptorSet.FromString(out.read_bytes()).file}
    return [found[name] for name in PROTOS]


def anchor(name: str) -> str:
    """Of a message or an enum, by its full name without a leading dot."""
    return name.replace(".", "-").lower()


def link(type_name: str, known: set[str]) -> str:
    name = type_name.lstrip(".")
    # Short within the page: packages stand in the headings.
    short = re.sub(r"^(normd\.v1|inference|grpc\.health\.v1)\.", "", name)
    return f"[{short}](#{anchor(name)})" if name in known else f"`{short}`"


def cell(text: str) -> str:
    """Text for one line of a table; paragraphs and the entries of a list begin on lines of their own."""
    return "<br>".join(" ".join(part.split()) for part in re.split(r"\n(?=- )|\n\n", text)).replace("|", "\\|")


def nested(file: File) -> Iterator[tuple[str, tuple[int, ...], Described]]:
    """All messages and enums: full name, path, and what they are."""

    def walk(prefix: str, path: tuple[int, ...], message: pb.DescriptorProto) -> Iterator[tuple[str, tuple[int, ...], Described]]:
        if message.options.map_entry:
            return
        name = f"{prefix}.{message.name}"
        yield name, path, message
        for number, enum in enumerate(message.enum_type):
            yield f"{name}.{enum.name}", (*path, 4, number), enum
        for number, inner in enumerate(message.nested_type):
            yield from walk(name, (*path, 3, number), inner)

    for number, enum in enumerate(file.proto.enum_type):
        yield f"{file.proto.package}.{enum.name}", (5, number), enum
    for number, message in enumerate(file.proto.message_type):
        yield from walk(file.proto.package, (4, number), message)


def field_type(field: pb.FieldDescriptorProto, maps: dict[str, pb.DescriptorProto], known: set[str]) -> str:
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map&lt;{field_type(key, maps, known)}, {field_type(value, maps, known)}>"
    name = link(field.type_name, known) if field.type_name else SCALARS[field.type]
    if field.label == Type.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def write_message(file: File, name: str, path: tuple[int, ...], message: pb.DescriptorProto, known: set[str]) -> list[str]:
    lines: list[str] = []
    maps = {f".{name}.{inner.name}": inner for inner in message.nested_type if inner.options.map_entry}
    if not message.field:
        return [*lines, "No fields.", ""]
    lines += ["| field | number | type | |", "|---|---|---|---|"]
    for number, field in enumerate(message.field):
        text = cell(file.comment(*path, 2, number))
        if field.HasField("oneof_index") and not field.proto3_optional:
            text = f"One of `{message.oneof_decl[field.oneof_index].name}`. {text}".strip()
        lines.append(f"| `{field.name}` | {field.number} | {field_type(field, maps, known)} | {text} |")
    for number, oneof in enumerate(message.oneof_decl):
        members = [f"`{field.name}`" for field in message.field
                   if field.HasField("oneof_index") and field.oneof_index == number and not field.proto3_optional]
        if members:
            lines += ["", f"`{oneof.name}` is one of {', '.join(members)}. {file.comment(*path, 8, number)}"]
    return [*lines, ""]


def write_enum(file: File, path: tuple[int, ...], enum: pb.EnumDescriptorProto) -> list[str]:
    lines = ["| value | number | |", "|---|---|---|"]
    for number, value in enumerate(enum.value):
        lines.append(f"| `{value.name}` | {value.number} | {cell(file.comment(*path, 2, number))} |")
    return [*lines, ""]


def write_service(file: File, number: int, service: pb.ServiceDescriptorProto, known: set[str]) -> list[str]:
    lines = [f"## {file.proto.package}.{service.name}", "", file.comment(6, number), ""]
    for index, method in enumerate(service.method):
        takes = ("stream of " if method.client_streaming else "") + link(method.input_type, known)
        gives = ("stream of " if method.server_streaming else "") + link(method.output_type, known)
        lines += [f"### {service.name}.{method.name}", "", f"{takes} → {gives}", "", file.comment(6, number, 2, index), ""]
    return lines


def make_page(files: list[File]) -> str:
    known = {name for file in files for name, _, _ in nested(file)}
    lines = [HEAD]
    for file in files:
        for number, service in enumerate(file.proto.service):
            lines += write_service(file, number, service, known)
    for file in files:
        lines += [f"## Messages of {file.proto.name}", ""]
        for name, path, described in nested(file):
            lines += [f'<a id="{anchor(name)}"></a>', "", f"### {name}", "", file.comment(*path), ""]
            if isinstance(described, pb.EnumDescriptorProto):
                lines += write_enum(file, path, described)
            else:
                lines += write_message(file, name, path, described, known)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    page = make_page(read_files())
    if not parser.parse_args().check:
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    print("docs/api.md is not what the protos say: run docs/make_api_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
