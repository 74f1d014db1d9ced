import { nearest } from "../../util/nearest.ts";
import { CliCommand } from "../command.ts";
import { SilentExit, UsageError } from "../exit.ts";
import { print } from "../terminal.ts";
import { CHECKS, type CheckName, type DoctorReport, examine } from "./report.ts";

/** `unsloth doctor`, and `unsloth` alone: is the installation complete, and what can it do here? */
export function doctorCommand(version: string): CliCommand {
  return new CliCommand("doctor")
    .description("check the installation: kernels, 4-bit, memory, GPU (also what `unsloth` alone does)")
    .option("--json", "the report as JSON")
    .option("--require <a,b,…>", `exit with 1 unless all of these work: ${CHECKS.join(", ")}`)
    .addHelpText("after", "\nExamples:\n  unsloth\n  unsloth doctor --json\n  unsloth doctor --require native,qlora")
    .allowExcessArguments(true)
    .action(async (flags: { json?: boolean; require?: string }, command: CliCommand) => {
      // As the default command it is also given what is no command at all.
      const [unknown] = command.args;
      if (unknown !== undefined) throw unknownCommand(unknown, command);
      const wanted = requirements(flags.require);
      const report = await examine(version);
      const failed = wanted.filter((name) => !report.checks.find((check) => check.name === name)!.ok);
      if (flags.json) print(JSON.stringify({ ...report, required: wanted, failed }, null, 2));
      else for (const line of reportLines(report, failed)) print(line);
      if (!report.ok || failed.length > 0) throw new SilentExit(1);
    }) as CliCommand;
}

function unknownCommand(name: string, command: CliCommand): UsageError {
  const known = command.parent?.commands.map((other) => other.name()) ?? [];
  const close = nearest(name, known);
  return new UsageError(
    `unknown command "${name}"${close ? `; did you mean "${close}"?` : ""} (there are ${known.join(", ")})`,
  );
}

function requirements(list: string | undefined): CheckName[] {
  const names = (list ?? "").split(",").map((name) => name.trim());
  return names
    .filter((name) => name !== "")
    .map((name) => {
      const known = CHECKS.find((check) => check === name);
      if (known) return known;
      const close = nearest(name, CHECKS);
      const hint = close ? `; did you mean "${close}"?` : "";
      throw new UsageError(`--require: there is no check "${name}"${hint} (there are ${CHECKS.join(", ")})`);
    });
}

/** The report for people. */
export function reportLines(report: DoctorReport, failed: readonly CheckName[]): string[] {
  const lines = [
    report.ok ? "Unsloth successfully installed!" : "❌ Unsloth is installed, but cannot train here",
    `unsloth ${report.unsloth}, Node.js ${report.node}, ${report.platform}`,
    "",
  ];
  for (const check of report.checks) {
    lines.push(`${check.ok ? "✅" : "❌"} ${check.text}`, ...(check.details ?? []).map((detail) => `     ${detail}`));
    // What broke everything is said once.
    if (check.reason && !lines.includes(`     reason: ${check.reason}`)) {
      lines.push(`     reason: ${check.reason}`, `     remedy: ${check.remedy}`);
    }
  }
  if (failed.length > 0) lines.push("", `❌ required, but not working: ${failed.join(", ")}`);
  return lines;
}
