#!/usr/bin/python3
"""The rules (rules.txt) for every filter: as a table, as Lua, as JavaScript.

rules.py table RULES OUT     the table of rules_match.h, which the C module, the BPF program and the wasm module walk
rules.py lua RULES OUT       the same rules as regular expressions, a Lua module
rules.py js RULES OUT        the same, a JavaScript module
rules.py names RULES         number and name of each rule
rules.py check RULES REQUESTS   table and regular expressions agree with each other and with the requests' expectations

The table is the deterministic automaton of all rules at once: one step per byte whatever the number of rules.
"""
import re
import struct
import sys
from urllib.parse import unquote_to_bytes

BLANKS = b" \t\r\n\v\f+"
# As in rules_match.h.
STATES_END = 65536
RULES_MAX = 62
HEX = "0123456789abcdef"
MAGIC = 0x31307766


class Rule:
    def __init__(self, kind, name, text):
        self.kind, self.name, self.text = kind, name, text

    def tokens(self):
        """(bytes that fit, at least, at most or None) for each character."""
        for char in self.text:
            if char == " ":
                yield BLANKS, 1, None
            elif char == "~":
                yield BLANKS, 0, None
            else:
                yield bytes(sorted({ord(char.lower()), ord(char.upper())})), 1, 1

    def expression(self):
        """For Lua, JavaScript and Python alike; case is left to the caller."""
        blank = r"[ \t\r\n\v\f+]"
        out = "^" if self.kind == "prefix" else ""
        for char in self.text:
            out += {" ": blank + "+", "~": blank + "*"}.get(char, re.sub(r"([.^$*+?()\[\]{}|\\/])", r"\\\1", char))
        return out


def read_rules(path):
    rules = []
    with open(path, encoding="ascii") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = line.split(None, 2)
            where = f"{path}:{number}"
            if len(fields) != 3 or fields[0] not in ("prefix", "sql", "xss"):
                sys.exit(f"{where}: not KIND NAME TEXT with KIND one of prefix, sql, xss: {line}")
            if not re.fullmatch(r"[a-z0-9-]{1,31}", fields[1]) or fields[1] in [rule.name for rule in rules]:
                sys.exit(f"{where}: {fields[1]}: a name is 1 to 31 of a-z, 0-9, - and stands once")
            if fields[2].strip("~ ") == "":
                sys.exit(f"{where}: {fields[1]}: fits everything")
            rules.append(Rule(*fields))
    if len(rules) > RULES_MAX:
        sys.exit(f"{path}: {len(rules)} rules, at most {RULES_MAX}")
    return rules


