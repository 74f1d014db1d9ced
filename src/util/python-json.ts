/** A number that Python holds as a float: written 0.0 where an int would be 0. */
export class PythonFloat {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/**
 * `json.dumps(value, indent=2, sort_keys=True)` of Python, byte for byte: sorted keys, ASCII only, empty containers on one
 * line, floats as `repr` gives them. Integral numbers are written as ints unless wrapped in `PythonFloat`.
 */
export function pythonJson(value: unknown): string {
  return encode(value, "\n");
}

function encode(value: unknown, newline: string): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return encodeString(value);
  if (typeof value === "number") return Number.isInteger(value) ? encodeInteger(value) : pythonFloat(value);
  if (value instanceof PythonFloat) return pythonFloat(value.value);
  const inner = `${newline}  `;
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    return `[${inner}${value.map((item) => encode(item, inner)).join(`,${inner}`)}${newline}]`;
  }
  if (typeof value !== "object") throw new TypeError(`JSON cannot hold ${typeof value}`);
  const entries = Object.entries(value).sort(([a], [b]) => compareCodePoints(a, b));
  if (entries.length === 0) return "{}";
  const lines = entries.map(([key, item]) => `${encodeString(key)}: ${encode(item, inner)}`);
  return `{${inner}${lines.join(`,${inner}`)}${newline}}`;
}

function encodeString(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function encodeInteger(value: number): string {
  return BigInt(value).toString();
}

/** repr(float): the shortest digits that read back the same; an exponent below 1e-4 and from 1e16 on. */
export function pythonFloat(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [mantissa, power] = value.toExponential().split("e") as [string, string];
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const sign = value < 0 ? "-" : "";
  const digits = mantissa.replace(/[-.]/g, "");
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/** Python sorts text by code point, JavaScript by UTF-16 unit. */
export function compareCodePoints(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
