import { HubError } from "./errors.ts";
import { type HubResponse, serverTrouble } from "./http.ts";
import { type Repo, repoPath } from "./names.ts";
import type { HubSettings } from "./settings.ts";

export interface Wanted {
  readonly repo: Repo;
  readonly revision: string;
  /** The file asked for; none: the repository itself. */
  readonly file?: string;
}

/** Returns if the status is 2xx or 3xx. Else throws the HubError that says why there is no access and how to get it. */
export async function checkAccess(answer: HubResponse, wanted: Wanted, settings: HubSettings): Promise<void> {
  if (answer.response.status < 400) return;
  await answer.discard();
  throw serverTrouble(answer) ?? refusal(answer, wanted, settings);
}

function refusal({ response, url }: HubResponse, { repo, revision, file }: Wanted, settings: HubSettings): HubError {
  const { status } = response;
  const reason = response.headers.get("x-error-code") ?? "";
  const said = (response.headers.get("x-error-message") ?? "").replace(/[^\x20-\x7e]/g, "?").slice(0, 300);
  const quote = said ? ` The server says: ${said}` : "";
  const page = `${settings.endpoint}/${repoPath(repo)}`;
  const tokens = `${settings.endpoint}/settings/tokens`;
  const fail = (code: HubError["code"], message: string) => new HubError(code, message + quote, { status });

  if (reason === "GatedRepo") {
    return settings.token
      ? fail(
          "gated",
          `${repo.id} is gated, and the account of this token has no access (yet). Ask for it at ${page}; a fine-grained token must also allow reading gated repositories (${tokens})`,
        )
      : fail("gated", `${repo.id} is gated. Ask for access at ${page}, then set HF_TOKEN to a token of ${tokens}`);
  }
  if (reason === "RevisionNotFound") {
    const found = `${repo.id} has no revision "${revision}"`;
    return fail("revision-not-found", `${found}. See ${page}/tree/main for its branches and tags`);
  }
  if (reason === "EntryNotFound" || (status === 404 && file !== undefined && reason !== "RepoNotFound")) {
    return fail("file-not-found", `${repo.id} has no file "${file}" at revision ${revision}. See ${page}/tree/main`);
  }
  if (settings.token && /invalid credentials|expired/i.test(said)) {
    return fail("unauthorized", `the access token is not valid. Set HF_TOKEN to one of ${tokens}, or unset it`);
  }
  if (status === 401 || status === 404) {
    const who = settings.token ? "the account of this token cannot see it" : "no token was given (HF_TOKEN)";
    const message = `${repo.type} ${repo.id} was not found at ${settings.endpoint} (${status}): it does not exist, or is private and ${who}. Check the spelling at ${page}; tokens: ${tokens}`;
    return fail("repo-not-found", message);
  }
  if (status === 403) {
    return fail("unauthorized", `${url}: access refused (403). The token needs the permission to read ${repo.id}`);
  }
  return fail("bad-response", `${url}: found status ${status}; expected 200 from a Hugging Face hub (HF_ENDPOINT)`);
}