class Automaton:
    """All rules as one minimal deterministic automaton over raw bytes.

    First the subset construction over decoded bytes, then the product with the decoder of %XX escapes (what turns out to be
    none is dropped: decoders differ there, and "%%3c" must not hide a "<"), then the smallest equivalent.
    """

    def __init__(self, rules):
        self.patterns = [list(rule.tokens()) for rule in rules]
        self.anywhere = self.closed({(i, 0) for i, rule in enumerate(rules) if rule.kind != "prefix"})
        path_start = self.closed(self.anywhere | {(i, 0) for i in range(len(rules))})
        self.classes, self.members = self.byte_classes()
        self.steps = {}
        # Raw states by number: (positions, or the rule that has fitted; None, '%', or the first digit of an escape).
        states = [(path_start, None), (self.anywhere, None)]
        numbers = {state: number for number, state in enumerate(states)}
        following = []
        while len(following) < len(states):
            row = []
            for byte in self.members:
                target = self.raw_step(states[len(following)], byte)
                if target not in numbers:
                    numbers[target] = len(states)
                    states.append(target)
                row.append(numbers[target])
            following.append(row)
        group = self.minimise([self.fitted(state) for state in states], following)
        # Rows in the order in which walks meet them: what is used together lies together.
        first = {}
        for number in range(len(states)):
            first.setdefault(group[number], number)
        place = {number: row for row, number in enumerate(first.values())}
        self.verdicts = [self.fitted(states[number]) for number in place]
        self.rows = [[place[first[group[target]]] for target in following[number]] for number in place]
        self.start_path, self.start_args = (place[first[group[start]]] for start in (0, 1))
        # Entries per row, the verdict included; rows begin at even entries.
        self.stride = (len(self.members) + 2) // 2 * 2
        if self.stride > 128 or len(self.rows) * self.stride > 2 * STATES_END:
            sys.exit(f"{len(self.rows)} states of {self.stride} entries, too many: fewer or shorter rules")

    def byte_classes(self):
        """Bytes that no rule and no escape tells apart are one class."""
        sets = sorted({token[0] for pattern in self.patterns for token in pattern})
        signatures, classes, members = {}, [], []
        for byte in range(256):
            digit = HEX.find(chr(byte).lower()) if byte < 128 else -1
            signature = (byte == ord("%"), digit, tuple(byte in one for one in sets))
            if signature not in signatures:
                signatures[signature] = len(signatures)
                members.append(byte)
            classes.append(signatures[signature])
        return classes, members

    def closed(self, positions):
        """With the positions reached by passing over tokens that may be absent."""
        out = set()
        todo = list(positions)
        while todo:
            i, at = todo.pop()
            if (i, at) in out:
                continue
            out.add((i, at))
            if at < len(self.patterns[i]) and self.patterns[i][at][1] == 0:
                todo.append((i, at + 1))
        return frozenset(out)

    def fitted(self, state):
        """The rule that has fitted, from 1; 0: none."""
        return state[0] if isinstance(state[0], int) else 0

    def step(self, positions, byte):
        if (positions, byte) not in self.steps:
            moved = set(self.anywhere)
            for i, at in positions:
                fits, _, most = self.patterns[i][at]
                if byte in fits:
                    moved.add((i, at + 1))
                    if most is None:
                        # One blank seen: any number of further ones is as good as none.
                        moved.add((i, at))
            moved = self.closed(moved)
            complete = [i for i, at in moved if at == len(self.patterns[i])]
            self.steps[positions, byte] = min(complete) + 1 if complete else moved
        return self.steps[positions, byte]

    def raw_step(self, state, byte):
        positions, escape = state
        if isinstance(positions, int):
            return positions, None
        digit = HEX.find(chr(byte).lower()) if byte < 128 else -1
        if byte == ord("%"):
            return positions, "%"
        if escape == "%" and digit >= 0:
            return positions, digit
        if isinstance(escape, int) and digit >= 0:
            byte = self.members[self.classes[escape << 4 | digit]]
        return self.step(positions, byte), None

    @staticmethod
    def minimise(group, following):
        """The group of each state: two states are one when no text tells them apart."""
        count = len(set(group))
        while True:
            seen = {}
            group = [seen.setdefault((group[state], *[group[target] for target in targets]), len(seen))
                     for state, targets in enumerate(following)]
            if len(seen) == count:
                return group
            count = len(seen)

    def table(self):
        """struct fw_table."""
        rows = b"".join(struct.pack(f"<{self.stride}H", verdict, *(target * self.stride // 2 for target in row),
                                    *[0] * (self.stride - 1 - len(row)))
                        for verdict, row in zip(self.verdicts, self.rows))
        return (struct.pack("<IIHHI", MAGIC, len(self.patterns), self.start_path * self.stride // 2,
                            self.start_args * self.stride // 2, 0) +
                bytes(2 + 2 * index for index in self.classes) + rows.ljust(STATES_END * 4 + 256, b"\0"))

    def walk(self, state, text):
        for byte in text:
            state = self.rows[state][self.classes[byte]]
        return self.verdicts[state]

    def verdict(self, path, args):
        return self.walk(self.start_path, path) or self.walk(self.start_args, args)


def lua_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_lua(rules, file):
    alternatives = lambda chosen: "|".join(f"(?:{rule.expression()})" for rule in chosen)
    anywhere = [rule for rule in rules if rule.kind != "prefix"]
    file.write("-- Made by rules.py.\nreturn {\n")
    file.write(f"  path = {lua_string(alternatives(rules))},\n  args = {lua_string(alternatives(anywhere))},\n  rules = {{\n")
    for rule in rules:
        file.write(f"    {{name = {lua_string(rule.name)}, expression = {lua_string(rule.expression())}}},\n")
    file.write("  },\n}\n")


def write_js(rules, file):
    alternatives = lambda chosen: "|".join(f"(?:{rule.expression()})" for rule in chosen)
    anywhere = [rule for rule in rules if rule.kind != "prefix"]
    file.write("// Made by rules.py.\nexport default {\n")
    file.write(f"  path: /{alternatives(rules)}/i,\n  args: /{alternatives(anywhere)}/i,\n}};\n")


def read_requests(path):
    """(status, rule or None, target) of each line."""
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                status, rule, target = line.split(None, 2)
                yield int(status), None if rule == "-" else rule, target.strip()


def as_nginx_sees(target):
    """Decoded and normalised path, raw arguments."""
    path, _, args = target.partition("?")
    parts = []
    for part in re.sub(rb"/+", b"/", unquote_to_bytes(path)).split(b"/")[1:]:
        if part == b"..":
            parts.pop()
        elif part != b".":
            parts.append(part)
    return b"/" + b"/".join(parts), args.encode()


def check(rules, requests):
    automaton = Automaton(rules)
    wrong = 0
    for status, name, target in requests:
        path, args = as_nginx_sees(target)
        number = automaton.verdict(path, args)
        by_table = rules[number - 1].name if number else None
        path, args = unquote_to_bytes(path), unquote_to_bytes(args)
        by_expression = [rule.name for rule in rules
                         if re.search(rule.expression().encode(), path, re.IGNORECASE) or
                         (rule.kind != "prefix" and re.search(rule.expression().encode(), args, re.IGNORECASE))]
        expected = [name] if name else []
        if by_table != name or by_expression != expected or (status == 403) != (name is not None):
            print(f"{target}: expected {status} {name}, table {by_table}, expressions {by_expression}", file=sys.stderr)
            wrong += 1
    print(f"{len(rules)} rules, {len(automaton.rows)} states of {automaton.stride} entries, {len(requests)} requests, {wrong} wrong")
    return 1 if wrong else 0


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    verb, rules = arguments[0], read_rules(arguments[1])
    if verb == "names":
        for number, rule in enumerate(rules, 1):
            print(number, rule.name)
    elif verb == "check" and len(arguments) == 3:
        return check(rules, list(read_requests(arguments[2])))
    elif verb == "table" and len(arguments) == 3:
        table = Automaton(rules).table()
        with open(arguments[2], "wb") as file:
            file.write(table)
    elif verb in ("lua", "js") and len(arguments) == 3:
        with open(arguments[2], "w", encoding="ascii") as file:
            (write_lua if verb == "lua" else write_js)(rules, file)
    else:
        sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
