// What is chosen, in full: a Service with its endpoints, rules and YAML; a pod, and what may be done to it.

import { act, ask } from "./actions.js";
import { byId, count, h, offer, say, set } from "./dom.js";
import { carriedBy, cluster, shortName, sorted } from "./model.js";
import { choose, elementOf } from "./stage.js";

const REFRESH_MILLISECONDS = 2000;

const root = byId("detail");
const hint = root.firstElementChild;
let shown = "";
let parts = {};

/** Show a `pod:…` or `service:…`; the same again, or "", closes it. */
export function show(what) {
  const before = shown;
  shown = what === shown ? "" : what;
  choose(shown);
  if (!shown) {
    root.replaceChildren(hint);
    elementOf(before)?.focus();
    return;
  }
  const [kind, key] = split(shown);
  parts = {};
  root.replaceChildren(
    h("div", { class: "title" }, h("h2", { id: "detail-title", tabindex: "-1" }, `${kind === "pod" ? "Pod" : "Service"} ${key}`),
      h("button", { type: "button", onclick: () => show("") }, "Close")),
    ...(kind === "pod" ? podParts(key) : serviceParts()),
  );
  drawDetail();
  refresh();
  byId("detail-title").focus({ preventScroll: matchMedia("(min-width: 64rem)").matches });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && shown) show("");
});
setInterval(() => document.hidden || document.body.dataset.connection === "lost" || refresh(), REFRESH_MILLISECONDS);

const split = (what) => [what.slice(0, what.indexOf(":")), what.slice(what.indexOf(":") + 1)];

/** Draw anew what may have changed of it. */
export function drawDetail() {
  if (!shown) return;
  const [kind, key] = split(shown);
  const item = cluster[`${kind}s`][key];
  if (!item) {
    parts.facts.replaceChildren(h("p", { class: "says" }, "It is gone."));
    for (const button of parts.buttons ?? []) button.disabled = true;
  } else if (kind === "pod") drawPod(key, item);
  else drawService(key, item);
}

function podParts(key) {
  const button = (text, path, body) => h("button", { type: "button", onclick: () => act(`pods/${key}/${path}`, body()) }, text);
  const pod = () => cluster.pods[key];
  parts.facts = h("div");
  parts.buttons = [
    button("Kill its process", "kill", () => ({})),
    button("Not ready", "ready", () => ({ on: pod().isMadeUnready })),
    button("Black hole", "black-hole", () => ({ on: !pod().isBlackHoled })),
  ];
  return [parts.facts, h("div", { class: "actions", role: "group", "aria-label": "Do to this pod" }, ...parts.buttons)];
}

function drawPod(key, pod) {
  const carried = carriedBy(key);
  const uses = sorted(cluster.services).flatMap(([name, service]) => {
    const use = service.endpoints[key];
    return use ? [[name, `${use.state.replace("-", " ")}: ${use.reason}`]] : [];
  });
  facts([["State", pod.says], ["Node", pod.node], ["Addresses", pod.addresses.join(", ")],
    ["Restarts", String(pod.restarts)],
    ["Connections", `${count(carried.opened)} opened, ${count(carried.failed)} failed`],
    ...uses.map(([name, use]) => [`In ${name}`, use])]);
  const [, ready, hole] = parts.buttons;
  set(ready, "aria-pressed", pod.isMadeUnready);
  set(hole, "aria-pressed", pod.isBlackHoled);
}

function facts(pairs) {
  parts.facts.replaceChildren(h("dl", {}, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

function serviceParts() {
  parts.facts = h("div");
  parts.endpoints = h("tbody");
  parts.node = h("select", { onchange: drawRules });
  parts.rules = h("ol", { class: "rules" });
  parts.yaml = h("pre", { tabindex: "0", "aria-label": "YAML" });
  const head = h("tr", {}, ...["Endpoint", "State", "Used by", "Conn.", "Failed"].map((text) => h("th", { scope: "col" }, text)));
  return [parts.facts, h("h3", {}, "Endpoints"), h("table", {}, h("thead", {}, head), parts.endpoints),
    h("h3", {}, "Rules on ", h("label", {}, h("span", { class: "for-readers" }, "node"), parts.node)), parts.rules,
    h("details", {}, h("summary", {}, "YAML"), parts.yaml)];
}

function drawService(key, service) {
  const counters = cluster.counters[key];
  facts([["Type", service.type], ["Addresses", service.addresses.join(", ") || "none"], ["Ports", service.ports.join(", ")],
    ["Counted", `${count(counters.opened)} connections, ${count(counters.active)} open, ${count(counters.retried)} retried, ${count(counters.refused)} refused`],
    ...service.problems.map((problem) => ["Problem", problem])]);
  parts.endpoints.replaceChildren(...sorted(service.endpoints).flatMap(([target, use]) => {
    const [opened, failed] = counters.targets[target] ?? [0, 0];
    const row = h("tr", { class: use.state }, h("th", { scope: "row" }, nameOf(target)),
      h("td", {}, use.state.replace("-", " ")), h("td", {}, `${use.usedBy} of ${use.agents}`), h("td", {}, count(opened)), h("td", {}, count(failed)));
    if (use.state === "used" && use.reason === "ready") return [row];
    return [row, h("tr", { class: `why ${use.state}` }, h("td", { colspan: "5" }, use.reason))];
  }));
  if (!Object.keys(service.endpoints).length)
    parts.endpoints.replaceChildren(h("tr", {}, h("td", { colspan: "5" }, "None: nothing that it selects is there.")));
}

function nameOf(target) {
  const pod = cluster.pods[target];
  const short = pod ? shortName(pod) : target;
  return pod && short !== pod.name ? `${pod.app} ${short}` : short;
}

async function refresh() {
  const [kind, key] = split(shown);
  if (kind !== "service" || !(key in cluster.services)) return;
  const said = await ask(`services/${key}`);
  if (!said || shown !== `service:${key}`) return;
  parts.said = said;
  offer(parts.node, Object.keys(said.nodes));
  drawRules();
  say(parts.yaml, said.yaml);
}

function drawRules() {
  const rules = parts.said?.nodes[parts.node.value]?.rules ?? [];
  parts.rules.replaceChildren(...rules.map((rule) => h("li", {},
    h("code", {}, `-A ${rule.chain} ${rule.rule}`), h("span", {}, `${count(rule.packets)} packets. ${rule.reason}`))));
  if (!rules.length) parts.rules.replaceChildren(h("li", {}, "None here."));
}
