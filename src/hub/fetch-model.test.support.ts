// A process of its own that resolves a model: node fetch-model <endpoint> <cache> <id>. Prints the path, or the error.
import { resolveModel } from "./resolve.ts";

const [endpoint, cacheDir, id] = process.argv.slice(2);
try {
  const path = await resolveModel(id!, { endpoint: endpoint!, cacheDir: cacheDir!, token: null, offline: false });
  process.stdout.write(path);
} catch (error) {
  process.stderr.write(String(error));
  process.exitCode = 1;
}
