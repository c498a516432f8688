// Asking the server, and telling it what to do. What it refuses is said where events are said.

import { tell } from "./news.js";

async function request(path, options) {
  try {
    const answer = await fetch(path, options);
    if (answer.ok) return answer;
    tell(`Not done: ${(await answer.json()).message}`);
  } catch {
    tell("Not done: the cluster does not answer.");
  }
  return null;
}

/** Have something done. */
export const act = (path, body) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** What the server says, or null. */
export async function ask(path) {
  const answer = await request(path, {});
  return answer && answer.json();
}
