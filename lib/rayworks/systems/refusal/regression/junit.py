"""The gate's report as JUnit XML, which CI systems show."""

import re
from xml.etree import ElementTree

from rayworks.systems.refusal.regression.gate import Check, GateReport

_SUITE = "refusal-regression"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no place for, not even escaped."""


def as_junit(report: GateReport, seconds: float) -> bytes:
    """One test case per check: a regression is a failure, what makes the run invalid an error."""
    statuses = [check.status for check in report.checks]
    counts = {
        "tests": len(statuses),
        "failures": statuses.count("failed"),
        "errors": statuses.count("invalid"),
        "skipped": 0,
    }
    attributes = {"name": _SUITE, **{name: str(count) for name, count in counts.items()}, "time": f"{seconds:.3f}"}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for check in report.checks:
        _add(suite, check)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def failed_to_run(message: str) -> bytes:
    """A file of one error, for a gate that could not run."""
    return as_junit(GateReport((Check("the gate runs", "invalid", message, {}),), {}, []), 0.0)


def _add(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_SUITE, name=_clean(check.name), time="0.000")
    if check.status != "passed":
        tag = "failure" if check.status == "failed" else "error"
        ElementTree.SubElement(case, tag, message=_clean(check.message), type=check.status)
    output = "\n".join([check.message, *(f"{name} {value}" for name, value in check.numbers.items())])
    ElementTree.SubElement(case, "system-out").text = _clean(output)


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
