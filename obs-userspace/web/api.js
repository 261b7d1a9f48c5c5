// Asking the agent.

const TOKEN = "obs-token";

/** What the agent said instead of an answer. */
export class Refused extends Error {
  constructor(status, what, why, hint) {
    super([what, why].filter(Boolean).join(": "));
    this.status = status;
    this.hint = hint;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function ask(path, parameters, signal) {
  const query = new URLSearchParams(parameters);
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const text = query.toString();
  let response;
  try {
    response = await fetch(text ? `${path}?${text}` : path, { headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the agent does not answer", "", "is it running?");
  }
  if (response.ok || (response.status === 503 && path === "/health/detailed")) return response;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // An answer without words.
  }
  throw new Refused(response.status, told.what ?? `status ${response.status}`, told.why ?? "", told.hint ?? "");
}

export async function json(path, parameters = [], signal = undefined) {
  return (await ask(path, parameters, signal)).json();
}

/** Fetches a file and hands it to the browser to save. */
export async function save(path, parameters) {
  const response = await ask(path, parameters);
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "obs-profile";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
