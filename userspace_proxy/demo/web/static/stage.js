// The picture: Services above, nodes with their pods below. Every part is a button that shows its details.

import { byId, count, h, keep, say, set } from "./dom.js";
import { carriedBy, cluster, rates, shortName, sorted } from "./model.js";
import { drawPlot, plot } from "./plots.js";

let chosen = "";

/** Mark what is shown in the details, `pod:…` or `service:…`. */
export function choose(what) {
  chosen = what;
  draw();
}

export function onChoose(show) {
  byId("stage").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-shows]");
    if (button) show(button.dataset.shows);
  });
}

export const elementOf = (what) => byId("stage").querySelector(`[data-shows="${CSS.escape(what)}"]`);
export const agentOf = (node) => byId("nodes").querySelector(`[data-key="${CSS.escape(node)}"] .agent`);

export function draw() {
  const services = sorted(cluster.services).sort(([, a], [, b]) => a.isSystem - b.isSystem);
  keep(byId("services"), services, makeService, updateService);
  keep(byId("nodes"), sorted(cluster.nodes), makeNode, updateNode);
  drawTotals();
}

function drawTotals() {
  const totals = { opened: 0, retried: 0, refused: 0 };
  for (const counters of Object.values(cluster.counters))
    for (const name of Object.keys(totals)) totals[name] += counters[name];
  for (const [name, total] of Object.entries(totals)) say(byId(name), count(total));
}

function makeService(key) {
  return h("button", { type: "button", class: "service", "data-shows": `service:${key}` },
    h("span", { class: "name" }), h("span", { class: "kind" }), h("span", { class: "where" }),
    plot(), h("span", { class: "count" }));
}

function updateService(button, service, key) {
  const [name, kind, where, graph, counted] = button.children;
  const counters = cluster.counters[key] ?? { opened: 0, retried: 0, refused: 0 };
  const endpoints = Object.values(service.endpoints);
  const used = endpoints.filter((endpoint) => endpoint.state === "used").length;
  say(name, service.namespace === "default" ? service.name : key);
  say(kind, service.type);
  say(where, `${service.addresses[0] ?? ""} ${service.ports.join(", ")}`.trim());
  say(counted, `${used} of ${endpoints.length} used · ${count(counters.opened)} conn.`
    + (counters.retried ? ` · ${count(counters.retried)} retried` : "")
    + (counters.refused ? ` · ${count(counters.refused)} refused` : ""));
  drawPlot(graph, rates.get(key) ?? []);
  button.classList.toggle("system", service.isSystem);
  button.classList.toggle("problem", endpoints.length > 0 && used === 0);
  set(button, "aria-pressed", chosen === `service:${key}`);
  set(button, "aria-label", `Service ${key}, ${service.type}, ${used} of ${endpoints.length} endpoints used`);
}

function makeNode(key) {
  return h("section", { class: "node", "aria-label": `Node ${key}` },
    h("header", {}, h("h3", {}, key), h("span", { class: "zone" }), h("span", { class: "agent" })),
    h("div", { class: "pods" }));
}

function updateNode(section, node, key) {
  const [header, pods] = section.children;
  const [, zone, agent] = header.children;
  say(zone, node.zone);
  say(agent, node.agentAnswers ? "agent" : "agent silent");
  agent.classList.toggle("silent", !node.agentAnswers);
  set(agent, "title", node.agentAnswers ? "userspace-proxy runs here" : "this node's agent does not answer");
  const here = sorted(cluster.pods).filter(([, pod]) => pod.node === key);
  keep(pods, here, makePod, updatePod);
  section.classList.toggle("crowded", here.length > 12);
}

function makePod(key) {
  return h("button", { type: "button", class: "pod", "data-shows": `pod:${key}` },
    h("i", { class: "mark" }), h("span", { class: "name" }), h("span", { class: "count" }), h("span", { class: "says" }));
}

function updatePod(button, pod, key) {
  const [mark, name, counted, says] = button.children;
  const carried = carriedBy(key);
  mark.className = `mark ${pod.mark}`;
  button.className = `pod ${pod.mark}`;
  say(name, shortName(pod));
  say(counted, carried.opened ? count(carried.opened) : "");
  const app = shortName(pod) === pod.name ? "" : `${pod.app} · `;
  say(says, app + pod.says.split(":")[0] + (pod.restarts && pod.mark === "ready" ? ` · ↻ ${pod.restarts}` : ""));
  set(button, "title", `${key}: ${pod.says}`);
  set(button, "aria-pressed", chosen === `pod:${key}`);
  set(button, "aria-label", `Pod ${key}, ${pod.says}, started again ${pod.restarts} times, ${carried.opened} connections`);
}
