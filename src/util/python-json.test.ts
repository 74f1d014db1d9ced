import assert from "node:assert/strict";
import { test } from "node:test";
import { PythonFloat, pythonFloat, pythonJson } from "./python-json.ts";

test("floats are written as Python's repr writes them", () => {
  // Pairs from CPython 3.11.
  const cases: [number, string][] = [
    [0, "0.0"],
    [-0, "-0.0"],
    [1, "1.0"],
    [-2.5, "-2.5"],
    [0.05, "0.05"],
    [0.1 + 0.2, "0.30000000000000004"],
    [1e-4, "0.0001"],
    [1.25e-4, "0.000125"],
    [1e-5, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [-3e-300, "-3e-300"],
    [123456.75, "123456.75"],
    [1e15, "1000000000000000.0"],
    [1e16, "1e+16"],
    [1.234e22, "1.234e+22"],
    [1.7976931348623157e308, "1.7976931348623157e+308"],
    [5e-324, "5e-324"],
  ];
  for (const [value, text] of cases) assert.equal(pythonFloat(value), text);
});

test("layout is json.dumps(indent=2, sort_keys=True)", () => {
  const value = {
    b: [1, "x", null, true],
    a: { z: {}, y: [] },
    lora_dropout: new PythonFloat(0),
    alpha: 0.5,
    "é\u{1f600}\u007f": 'quote " and \\ and \n',
    "\uffff": 1,
    "\u{10000}": 2,
  };
  // Printed by CPython 3.11 for the same dict.
  const expected = `{
  "a": {
    "y": [],
    "z": {}
  },
  "alpha": 0.5,
  "b": [
    1,
    "x",
    null,
    true
  ],
  "lora_dropout": 0.0,
  "\\u00e9\\ud83d\\ude00\\u007f": "quote \\" and \\\\ and \\n",
  "\\uffff": 1,
  "\\ud800\\udc00": 2
}`;
  assert.equal(pythonJson(value), expected);
});
