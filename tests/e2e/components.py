"""Components made by the tests from the committed ones, without any toolchain: a component is a list of sections, and a
section more changes what the file is without changing what it does (component-model Binary.md)."""

from harness import HELLO, LAB  # noqa: F401 (for tests)


def leb(value):
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def section(kind, content):
    return bytes([kind]) + leb(len(content)) + content


def saying(text):
    """A component whose answer is `text`: hello.wasm with another greeting of the same length (13 bytes)."""
    new = text.encode()
    assert len(new) == 13, text
    wasm = HELLO.read_bytes()
    assert wasm.count(b"Hello, World!") == 1
    return wasm.replace(b"Hello, World!", new)


def tagged(wasm, tag):
    """The same component as another file: with a custom section."""
    name = b"tag"
    return wasm + section(0, leb(len(name)) + name + tag.encode())


def heavy(wasm, functions=20000):
    """The same component with a core module that nobody runs and that takes long to compile."""
    code = bytearray()
    for i in range(functions):
        # (param i32) (result i32): a chain of arithmetic that depends on i
        body = bytearray(b"\x00\x20\x00")
        for k in range(24):
            body += b"\x41" + leb((i * 31 + k) & 0x3F) + bytes([(0x6A, 0x6B, 0x6C, 0x73)[k % 4]])
        body += b"\x0b"
        code += leb(len(body)) + body
    core = b"\x00asm\x01\x00\x00\x00"
    core += section(1, b"\x01\x60\x01\x7f\x01\x7f")
    core += section(3, leb(functions) + b"\x00" * functions)
    core += section(10, leb(functions) + bytes(code))
    return wasm + section(1, core)
