import { ConfigError } from "../../models/config.ts";
import { UsageError } from "../exit.ts";
import type { Given } from "./train-settings.ts";

/**
 * The same error; one about a setting that the model does not allow gets the place where that was given: "config.yaml:3:
 * offload_embedding", or its flag.
 */
export function placed(error: unknown, whereOf: (name: string) => string | undefined): unknown {
  if (!(error instanceof ConfigError)) return error;
  const [start, name] = /^(\w+):? /.exec(error.message) ?? [];
  const where = name === undefined ? undefined : whereOf(name);
  if (where === undefined) return error;
  const rest = start!.includes(":") ? error.message.slice(start!.length) : error.message;
  return new UsageError(`${where}: ${rest}`, { cause: error });
}

/** What `work` gives; its errors about settings say where these were given. */
export async function withPlaces<T>(given: Given, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw placed(error, (name) => given.get(name)?.where);
  }
}
