const MONTHS = "January February March April May June July August September October November December".split(" ");
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's `datetime.now().strftime(format)` in the C locale: whatever the machine speaks, prompts stay English. */
export function strftimeNow(format: string, now: Date = new Date()): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const dayNumber = (month: number, day: number): number => Date.UTC(now.getFullYear(), month, day) / 86_400_000;
  const values: Record<string, () => string> = {
    Y: () => String(now.getFullYear()),
    y: () => two(now.getFullYear() % 100),
    m: () => two(now.getMonth() + 1),
    d: () => two(now.getDate()),
    e: () => String(now.getDate()).padStart(2, " "),
    B: () => MONTHS[now.getMonth()]!,
    b: () => MONTHS[now.getMonth()]!.slice(0, 3),
    A: () => DAYS[now.getDay()]!,
    a: () => DAYS[now.getDay()]!.slice(0, 3),
    w: () => String(now.getDay()),
    j: () => String(dayNumber(now.getMonth(), now.getDate()) - dayNumber(0, 0)).padStart(3, "0"),
    H: () => two(now.getHours()),
    I: () => two(now.getHours() % 12 || 12),
    p: () => (now.getHours() < 12 ? "AM" : "PM"),
    M: () => two(now.getMinutes()),
    S: () => two(now.getSeconds()),
    F: () => `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`,
    T: () => `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`,
    "%": () => "%",
  };
  // "%-d" drops the padding, as on Linux and macOS.
  return format.replace(/%(-?)([A-Za-z%])/g, (directive, bare: string, letter: string) => {
    const value = Object.hasOwn(values, letter) ? values[letter]!() : undefined;
    if (value === undefined) return directive;
    return bare === "" ? value : value.replace(/^[0 ]+(?=.)/, "");
  });
}
